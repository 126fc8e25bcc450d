//! The shape of a language model from its `config.json`.
//!
//! A key that is left out means what the family's class in transformers takes by default: published folders of models
//! that can also see rely on it.

use crate::config_json::ConfigJson;
use crate::hf_defaults::Defaults;
use crate::hf_rotation::rotation;
use crate::shape::{Activation, Biases, LayerAttention, LlmShape, MAX_HEAD_DIM, MAX_LAYERS, Position};
use crate::{EncoderError, LlmArchitecture};

/// Reads and checks a config.
pub fn shape(config: &ConfigJson) -> Result<LlmShape, EncoderError> {
    let architecture = config.architecture()?;
    refuse_what_changes_states(config)?;
    let shape = if architecture == LlmArchitecture::T5 {
        t5(config)?
    } else {
        decoder(config, architecture)?
    };
    if !shape.num_heads.is_multiple_of(shape.num_kv_heads) {
        let expected = format!(
            "a divisor of its {} query heads, not {}",
            shape.num_heads, shape.num_kv_heads
        );
        return Err(config.bad("num_key_value_heads", expected));
    }
    Ok(shape)
}

fn decoder(config: &ConfigJson, architecture: LlmArchitecture) -> Result<LlmShape, EncoderError> {
    use LlmArchitecture::{Gemma2, Gemma3, Llama, Qwen2, Qwen3};
    let can_see = config.text("model_type")?.is_some_and(|name| name.contains("vl"));
    let defaults = Defaults::of(architecture, can_see);
    let hidden_size = config.count("hidden_size")?.unwrap_or(defaults.hidden_size);
    let num_heads = config.count("num_attention_heads")?.unwrap_or(defaults.num_heads);
    let head_dim = config.count("head_dim")?.or(defaults.head_dim);
    let head_dim = head_dim.unwrap_or(hidden_size / num_heads);
    if head_dim == 0 || !head_dim.is_multiple_of(2) || head_dim > MAX_HEAD_DIM {
        return Err(config.bad("head_dim", format!("even and up to {MAX_HEAD_DIM}, not {head_dim}")));
    }
    let is_gemma = matches!(architecture, Gemma2 | Gemma3);
    let score_width = if is_gemma {
        config.float("query_pre_attn_scalar")?.unwrap_or(256.0)
    } else {
        head_dim as f32
    };
    let default_cap = (architecture == Gemma2).then_some(50.0);
    let can_have_bias = matches!(architecture, Llama | Qwen3 | Gemma2 | Gemma3);
    let attention_bias = can_have_bias && config.flag("attention_bias")?.unwrap_or(false);
    Ok(LlmShape {
        architecture,
        vocab_size: config.count("vocab_size")?.unwrap_or(defaults.vocab_size),
        hidden_size,
        num_heads,
        num_kv_heads: config
            .count("num_key_value_heads")?
            .or(defaults.num_kv_heads)
            .unwrap_or(num_heads),
        head_dim,
        mlp_size: config.count("intermediate_size")?.unwrap_or(defaults.mlp_size),
        norm_eps: config.float("rms_norm_eps")?.unwrap_or(defaults.norm_eps),
        activation: activation(config, is_gemma)?,
        gated: true,
        embedding_scale: if is_gemma { (hidden_size as f32).sqrt() } else { 1.0 },
        score_scale: score_width.sqrt().recip(),
        score_cap: if is_gemma {
            config.float("attn_logit_softcapping")?.or(default_cap)
        } else {
            None
        },
        qk_norm: matches!(architecture, Qwen3 | Gemma3),
        output_norms: is_gemma,
        biases: Biases {
            query_key_value: attention_bias || architecture == Qwen2,
            attention_output: attention_bias,
            mlp: architecture == Llama && config.flag("mlp_bias")?.unwrap_or(false),
        },
        position: Position::Rotary,
        layers: layers(config, architecture, &defaults, head_dim)?,
    })
}

fn t5(config: &ConfigJson) -> Result<LlmShape, EncoderError> {
    let defaults = Defaults::of(LlmArchitecture::T5, false);
    let num_heads = config.count("num_heads")?.unwrap_or(defaults.num_heads);
    let kind = config.text("feed_forward_proj")?.unwrap_or("relu");
    let (gated, activation) = match kind {
        "relu" => (false, Activation::Relu),
        // transformers takes the tanh form for this name.
        "gated-gelu" => (true, Activation::GeluTanh),
        "gated-silu" => (true, Activation::Silu),
        _ => {
            return Err(config.bad(
                "feed_forward_proj",
                format!("relu, gated-gelu or gated-silu, not `{kind}`"),
            ));
        }
    };
    let num_layers = num_layers(config, "num_layers", &defaults)?;
    let num_buckets = config.count("relative_attention_num_buckets")?.unwrap_or(32);
    let max_distance = config.count("relative_attention_max_distance")?.unwrap_or(128);
    if num_buckets < 4 || !num_buckets.is_multiple_of(2) || max_distance <= num_buckets / 4 {
        let expected =
            format!("even, at least 4, and below 4 x the maximal distance {max_distance}, not {num_buckets}");
        return Err(config.bad("relative_attention_num_buckets", expected));
    }
    let everywhere = LayerAttention {
        frequencies: Vec::new(),
        window: None,
    };
    Ok(LlmShape {
        architecture: LlmArchitecture::T5,
        vocab_size: config.count("vocab_size")?.unwrap_or(defaults.vocab_size),
        hidden_size: config.count("d_model")?.unwrap_or(defaults.hidden_size),
        num_heads,
        num_kv_heads: num_heads,
        head_dim: config.count("d_kv")?.unwrap_or(64),
        mlp_size: config.count("d_ff")?.unwrap_or(defaults.mlp_size),
        norm_eps: config.float("layer_norm_epsilon")?.unwrap_or(1e-6),
        activation,
        gated,
        embedding_scale: 1.0,
        score_scale: 1.0,
        score_cap: None,
        qk_norm: false,
        output_norms: false,
        biases: Biases::default(),
        position: Position::Relative {
            num_buckets,
            max_distance,
        },
        layers: vec![everywhere; num_layers],
    })
}

