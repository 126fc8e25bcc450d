//! The values of a config, each by its dotted key.

use toml::{Table, Value};

/// The leaves of `config`, by key, in order. A list of plain values is one leaf; tables in a list are numbered.
pub fn leaves(config: &Table) -> Vec<(String, Value)> {
    let mut leaves = Vec::new();
    for (key, value) in config {
        flatten(key, value, &mut leaves);
    }
    leaves
}

fn flatten(key: &str, value: &Value, leaves: &mut Vec<(String, Value)>) {
    match value {
        Value::Table(table) => {
            for (name, value) in table {
                flatten(&format!("{key}.{name}"), value, leaves);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            for (i, value) in items.iter().enumerate() {
                flatten(&format!("{key}.{i}"), value, leaves);
            }
        }
        value => leaves.push((key.to_owned(), value.clone())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_leaf_has_its_dotted_key() {
        let config = "a = 1\n[train]\nlr = 0.5\nbetas = [0.9, 0.95]\n[[llm]]\nmodel = \"m\"\n[[llm]]\nmodel = \"n\"\n";
        let leaves = leaves(&config.parse().unwrap());
        let keys: Vec<_> = leaves.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["a", "llm.0.model", "llm.1.model", "train.betas", "train.lr"]);
        assert_eq!(leaves[2].1.as_str(), Some("n"));
        assert_eq!(leaves[3].1, Value::from(vec![0.9, 0.95]));
    }
}
