//! What transformers takes for the keys that a `config.json` leaves out.

use crate::LlmArchitecture;

/// What a family's class in transformers takes for keys that are left out.
pub struct Defaults {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the states.
    pub hidden_size: usize,
    /// Layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; as many as query heads if none.
    pub num_kv_heads: Option<usize>,
    /// Width of a head; `hidden_size / num_heads` if none.
    pub head_dim: Option<usize>,
    /// Inner width of the feed-forward part.
    pub mlp_size: usize,
    /// Added to the mean square.
    pub norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// Tokens that a windowed layer sees.
    pub window: usize,
    /// Layers before the first with a window, where Qwen uses them.
    pub num_global: usize,
}

impl Defaults {
    /// Those of a family; Qwen2 has others where it can see.
    pub fn of(architecture: LlmArchitecture, can_see: bool) -> Self {
        use LlmArchitecture::{Gemma2, Gemma3, Llama, Mistral, Qwen2, Qwen3, T5};
        let llama = Self {
            vocab_size: 32_000,
            hidden_size: 4096,
            num_layers: 32,
            num_heads: 32,
            num_kv_heads: None,
            head_dim: None,
            mlp_size: 11_008,
            norm_eps: 1e-6,
            rope_base: 1e4,
            window: 4096,
            num_global: 28,
        };
        let qwen = Self {
            vocab_size: 151_936,
            num_kv_heads: Some(32),
            mlp_size: 22_016,
            ..llama
        };
        let gemma = Self {
            vocab_size: 256_000,
            hidden_size: 2304,
            num_layers: 26,
            num_heads: 8,
            num_kv_heads: Some(4),
            head_dim: Some(256),
            mlp_size: 9216,
            ..llama
        };
        match architecture {
            Llama => llama,
            Mistral => Self {
                num_kv_heads: Some(8),
                mlp_size: 14_336,
                ..llama
            },
            // Qwen2-VL and Qwen2.5-VL.
            Qwen2 if can_see => Self {
                vocab_size: 152_064,
                hidden_size: 8192,
                num_layers: 80,
                num_heads: 64,
                num_kv_heads: Some(8),
                mlp_size: 29_568,
                norm_eps: 1e-5,
                rope_base: 1e6,
                num_global: 80,
                ..qwen
            },
            Qwen2 => qwen,
            Qwen3 => Self {
                head_dim: Some(128),
                ..qwen
            },
            Gemma2 => gemma,
            Gemma3 => Self {
                vocab_size: 262_208,
                rope_base: 1e6,
                ..gemma
            },
            T5 => Self {
                vocab_size: 32_128,
                hidden_size: 512,
                num_layers: 6,
                num_heads: 8,
                head_dim: Some(64),
                mlp_size: 2048,
                ..llama
            },
        }
    }
}