/// Rather no states than other states than transformers'.
fn refuse_what_changes_states(config: &ConfigJson) -> Result<(), EncoderError> {
    if config.table("quantization_config")?.is_some() {
        return Err(config.bad(
            "quantization_config",
            "absent: quantised folders are not supported, use GGUF",
        ));
    }
    if config.flag("use_bidirectional_attention")?.unwrap_or(false) {
        return Err(config.bad(
            "use_bidirectional_attention",
            "false: only causal decoders are supported",
        ));
    }
    if config.float("partial_rotary_factor")?.is_some_and(|part| part < 1.0) {
        return Err(config.bad(
            "partial_rotary_factor",
            "1: heads that rotate in part are not supported",
        ));
    }
    Ok(())
}

fn activation(config: &ConfigJson, is_gemma: bool) -> Result<Activation, EncoderError> {
    let (key, default) = if is_gemma {
        ("hidden_activation", "gelu_pytorch_tanh")
    } else {
        ("hidden_act", "silu")
    };
    let name = config.text(key)?.unwrap_or(default);
    Ok(match name {
        "silu" | "swish" => Activation::Silu,
        "gelu_pytorch_tanh" | "gelu_new" => Activation::GeluTanh,
        "gelu" => Activation::Gelu,
        "relu" => Activation::Relu,
        _ => return Err(config.bad(key, format!("silu, gelu, gelu_pytorch_tanh or relu, not `{name}`"))),
    })
}

fn num_layers(config: &ConfigJson, key: &str, defaults: &Defaults) -> Result<usize, EncoderError> {
    let count = config.count(key)?.unwrap_or(defaults.num_layers);
    if count > MAX_LAYERS {
        return Err(config.bad(key, format!("up to {MAX_LAYERS}, not {count}")));
    }
    Ok(count)
}

/// Each layer's reach and rotation.
fn layers(
    config: &ConfigJson,
    architecture: LlmArchitecture,
    defaults: &Defaults,
    head_dim: usize,
) -> Result<Vec<LayerAttention>, EncoderError> {
    let num_layers = num_layers(config, "num_hidden_layers", defaults)?;
    let is_windowed = windowed_layers(config, architecture, defaults, num_layers)?;
    let rotation = |kind, key, default| rotation(config, kind, key, default, head_dim);
    let global = LayerAttention {
        frequencies: rotation("full_attention", "rope_theta", defaults.rope_base)?,
        window: None,
    };
    let local = LayerAttention {
        frequencies: if architecture == LlmArchitecture::Gemma3 {
            rotation("sliding_attention", "rope_local_base_freq", 1e4)?
        } else {
            global.frequencies.clone()
        },
        window: Some(config.count("sliding_window")?.unwrap_or(defaults.window)),
    };
    let layer = |windowed: bool| if windowed { local.clone() } else { global.clone() };
    Ok(is_windowed.into_iter().map(layer).collect())
}

/// For each layer whether it sees only a window.
fn windowed_layers(
    config: &ConfigJson,
    architecture: LlmArchitecture,
    defaults: &Defaults,
    num_layers: usize,
) -> Result<Vec<bool>, EncoderError> {
    use LlmArchitecture::{Gemma2, Gemma3, Llama, Mistral, Qwen2, Qwen3, T5};
    let is_qwen = matches!(architecture, Qwen2 | Qwen3);
    let has_window = !config.is_null("sliding_window");
    if is_qwen && !(has_window && config.flag("use_sliding_window")?.unwrap_or(false)) {
        return Ok(vec![false; num_layers]);
    }
    if matches!(architecture, Qwen2 | Qwen3 | Gemma2 | Gemma3)
        && let Some(kinds) = config.texts("layer_types")?
    {
        let kinds: Option<Vec<bool>> = kinds
            .into_iter()
            .map(|kind| match kind {
                "full_attention" => Some(false),
                "sliding_attention" => Some(true),
                _ => None,
            })
            .collect();
        return kinds.filter(|kinds| kinds.len() == num_layers).ok_or_else(|| {
            let expected = format!("full_attention or sliding_attention for each of the {num_layers} layers");
            config.bad("layer_types", expected)
        });
    }
    let layers = 0..num_layers;
    Ok(match architecture {
        Llama | T5 => vec![false; num_layers],
        Mistral => vec![has_window; num_layers],
        Qwen2 | Qwen3 => {
            let first = config.any_count("max_window_layers")?.unwrap_or(defaults.num_global);
            layers.map(|layer| layer >= first).collect()
        }
        Gemma2 => layers.map(|layer| layer.is_multiple_of(2)).collect(),
        Gemma3 => {
            let pattern = config.count("sliding_window_pattern")?.unwrap_or(6);
            layers.map(|layer| !(layer + 1).is_multiple_of(pattern)).collect()
        }
    })
}
