//! The shape of a language model from the metadata of a GGUF file.

use crate::frequencies::{Stretch, frequencies};
use crate::gguf::GgufFile;
use crate::shape::{Activation, Biases, LayerAttention, LlmShape, MAX_HEAD_DIM, MAX_LAYERS, Position};
use crate::{EncoderError, LlmArchitecture};

/// Metadata keys of one architecture.
struct Keys<'a> {
    file: &'a GgufFile,
    architecture: LlmArchitecture,
}

/// Reads and checks the metadata.
pub fn shape(file: &GgufFile) -> Result<LlmShape, EncoderError> {
    use LlmArchitecture::{Gemma2, Gemma3, Llama, Qwen2, Qwen3};
    let name = file.text("general.architecture")?;
    let architecture = LlmArchitecture::from_gguf_name(&name).ok_or_else(|| EncoderError::Architecture {
        path: file.path().to_owned(),
        architecture: name,
        known: "llama (Mistral too), qwen2, qwen3, gemma2, gemma3".to_owned(),
    })?;
    let keys = Keys { file, architecture };
    let hidden_size = keys.positive("embedding_length")?;
    let num_heads = keys.positive("attention.head_count")?;
    let head_dim = match keys.count("attention.key_length")? {
        Some(head_dim) => head_dim,
        None => hidden_size / num_heads,
    };
    let num_kv_heads = keys.count("attention.head_count_kv")?.unwrap_or(num_heads);
    keys.check_heads(num_heads, num_kv_heads, head_dim)?;
    let embedding = file
        .shape("token_embd.weight")
        .ok_or_else(|| EncoderError::MissingTensor {
            path: file.path().to_owned(),
            tensor: "token_embd.weight".into(),
        })?;
    let is_gemma = matches!(architecture, Gemma2 | Gemma3);
    let has_bias = |part: &str| file.has_tensor(&format!("blk.0.{part}.bias"));
    let num_layers = keys.positive("block_count")?;
    if num_layers > MAX_LAYERS {
        return Err(keys.bad("block_count", format!("up to {MAX_LAYERS}, not {num_layers}")));
    }
    Ok(LlmShape {
        architecture,
        vocab_size: embedding.first().copied().unwrap_or_default(),
        hidden_size,
        num_heads,
        num_kv_heads,
        head_dim,
        mlp_size: keys.positive("feed_forward_length")?,
        norm_eps: keys.required_float("attention.layer_norm_rms_epsilon")?,
        activation: if is_gemma {
            Activation::GeluTanh
        } else {
            Activation::Silu
        },
        gated: true,
        embedding_scale: if is_gemma { (hidden_size as f32).sqrt() } else { 1.0 },
        score_scale: score_width(architecture, num_layers, hidden_size, num_heads, head_dim)
            .sqrt()
            .recip(),
        score_cap: match architecture {
            Gemma2 => Some(keys.float("attn_logit_softcapping")?.unwrap_or(50.0)),
            _ => None,
        },
        qk_norm: matches!(architecture, Qwen3 | Gemma3),
        output_norms: is_gemma,
        biases: Biases {
            query_key_value: architecture == Qwen2 || (matches!(architecture, Llama | Qwen3) && has_bias("attn_q")),
            attention_output: has_bias("attn_output"),
            mlp: architecture == Llama && has_bias("ffn_up"),
        },
        position: Position::Rotary,
        layers: keys.layers(num_layers, head_dim)?,
    })
}

