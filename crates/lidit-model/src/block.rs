//! One block of the backbone.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use lidit_kernels::VisibleKeys;

use crate::attention::{CrossAttention, SelfAttention};
use crate::config::ModelConfig;
use crate::mlp::Mlp;
use crate::modulation::Modulation;

/// Self-attention, cross-attention to the text and feed-forward, each with shift and scale before and a gate after
/// (section 3). The identity at the start.
#[derive(Module, Debug)]
pub struct LiDitBlock {
    /// Among image tokens.
    pub self_attention: SelfAttention,
    /// From image tokens to text tokens.
    pub cross_attention: CrossAttention,
    /// Feed-forward.
    pub mlp: Mlp,
    /// Of the self-attention.
    pub self_attention_modulation: Modulation,
    /// Of the cross-attention.
    pub cross_attention_modulation: Modulation,
    /// Of the feed-forward.
    pub mlp_modulation: Modulation,
}

impl LiDitBlock {
    /// An empty block; [`initialize`](crate::initialize()) fills it.
    pub fn zeros(config: &ModelConfig, device: &Device) -> Self {
        let (d, heads) = (config.hidden_size, config.num_heads);
        Self {
            self_attention: SelfAttention::zeros(d, heads, device),
            cross_attention: CrossAttention::zeros(d, heads, device),
            mlp: Mlp::zeros(d, config.mlp_ratio, device),
            self_attention_modulation: Modulation::zeros(d, device),
            cross_attention_modulation: Modulation::zeros(d, device),
            mlp_modulation: Modulation::zeros(d, device),
        }
    }

    /// Image tokens `x` `[B, N, D]` through the block; `conditioning` `[B, D]`, `text` `[B, T, D]`.
    pub fn forward(
        &self,
        x: Tensor<3>,
        conditioning: Tensor<2>,
        text: Tensor<3>,
        text_mask: Option<&VisibleKeys>,
    ) -> Tensor<3> {
        let m = self.self_attention_modulation.forward(conditioning.clone());
        let y = self.self_attention.forward(m.before(x.clone()), None);
        let x = m.after(x, y);

        let m = self.cross_attention_modulation.forward(conditioning.clone());
        let y = self.cross_attention.forward(m.before(x.clone()), text, text_mask);
        let x = m.after(x, y);

        let m = self.mlp_modulation.forward(conditioning);
        let y = self.mlp.forward(m.before(x.clone()));
        m.after(x, y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::tiny;
    use crate::golden::Golden;

    #[test]
    fn block_matches_pytorch() {
        let golden = Golden::open("block");
        let block = golden.load(LiDitBlock::zeros(&tiny(), &Device::flex()));
        let mask = VisibleKeys::keys(golden.mask("in.valid"));
        let y = block.forward(
            golden.tensor("in.x"),
            golden.tensor("in.c"),
            golden.tensor("in.text"),
            Some(&mask),
        );
        golden.check("out.y", y, 1e-5);
    }
}
