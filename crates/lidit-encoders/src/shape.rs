//! The shape of a language model: one set of numbers that says how the families differ.

use crate::{EncoderError, LlmArchitecture};

/// Everything about a language model except its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct LlmShape {
    /// The family.
    pub architecture: LlmArchitecture,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the states.
    pub hidden_size: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; each serves `num_heads / num_kv_heads` query heads.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Inner width of the feed-forward part.
    pub mlp_size: usize,
    /// Added to the mean square in every `RMSNorm`.
    pub norm_eps: f32,
    /// Of the feed-forward part.
    pub activation: Activation,
    /// The feed-forward part has a gate beside its linear branch.
    pub gated: bool,
    /// Factor on the embedding rows.
    pub embedding_scale: f32,
    /// Factor on the attention scores.
    pub score_scale: f32,
    /// Scores `s` become `cap tanh(s / cap)`.
    pub score_cap: Option<f32>,
    /// `RMSNorm` of each query and key head before its rotation.
    pub qk_norm: bool,
    /// `RMSNorm` of both sublayers' outputs, beside that of their inputs.
    pub output_norms: bool,
    /// Which linear maps have a bias.
    pub biases: Biases,
    /// What tells tokens where they are.
    pub position: Position,
    /// Rotation and reach of each layer's attention.
    pub layers: Vec<LayerAttention>,
}

/// Which linear maps have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// The projections to queries, keys and values.
    pub query_key_value: bool,
    /// The projection of the attention's output.
    pub attention_output: bool,
    /// The maps of the feed-forward part.
    pub mlp: bool,
}

/// What tells tokens where they are, and whom they see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Rotated queries and keys; a token sees those before it.
    Rotary,
    /// A learnt bias on the scores by distance (T5); a token sees all.
    Relative {
        /// Rows of the bias table.
        num_buckets: usize,
        /// From this distance on all share a bucket.
        max_distance: usize,
    },
}

/// What sets one layer's attention apart from another's.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerAttention {
    /// Radians a position, for each pair of features; empty where positions are relative.
    pub frequencies: Vec<f32>,
    /// A token sees itself and `window - 1` before it; all before it if none.
    pub window: Option<usize>,
}

/// The nonlinearity of a feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// GELU by the error function.
    Gelu,
    /// `max(x, 0)`.
    Relu,
}

/// The most layers that are believed: what a config says is allocated for before a tensor is seen.
pub const MAX_LAYERS: usize = 1 << 12;
/// The widest head that is believed.
pub const MAX_HEAD_DIM: usize = 1 << 12;

impl LlmShape {
    /// Number of layers.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Whether a token sees only those before it, so that a common beginning of prompts has the same states in each.
    pub fn is_causal(&self) -> bool {
        self.position == Position::Rotary
    }

    /// Hugging Face's index into `hidden_states` as a count of layers: 0 is the embedding, -1 the last.
    pub fn resolve_layer(&self, layer: i32) -> Result<usize, EncoderError> {
        let num_states = self.num_layers() as i32 + 1;
        let index = if layer < 0 {
            layer.saturating_add(num_states)
        } else {
            layer
        };
        if (0..num_states).contains(&index) {
            Ok(index as usize)
        } else {
            Err(EncoderError::Layer {
                layer,
                num_layers: self.num_layers(),
            })
        }
    }
}
