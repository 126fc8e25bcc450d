//! The token refiner: one LLM's states, freed from the causal mask.

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};

use crate::attention::{AttentionMask, SelfAttention};
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
    /// An empty refiner; [`initialize`](crate::initialize) fills it.
    pub fn zeros(config: &ModelConfig, device: &Device) -> Self {
        Self {
            blocks: (0..config.refiner.blocks)
                .map(|_| RefinerBlock::zeros(config, device))
                .collect(),
        }
    }

    /// `x` `[B, T, D]` and `conditioning` `[B, D]` to `[B, T, D]`, f32.
    pub fn forward(&self, x: Tensor<3>, conditioning: &Tensor<2>, mask: &AttentionMask) -> Tensor<3> {
        self.blocks
            .iter()
            .fold(x, |x, block| block.forward(x, conditioning, mask))
    }
}

impl RefinerBlock {
    /// An empty block; [`initialize`](crate::initialize) fills it.
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
    pub fn forward(&self, x: Tensor<3>, conditioning: &Tensor<2>, mask: &AttentionMask) -> Tensor<3> {
        let y = self.attention.forward(layer_norm(x.clone()), Some(mask));
        let x = x + gated(self.attention_gate.as_ref(), y, conditioning);
        let y = self.mlp.forward(layer_norm(x.clone()));
        x + gated(self.mlp_gate.as_ref(), y, conditioning)
    }
}

fn gated(gate: Option<&Gate>, y: Tensor<3>, conditioning: &Tensor<2>) -> Tensor<3> {
    let y = y.cast(FloatDType::F32);
    match gate {
        Some(gate) => y * gate.forward(conditioning.clone()),
        None => y,
    }
}
