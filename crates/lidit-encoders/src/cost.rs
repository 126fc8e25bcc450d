//! The price of a frozen LLM: parameters and arithmetic, from its shape alone.

use crate::LlmShape;

/// What computing states up to a layer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LlmCost {
    /// Rows times width of the embedding, which stays quantised on the host.
    pub embedding_parameters: u64,
    /// Matrices and gains of the layers that are computed, resident on the device.
    pub layer_parameters: u64,
}

impl LlmCost {
    /// The price of the first `depth` layers.
    pub fn new(config: &LlmShape, depth: usize) -> Self {
        let [d, head] = [config.hidden_size as u64, config.head_dim as u64];
        let norms = if config.output_norms { 4 * d } else { 2 * d };
        let head_norms = if config.qk_norm { 2 * head } else { 0 };
        let final_norm = if depth == config.num_layers() { d } else { 0 };
        Self {
            embedding_parameters: config.vocab_size as u64 * d,
            layer_parameters: depth as u64 * (matrices(config) + norms + head_norms) + final_norm,
        }
    }
}

/// Floating-point operations for the last `num_new` of a prompt's `num_tokens` tokens through `depth` layers: two for
/// each multiply-add of the matrix products, scores and mixing included, as computed (the mask saves nothing).
pub fn flops(config: &LlmShape, depth: usize, num_new: usize, num_tokens: usize) -> u64 {
    let (new, all) = (num_new as u64, num_tokens as u64);
    let attention = 2 * new * all * (config.num_heads * config.head_dim) as u64;
    2 * depth as u64 * (new * matrices(config) + attention)
}

/// Weights in one layer's matrices.
fn matrices(config: &LlmShape) -> u64 {
    let heads = 2 * config.num_heads + 2 * config.num_kv_heads;
    let mlp = if config.gated { 3 } else { 2 };
    (config.hidden_size * (heads * config.head_dim + mlp * config.mlp_size)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Biases, LayerAttention, LlmArchitecture, Position};

    #[test]
    fn smollm2_has_its_published_parameters() {
        let layer = LayerAttention {
            frequencies: Vec::new(),
            window: None,
        };
        let config = LlmShape {
            architecture: LlmArchitecture::Llama,
            vocab_size: 49_152,
            hidden_size: 576,
            num_heads: 9,
            num_kv_heads: 3,
            head_dim: 64,
            mlp_size: 1536,
            norm_eps: 1e-5,
            activation: Activation::Silu,
            gated: true,
            embedding_scale: 1.0,
            score_scale: 0.125,
            score_cap: None,
            qk_norm: false,
            output_norms: false,
            biases: Biases::default(),
            position: Position::Rotary,
            layers: vec![layer; 30],
        };
        let cost = LlmCost::new(&config, 30);
        // 134,515,008 is the count that Hugging Face shows for SmolLM2-135M.
        assert_eq!(cost.embedding_parameters + cost.layer_parameters, 134_515_008);
        let one_token = flops(&config, 30, 1, 1);
        assert!((2 * 106_168_320..2 * 106_300_000).contains(&one_token), "{one_token}");
    }
}
