//! What files call the tensors of a language model.

use crate::{LlmArchitecture, LlmShape};

/// A tensor of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Norm before the attention.
    AttentionNorm,
    /// To the queries.
    Query,
    /// To the keys.
    Key,
    /// To the values.
    Value,
    /// From the mixed values back to the states.
    AttentionOutput,
    /// Norm of each query head.
    QueryNorm,
    /// Norm of each key head.
    KeyNorm,
    /// Norm after the attention.
    AttentionOutputNorm,
    /// Norm before the feed-forward part.
    MlpNorm,
    /// The gated branch.
    Gate,
    /// The linear branch.
    Up,
    /// Back to the states.
    Down,
    /// Norm after the feed-forward part.
    MlpOutputNorm,
    /// Bias of the scores by distance.
    RelativeBias,
}

/// How a file names its tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    /// llama.cpp's names.
    Gguf,
    /// transformers' names behind a prefix, such as `model.` or `language_model.model.`.
    HuggingFace(String),
}

/// Stands for a part that a family does not have; shapes never ask for it.
const ABSENT: &str = "absent";

/// Prefixes that published folders put before the names of the language part.
const PREFIXES: [&str; 5] = [
    "model.",
    "language_model.model.",
    "model.language_model.",
    "language_model.",
    "",
];

/// Beginnings of names that belong to parts that prompts don't need: output heads, decoders, everything that sees.
const UNNEEDED: [&str; 21] = [
    "lm_head.",
    "language_model.lm_head.",
    "score.",
    "decoder.",
    "encoder.embed_tokens.",
    "visual.",
    "model.visual.",
    "vision_tower.",
    "model.vision_tower.",
    "vision_model.",
    "model.vision_model.",
    "vision_encoder.",
    "patch_merger.",
    "model.patch_merger.",
    "multi_modal_projector.",
    "model.multi_modal_projector.",
    "model.mm_projector.",
    "image_newline",
    "model.image_newline",
    "output.weight",
    "rope_freqs.weight",
];

impl Naming {
    /// The naming of a folder in which `has` says what tensors there are. T5's encoder stands behind `encoder.`.
    pub fn of_folder(architecture: LlmArchitecture, has: impl Fn(&str) -> bool) -> Self {
        if architecture == LlmArchitecture::T5 {
            return Self::HuggingFace("encoder.".to_owned());
        }
        let found = PREFIXES
            .into_iter()
            .find(|prefix| has(&format!("{prefix}embed_tokens.weight")));
        Self::HuggingFace(found.unwrap_or(PREFIXES[0]).to_owned())
    }

    /// The embedding.
    pub fn embedding(&self, shape: &LlmShape) -> String {
        match self {
            Self::Gguf => "token_embd.weight".to_owned(),
            Self::HuggingFace(_) if shape.architecture == LlmArchitecture::T5 => "shared.weight".to_owned(),
            Self::HuggingFace(prefix) => format!("{prefix}embed_tokens.weight"),
        }
    }

    /// The norm after the last layer.
    pub fn final_norm(&self, shape: &LlmShape) -> String {
        match self {
            Self::Gguf => "output_norm.weight".to_owned(),
            Self::HuggingFace(prefix) if shape.architecture == LlmArchitecture::T5 => {
                format!("{prefix}final_layer_norm.weight")
            }
            Self::HuggingFace(prefix) => format!("{prefix}norm.weight"),
        }
    }

    /// A tensor of a layer, without `.weight` or `.bias`.
    pub fn layer_part(&self, shape: &LlmShape, layer: usize, part: Part) -> String {
        match self {
            Self::Gguf => format!("blk.{layer}.{}", gguf_name(part)),
            Self::HuggingFace(prefix) if shape.architecture == LlmArchitecture::T5 => {
                format!("{prefix}block.{layer}.layer.{}", t5_name(part, shape.gated))
            }
            Self::HuggingFace(prefix) => format!("{prefix}layers.{layer}.{}", decoder_name(part, shape.output_norms)),
        }
    }

    /// Whether a tensor that was not read is known to be needless when only the first `depth` layers are computed.
    pub fn is_unneeded(&self, shape: &LlmShape, depth: usize, name: &str) -> bool {
        let layers = match self {
            Self::Gguf => "blk.".to_owned(),
            Self::HuggingFace(prefix) if shape.architecture == LlmArchitecture::T5 => format!("{prefix}block."),
            Self::HuggingFace(prefix) => format!("{prefix}layers."),
        };
        let index = name.strip_prefix(&layers).and_then(|rest| rest.split_once('.'));
        let index = index.and_then(|(index, _)| index.parse().ok());
        let later = index.is_some_and(|index: usize| (depth..shape.num_layers()).contains(&index));
        later
            || name.ends_with("rotary_emb.inv_freq")
            || name == self.final_norm(shape)
            || UNNEEDED.iter().any(|unneeded| name.starts_with(unneeded))
    }
}

fn gguf_name(part: Part) -> &'static str {
    match part {
        Part::AttentionNorm => "attn_norm",
        Part::Query => "attn_q",
        Part::Key => "attn_k",
        Part::Value => "attn_v",
        Part::AttentionOutput => "attn_output",
        Part::QueryNorm => "attn_q_norm",
        Part::KeyNorm => "attn_k_norm",
        Part::AttentionOutputNorm => "post_attention_norm",
        Part::MlpNorm => "ffn_norm",
        Part::Gate => "ffn_gate",
        Part::Up => "ffn_up",
        Part::Down => "ffn_down",
        Part::MlpOutputNorm => "post_ffw_norm",
        Part::RelativeBias => ABSENT,
    }
}

/// With output norms, `post_attention_layernorm` follows the attention; without, it precedes the feed-forward part.
fn decoder_name(part: Part, output_norms: bool) -> &'static str {
    match part {
        Part::AttentionNorm => "input_layernorm",
        Part::Query => "self_attn.q_proj",
        Part::Key => "self_attn.k_proj",
        Part::Value => "self_attn.v_proj",
        Part::AttentionOutput => "self_attn.o_proj",
        Part::QueryNorm => "self_attn.q_norm",
        Part::KeyNorm => "self_attn.k_norm",
        Part::MlpNorm if output_norms => "pre_feedforward_layernorm",
        Part::MlpNorm | Part::AttentionOutputNorm => "post_attention_layernorm",
        Part::Gate => "mlp.gate_proj",
        Part::Up => "mlp.up_proj",
        Part::Down => "mlp.down_proj",
        Part::MlpOutputNorm => "post_feedforward_layernorm",
        Part::RelativeBias => ABSENT,
    }
}

fn t5_name(part: Part, gated: bool) -> &'static str {
    match part {
        Part::AttentionNorm => "0.layer_norm",
        Part::Query => "0.SelfAttention.q",
        Part::Key => "0.SelfAttention.k",
        Part::Value => "0.SelfAttention.v",
        Part::AttentionOutput => "0.SelfAttention.o",
        Part::MlpNorm => "1.layer_norm",
        Part::Gate => "1.DenseReluDense.wi_0",
        Part::Up if gated => "1.DenseReluDense.wi_1",
        Part::Up => "1.DenseReluDense.wi",
        Part::Down => "1.DenseReluDense.wo",
        Part::RelativeBias => "0.SelfAttention.relative_attention_bias",
        Part::QueryNorm | Part::KeyNorm | Part::AttentionOutputNorm | Part::MlpOutputNorm => ABSENT,
    }
}
