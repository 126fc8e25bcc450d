//! A config as `TensorBoard`'s hparams: one value a leaf, by its dotted key.

use std::collections::HashMap;

use protobuf::well_known_types::{Value, Value_oneof_kind};

/// The leaves of a config: numbers, flags and texts; a list of plain values is one text, tables in a list are numbered.
pub(crate) fn leaves(config: &toml::Table) -> HashMap<String, Value> {
    let mut leaves = Vec::new();
    flatten("", &toml::Value::Table(config.clone()), &mut leaves);
    leaves.into_iter().collect()
}

fn flatten(key: &str, value: &toml::Value, leaves: &mut Vec<(String, Value)>) {
    let join = |name: &str| {
        if key.is_empty() {
            name.to_owned()
        } else {
            format!("{key}.{name}")
        }
    };
    let kind = match value {
        toml::Value::Table(table) => return table.iter().for_each(|(name, v)| flatten(&join(name), v, leaves)),
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            return items
                .iter()
                .enumerate()
                .for_each(|(i, v)| flatten(&join(&i.to_string()), v, leaves));
        }
        toml::Value::Integer(number) => Value_oneof_kind::number_value(*number as f64),
        toml::Value::Float(number) => Value_oneof_kind::number_value(*number),
        toml::Value::Boolean(flag) => Value_oneof_kind::bool_value(*flag),
        toml::Value::String(text) => Value_oneof_kind::string_value(text.clone()),
        toml::Value::Array(_) | toml::Value::Datetime(_) => Value_oneof_kind::string_value(value.to_string()),
    };
    let mut leaf = Value::new();
    leaf.kind = Some(kind);
    leaves.push((key.to_owned(), leaf));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_leaf_has_its_dotted_key_and_its_type() {
        let config = "a = 1\n[train]\nlr = 0.5\nok = true\nbetas = [0.9, 0.95]\n[[llm]]\nmodel = \"m\"\n[[llm]]\nmodel = \"n\"\n";
        let leaves = leaves(&config.parse().unwrap());
        let mut keys: Vec<_> = leaves.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(
            keys,
            ["a", "llm.0.model", "llm.1.model", "train.betas", "train.lr", "train.ok"]
        );
        assert_eq!(
            (leaves["a"].get_number_value(), leaves["train.lr"].get_number_value()),
            (1.0, 0.5)
        );
        assert!(leaves["train.ok"].get_bool_value());
        assert_eq!(
            (
                leaves["llm.1.model"].get_string_value(),
                leaves["train.betas"].get_string_value()
            ),
            ("n", "[0.9, 0.95]")
        );
    }
}
