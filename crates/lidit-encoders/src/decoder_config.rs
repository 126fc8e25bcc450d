//! The shape of a decoder: one set of numbers that says how Llama and Gemma 3 differ.

use serde::{Deserialize, Serialize};

use crate::EncoderError;
use crate::gguf::GgufFile;

/// The decoder families that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LlmArchitecture {
    /// Llama and its likes (`SmolLM2`).
    Llama,
    /// Gemma 3, text part.
    Gemma3,
}

/// Everything about a decoder except its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
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
    /// The gate of the feed-forward part.
    pub activation: Activation,
    /// Factor on the embedding rows.
    pub embedding_scale: f32,
    /// Factor on the attention scores.
    pub score_scale: f32,
    /// `RMSNorm` of each query and key head before its rotation.
    pub qk_norm: bool,
    /// `RMSNorm` of both sublayers' outputs, beside that of their inputs.
    pub output_norms: bool,
    /// Position and reach of each layer's attention.
    pub layers: Vec<LayerAttention>,
}

/// What sets one layer's attention apart from another's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerAttention {
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// A token sees itself and `window - 1` before it; all before it if none.
    pub window: Option<usize>,
}

/// The gate of a gated linear unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
}

impl LlmArchitecture {
    /// The name that GGUF files and fingerprints use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Gemma3 => "gemma3",
        }
    }

    fn from_gguf(file: &GgufFile) -> Result<Self, EncoderError> {
        let name = file.text("general.architecture")?;
        let all = [Self::Llama, Self::Gemma3];
        let found = all.into_iter().find(|architecture| architecture.name() == name);
        found.ok_or_else(|| EncoderError::Architecture {
            path: file.path().to_owned(),
            architecture: name,
        })
    }
}

impl DecoderConfig {
    /// Reads the metadata of a GGUF file.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, EncoderError> {
        let architecture = LlmArchitecture::from_gguf(file)?;
        let key = |name: &str| format!("{}.{name}", architecture.name());
        refuse_rope_scaling(file, &key("rope.scaling.type"))?;
        let hidden_size = positive(file, &key("embedding_length"))?;
        let num_heads = positive(file, &key("attention.head_count"))?;
        let head_dim = match file.find_count(&key("attention.key_length"))? {
            Some(head_dim) => head_dim,
            None => hidden_size / num_heads,
        };
        let embedding = file.shape("token_embd.weight")?;
        let config = Self {
            architecture,
            vocab_size: embedding[0],
            hidden_size,
            num_heads,
            num_kv_heads: positive(file, &key("attention.head_count_kv"))?,
            head_dim,
            mlp_size: positive(file, &key("feed_forward_length"))?,
            norm_eps: file.float(&key("attention.layer_norm_rms_epsilon"))?,
            activation: match architecture {
                LlmArchitecture::Llama => Activation::Silu,
                LlmArchitecture::Gemma3 => Activation::GeluTanh,
            },
            embedding_scale: match architecture {
                LlmArchitecture::Llama => 1.0,
                LlmArchitecture::Gemma3 => (hidden_size as f32).sqrt(),
            },
            score_scale: (head_dim as f32).sqrt().recip(),
            qk_norm: architecture == LlmArchitecture::Gemma3,
            output_norms: architecture == LlmArchitecture::Gemma3,
            layers: layers(file, architecture)?,
        };
        config.check(file)?;
        Ok(config)
    }

    /// Number of decoder layers.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Hugging Face's index into `hidden_states` as a count of layers: 0 is the embedding, -1 the last.
    pub fn resolve_layer(&self, layer: i32) -> Result<usize, EncoderError> {
        let num_states = self.num_layers() as i32 + 1;
        let index = if layer < 0 { layer + num_states } else { layer };
        if (0..num_states).contains(&index) {
            Ok(index as usize)
        } else {
            Err(EncoderError::Layer {
                layer,
                num_layers: self.num_layers(),
            })
        }
    }

    fn check(&self, file: &GgufFile) -> Result<(), EncoderError> {
        let key = |name: &str| format!("{}.{name}", self.architecture.name());
        let wrong = |name: &str, expected: String| EncoderError::BadKey {
            path: file.path().to_owned(),
            key: key(name),
            expected,
        };
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            let expected = format!(
                "a divisor of its {} query heads, not {}",
                self.num_heads, self.num_kv_heads
            );
            return Err(wrong("attention.head_count_kv", expected));
        }
        if !self.head_dim.is_multiple_of(2) || self.head_dim == 0 {
            return Err(wrong("attention.key_length", format!("even, not {}", self.head_dim)));
        }
        let value_dim = file.find_count(&key("attention.value_length"))?;
        if value_dim.is_some_and(|dim| dim != self.head_dim) {
            return Err(wrong(
                "attention.value_length",
                format!("{}, the key length", self.head_dim),
            ));
        }
        let rotated = file.find_count(&key("rope.dimension_count"))?;
        if rotated.is_some_and(|dim| dim != self.head_dim) {
            return Err(wrong(
                "rope.dimension_count",
                format!("{}, the key length", self.head_dim),
            ));
        }
        Ok(())
    }
}

/// Gemma 3 alternates five layers that see a window and one that sees all. Neither that pattern nor
/// the window's rotary base is in the files that exist, so both fall back on the published constants.
fn layers(file: &GgufFile, architecture: LlmArchitecture) -> Result<Vec<LayerAttention>, EncoderError> {
    let key = |name: &str| format!("{}.{name}", architecture.name());
    let num_layers = positive(file, &key("block_count"))?;
    let base = file.find_float(&key("rope.freq_base"))?;
    let global = LayerAttention {
        rope_base: base.unwrap_or(match architecture {
            LlmArchitecture::Llama => 1e4,
            LlmArchitecture::Gemma3 => 1e6,
        }),
        window: None,
    };
    if architecture == LlmArchitecture::Llama {
        return Ok(vec![global; num_layers]);
    }
    let local = LayerAttention {
        rope_base: file.find_float(&key("rope.freq_base_swa"))?.unwrap_or(1e4),
        window: Some(positive(file, &key("attention.sliding_window"))?),
    };
    let pattern = file.find_count(&key("attention.sliding_window_pattern"))?.unwrap_or(6);
    let is_global = |layer: usize| (layer + 1).is_multiple_of(pattern);
    Ok((0..num_layers)
        .map(|layer| if is_global(layer) { global } else { local })
        .collect())
}

fn positive(file: &GgufFile, key: &str) -> Result<usize, EncoderError> {
    let value = file.count(key)?;
    if value > 0 {
        return Ok(value);
    }
    Err(EncoderError::BadKey {
        path: file.path().to_owned(),
        key: key.to_owned(),
        expected: "positive, not 0".into(),
    })
}

/// Stretched rotary positions would give wrong states in silence.
fn refuse_rope_scaling(file: &GgufFile, key: &str) -> Result<(), EncoderError> {
    match file.find_text(key)? {
        Some(kind) if kind != "none" => Err(EncoderError::BadKey {
            path: file.path().to_owned(),
            key: key.to_owned(),
            expected: format!("none or absent: rotary scaling `{kind}` is not supported"),
        }),
        _ => Ok(()),
    }
}
