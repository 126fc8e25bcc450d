//! Rotary frequencies from a `config.json`.

use serde_json::{Map, Value};

use crate::EncoderError;
use crate::config_json::{ConfigJson, positive};
use crate::frequencies::{Stretch, frequencies};

/// The frequencies of one kind of layer. transformers 5 writes `rope_parameters`, for all layers or for each kind;
/// earlier ones `rope_theta` (and Gemma 3's `rope_local_base_freq`) with `rope_scaling`, which for Gemma 3 is the
/// global layers'.
pub fn rotation(
    config: &ConfigJson,
    kind: &str,
    base_key: &str,
    default_base: f32,
    head_dim: usize,
) -> Result<Vec<f32>, EncoderError> {
    let parameters = config.table("rope_parameters")?;
    let of_kind = parameters
        .and_then(|parameters| parameters.get(kind))
        .and_then(Value::as_object);
    let parameters = of_kind.or(parameters);
    let (key, table) = match parameters {
        Some(table) => ("rope_parameters", Some(table)),
        None if kind == "full_attention" => ("rope_scaling", config.table("rope_scaling")?),
        None => ("rope_scaling", None),
    };
    let in_table = |name| table.and_then(|table| table.get(name)).and_then(positive);
    let base = match in_table("rope_theta") {
        Some(base) => base,
        None => config.float(base_key)?.unwrap_or(default_base),
    };
    let stretch = match table {
        Some(table) => stretch(config, key, table)?,
        None => Stretch::None,
    };
    Ok(frequencies(base, head_dim, stretch))
}

fn stretch(config: &ConfigJson, key: &str, table: &Map<String, Value>) -> Result<Stretch, EncoderError> {
    let kind = table.get("rope_type").or_else(|| table.get("type"));
    let kind = kind.and_then(Value::as_str).unwrap_or("default");
    let number = |name: &str| {
        let number = table.get(name).and_then(positive);
        number.ok_or_else(|| config.bad(&format!("{key}.{name}"), "a number above 0"))
    };
    if table
        .get("partial_rotary_factor")
        .and_then(Value::as_f64)
        .is_some_and(|part| part < 1.0)
    {
        return Err(config.bad(
            &format!("{key}.partial_rotary_factor"),
            "1: heads that rotate in part are not supported",
        ));
    }
    Ok(match kind {
        // Rotation by three coordinates is plain rotation for text, whose three coordinates are equal.
        "default" | "mrope" => Stretch::None,
        "linear" => Stretch::Linear {
            factor: number("factor")?,
        },
        "llama3" => Stretch::Llama3 {
            factor: number("factor")?,
            low: number("low_freq_factor")?,
            high: number("high_freq_factor")?,
            original_length: number("original_max_position_embeddings")?,
        },
        _ => {
            let expected = format!("default, linear or llama3: rotary scaling `{kind}` is not supported");
            return Err(config.bad(&format!("{key}.rope_type"), expected));
        }
    })
}
