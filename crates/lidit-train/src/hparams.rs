//! A config as `TensorBoard`'s hparams: one value a leaf, by its dotted key.

use std::collections::HashMap;

use protobuf::well_known_types::{Value, Value_oneof_kind};

use crate::leaves::leaves;

/// The leaves of a config: numbers, flags and texts; a list is one text.
pub(crate) fn hparams(config: &toml::Table) -> HashMap<String, Value> {
    leaves(config)
        .into_iter()
        .map(|(key, leaf)| (key, hparam(&leaf)))
        .collect()
}

fn hparam(leaf: &toml::Value) -> Value {
    let mut value = Value::new();
    value.kind = Some(match leaf {
        toml::Value::Integer(number) => Value_oneof_kind::number_value(*number as f64),
        toml::Value::Float(number) => Value_oneof_kind::number_value(*number),
        toml::Value::Boolean(flag) => Value_oneof_kind::bool_value(*flag),
        toml::Value::String(text) => Value_oneof_kind::string_value(text.clone()),
        other => Value_oneof_kind::string_value(other.to_string()),
    });
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_leaf_has_its_type() {
        let config = "[train]\nsteps = 1\nlr = 0.5\nok = true\nbetas = [0.9, 0.95]\nname = \"m\"\n";
        let hparams = hparams(&config.parse().unwrap());
        assert_eq!(hparams.len(), 5);
        assert_eq!(
            (
                hparams["train.steps"].get_number_value(),
                hparams["train.lr"].get_number_value()
            ),
            (1.0, 0.5)
        );
        assert!(hparams["train.ok"].get_bool_value());
        assert_eq!(
            (
                hparams["train.name"].get_string_value(),
                hparams["train.betas"].get_string_value()
            ),
            ("m", "[0.9, 0.95]")
        );
    }
}
