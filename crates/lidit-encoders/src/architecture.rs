//! The families of language models that can be loaded, and how files name them.

use serde::{Deserialize, Serialize};

/// A family of language models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LlmArchitecture {
    /// Llama 2 and 3 and their likes (`SmolLM2`).
    Llama,
    /// Llama with a sliding window.
    Mistral,
    /// Biases on queries, keys and values.
    Qwen2,
    /// A norm on each query and key head.
    Qwen3,
    /// Soft-capped scores, alternating windows.
    Gemma2,
    /// A norm on each query and key head, windows with a rotary base of their own. The text part.
    Gemma3,
    /// The encoder of T5: sees in both directions, relative positions.
    T5,
}

impl LlmArchitecture {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Gemma2,
        Self::Gemma3,
        Self::T5,
    ];

    /// The name in fingerprints and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3",
            Self::T5 => "t5",
        }
    }

    /// The family behind `general.architecture` of a GGUF file, in which Mistral is a llama.
    pub fn from_gguf_name(name: &str) -> Option<Self> {
        let known = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Gemma2, Self::Gemma3];
        known.into_iter().find(|architecture| architecture.name() == name)
    }

    /// The family behind `model_type` of a `config.json`: of a language model, or of one that can also see and keeps
    /// its language part's numbers on the top level.
    pub fn from_model_type(name: &str) -> Option<Self> {
        Some(match name {
            "llama" | "llava_llama" => Self::Llama,
            "mistral" | "llava_mistral" => Self::Mistral,
            "qwen2" | "qwen2_vl" | "qwen2_vl_text" | "qwen2_5_vl" | "qwen2_5_vl_text" | "llava_qwen" => Self::Qwen2,
            "qwen3" | "qwen3_vl_text" => Self::Qwen3,
            "gemma2" => Self::Gemma2,
            "gemma3_text" => Self::Gemma3,
            "t5" | "mt5" => Self::T5,
            _ => return None,
        })
    }

    /// Whether its files in the Hugging Face layout store the gains of norms as `w`, meaning `1 + w`.
    pub fn gains_are_offsets(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }
}
