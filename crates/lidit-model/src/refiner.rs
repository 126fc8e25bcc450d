//! The token refiner: one LLM's states, freed from the causal mask.

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};
use lidit_kernels::{VisibleKeys, gated_residual};

use crate::attention::SelfAttention;
use crate::config::{ModelConfig, RefinerGate};
use crate::mlp::Mlp;
use crate::modulation::Gate;
use crate::norm::layer_norm;

/// Some transformer blocks over the states of one LLM (section 2). With adaptive gates the identity at the start.
///
/// Full or causal is the caller's mask. Open, and chosen here: width of the backbone, norms without gain, the
/// backbone's GELU and QK-norm, no position code (the LLM's states carry it).
#[derive(Module, Debug)]
pub struct TokenRefiner {
    /// 0 to 3 blocks; the paper's choice is 2.
    pub blocks: Vec<RefinerBlock>,
}

/// `x + g_a(c) * SA(norm x)`, then `x + g_f(c) * FFN(norm x)`.
#[derive(Module, Debug)]
pub struct RefinerBlock {
    /// Among the tokens of the prompt.
    pub attention: SelfAttention,
    /// Feed-forward.
    pub mlp: Mlp,
    /// Absent for plain residual sublayers.
    pub attention_gate: Option<Gate>,
    /// Absent for plain residual sublayers.
    pub mlp_gate: Option<Gate>,
}

impl TokenRefiner {
    /// An empty refiner; [`initialize`](crate::initialize()) fills it.
    pub fn zeros(config: &ModelConfig, device: &Device) -> Self {
        Self {
            blocks: (0..config.refiner.blocks)
                .map(|_| RefinerBlock::zeros(config, device))
                .collect(),
        }
    }

    /// `x` `[B, T, D]` and `conditioning` `[B, D]` to `[B, T, D]`, f32.
    pub fn forward(&self, x: Tensor<3>, conditioning: &Tensor<2>, mask: &VisibleKeys) -> Tensor<3> {
        self.blocks
            .iter()
            .fold(x, |x, block| block.forward(x, conditioning, mask))
    }
}

impl RefinerBlock {
    /// An empty block; [`initialize`](crate::initialize()) fills it.
    pub fn zeros(config: &ModelConfig, device: &Device) -> Self {
        let d = config.hidden_size;
        let gate = || match config.refiner.gate {
            RefinerGate::Adaptive => Some(Gate::zeros(d, device)),
            RefinerGate::None => None,
        };
        Self {
            attention: SelfAttention::zeros(d, config.num_heads, device),
            mlp: Mlp::zeros(d, config.mlp_ratio, device),
            attention_gate: gate(),
            mlp_gate: gate(),
        }
    }

    /// `x` `[B, T, D]` and `conditioning` `[B, D]` to `[B, T, D]`, f32.
    pub fn forward(&self, x: Tensor<3>, conditioning: &Tensor<2>, mask: &VisibleKeys) -> Tensor<3> {
        let y = self.attention.forward(layer_norm(x.clone()), Some(mask));
        let x = gated(x, y, self.attention_gate.as_ref(), conditioning);
        let y = self.mlp.forward(layer_norm(x.clone()));
        gated(x, y, self.mlp_gate.as_ref(), conditioning)
    }
}

fn gated(x: Tensor<3>, y: Tensor<3>, gate: Option<&Gate>, conditioning: &Tensor<2>) -> Tensor<3> {
    let y = y.cast(FloatDType::F32);
    match gate {
        Some(gate) => gated_residual(x, y, gate.forward(conditioning.clone())),
        None => x + y,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Bool, TensorData};

    use super::*;
    use crate::config::tests::tiny;
    use crate::config::{RefinerAttention, RefinerConfig};
    use crate::golden::Golden;

    fn refiner(golden: &Golden, blocks: usize, gate: RefinerGate) -> TokenRefiner {
        let refiner = RefinerConfig {
            blocks,
            attention: RefinerAttention::Full,
            gate,
        };
        golden.load(TokenRefiner::zeros(&ModelConfig { refiner, ..tiny() }, &Device::flex()))
    }

    #[test]
    fn refiners_match_pytorch() {
        for (name, blocks, gate) in [
            ("refiner_full", 2, RefinerGate::Adaptive),
            ("refiner_causal", 2, RefinerGate::Adaptive),
            ("refiner_plain", 1, RefinerGate::None),
        ] {
            let golden = Golden::open(name);
            let valid = golden.mask("in.valid");
            let mask = match name {
                "refiner_causal" => VisibleKeys::causal_keys(valid),
                _ => VisibleKeys::keys(valid),
            };
            let refiner = refiner(&golden, blocks, gate);
            golden.check(
                "out.y",
                refiner.forward(golden.tensor("in.x"), &golden.tensor("in.c"), &mask),
                1e-5,
            );
        }
    }

    /// How far each of five tokens moves when the last one is changed.
    fn reach_of_the_last_token(mask: impl Fn(Tensor<2, Bool>) -> VisibleKeys) -> Vec<f32> {
        let golden = Golden::open("refiner_full");
        let refiner = refiner(&golden, 2, RefinerGate::Adaptive);
        let x = golden.tensor::<3>("in.x").slice_dim(0, 0..1);
        let changed = x.clone().slice_fill([0..1, 4..5, 0..8], 3.0);
        let c = golden.tensor::<2>("in.c").slice_dim(0, 0..1);
        let valid = Tensor::from_data(TensorData::new(vec![true; 5], [1, 5]), &Device::flex());
        let mask = mask(valid);
        let difference = refiner.forward(changed, &c, &mask) - refiner.forward(x, &c, &mask);
        difference
            .abs()
            .max_dim(2)
            .into_data()
            .try_into_vec()
            .unwrap_or_default()
    }

    #[test]
    fn a_late_token_reaches_an_early_one_unless_the_mask_is_causal() {
        let full = reach_of_the_last_token(VisibleKeys::keys);
        assert!(full.iter().all(|&moved| moved > 1e-2), "full attention: {full:?}");
        let causal = reach_of_the_last_token(VisibleKeys::causal_keys);
        assert_eq!(causal[..4].to_vec(), vec![0.0; 4], "causal attention");
        assert!(causal[4] > 1e-2);
    }
}