/// What the scores are divided by the root of. The files don't say it: the largest Gemmas take the width that a head
/// would have without `head_dim`, as llama.cpp knows by their number of layers.
fn score_width(
    architecture: LlmArchitecture,
    num_layers: usize,
    hidden_size: usize,
    num_heads: usize,
    head_dim: usize,
) -> f32 {
    let is_largest = match architecture {
        LlmArchitecture::Gemma2 => num_layers == 46,
        LlmArchitecture::Gemma3 => num_layers == 62,
        _ => false,
    };
    if is_largest {
        (hidden_size / num_heads) as f32
    } else {
        head_dim as f32
    }
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name())
    }

    fn count(&self, name: &str) -> Result<Option<usize>, EncoderError> {
        self.file.find_count(&self.key(name))
    }

    fn float(&self, name: &str) -> Result<Option<f32>, EncoderError> {
        let value = self.file.find_float(&self.key(name))?;
        match value {
            Some(value) if !(value.is_finite() && value > 0.0) => {
                Err(self.bad(name, format!("a number above 0, not {value}")))
            }
            value => Ok(value),
        }
    }

    fn required_float(&self, name: &str) -> Result<f32, EncoderError> {
        self.float(name)?.ok_or_else(|| EncoderError::MissingKey {
            path: self.file.path().to_owned(),
            key: self.key(name),
        })
    }

    fn positive(&self, name: &str) -> Result<usize, EncoderError> {
        let value = self.file.count(&self.key(name))?;
        if value > 0 {
            return Ok(value);
        }
        Err(self.bad(name, "positive, not 0"))
    }

    fn bad(&self, name: &str, expected: impl Into<String>) -> EncoderError {
        EncoderError::BadKey {
            path: self.file.path().to_owned(),
            key: self.key(name),
            expected: expected.into(),
        }
    }

    fn check_heads(&self, num_heads: usize, num_kv_heads: usize, head_dim: usize) -> Result<(), EncoderError> {
        if num_kv_heads == 0 || !num_heads.is_multiple_of(num_kv_heads) {
            let expected = format!("a divisor of its {num_heads} query heads, not {num_kv_heads}");
            return Err(self.bad("attention.head_count_kv", expected));
        }
        if !head_dim.is_multiple_of(2) || head_dim == 0 || head_dim > MAX_HEAD_DIM {
            let expected = format!("even and up to {MAX_HEAD_DIM}, not {head_dim}");
            return Err(self.bad("attention.key_length", expected));
        }
        for name in ["attention.value_length", "rope.dimension_count"] {
            if self.count(name)?.is_some_and(|dim| dim != head_dim) {
                return Err(self.bad(name, format!("{head_dim}, the key length")));
            }
        }
        Ok(())
    }

    /// Gemma 3 alternates five layers that see a window and one that sees all, Gemma 2 one and one. Neither that
    /// pattern nor the base of the windows' rotation is in the files that exist, so both fall back on the published
    /// constants.
    fn layers(&self, num_layers: usize, head_dim: usize) -> Result<Vec<LayerAttention>, EncoderError> {
        use LlmArchitecture::{Gemma2, Gemma3, Llama};
        let base = self.float("rope.freq_base")?;
        let base = base.unwrap_or(if self.architecture == Gemma3 { 1e6 } else { 1e4 });
        let global = LayerAttention {
            frequencies: self.frequencies(base, head_dim)?,
            window: None,
        };
        let window = match self.architecture {
            Gemma2 | Gemma3 => Some(self.positive("attention.sliding_window")?),
            Llama => self.count("attention.sliding_window")?,
            _ => None,
        };
        let Some(window) = window else {
            return Ok(vec![global; num_layers]);
        };
        let local_base = self.float("rope.freq_base_swa")?.unwrap_or(1e4);
        let local = LayerAttention {
            frequencies: match self.architecture {
                Gemma3 => frequencies(local_base, head_dim, Stretch::None),
                _ => global.frequencies.clone(),
            },
            window: Some(window),
        };
        let pattern = self.count("attention.sliding_window_pattern")?;
        let pattern = match self.architecture {
            Gemma2 => pattern.unwrap_or(2),
            Gemma3 => pattern.unwrap_or(6),
            _ => usize::MAX,
        };
        let is_global = |layer: usize| (layer + 1).is_multiple_of(pattern);
        Ok((0..num_layers)
            .map(|layer| {
                if is_global(layer) {
                    global.clone()
                } else {
                    local.clone()
                }
            })
            .collect())
    }

    /// Llama 3.1's stretched frequencies come as the factors that divide the plain ones.
    fn frequencies(&self, base: f32, head_dim: usize) -> Result<Vec<f32>, EncoderError> {
        let kind = self.file.find_text(&self.key("rope.scaling.type"))?;
        let stretch = match kind.as_deref() {
            None | Some("none") => Stretch::None,
            Some("linear") => Stretch::Linear {
                factor: self.required_float("rope.scaling.factor")?,
            },
            Some(kind) => {
                let expected = format!("none, linear or absent: rotary scaling `{kind}` is not supported");
                return Err(self.bad("rope.scaling.type", expected));
            }
        };
        let plain = frequencies(base, head_dim, stretch);
        let Some(shape) = self.file.shape("rope_freqs.weight") else {
            return Ok(plain);
        };
        if shape != [head_dim / 2] {
            return Err(EncoderError::TensorShape {
                path: self.file.path().to_owned(),
                tensor: "rope_freqs.weight".into(),
                expected: vec![head_dim / 2],
                found: shape,
            });
        }
        let factors = self.file.tensor("rope_freqs.weight")?;
        Ok(plain
            .iter()
            .zip(factors)
            .map(|(frequency, factor)| frequency / factor)
            .collect())
    }
}
