//! The blocks at the lowest resolution, alike in encoder and decoder.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::attention::Attention;
use super::config::NetworkConfig;
use super::res_block::ResBlock;

/// A residual block, attention or none, and another residual block.
#[derive(Module, Debug)]
pub struct MidBlock {
    resnets: Vec<ResBlock>,
    /// One, or none.
    attentions: Vec<Attention>,
}

impl MidBlock {
    /// Blocks without weights.
    pub fn zeros(config: &NetworkConfig, device: &Device) -> Self {
        let channels = config.mid_channels();
        let attention = || Attention::zeros(channels, config, device);
        Self {
            resnets: vec![
                ResBlock::zeros(channels, channels, config, device),
                ResBlock::zeros(channels, channels, config, device),
            ],
            attentions: config.mid_block_add_attention.then(attention).into_iter().collect(),
        }
    }

    /// `[B, C, H, W]` to the same; f32.
    pub fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for (index, block) in self.resnets.iter().enumerate() {
            x = block.forward(x);
            // The only attention stands after the first block.
            if let Some(attention) = self.attentions.get(index) {
                x = attention.forward(x);
            }
        }
        x
    }
}
