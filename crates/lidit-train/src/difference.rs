//! Where two descriptions differ.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

/// A key with two values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Difference {
    /// Its path in both trees, `model.hidden_size`; empty where the trees are leaves.
    pub key: String,
    /// The value in the first tree.
    pub there: Value,
    /// The value in the second tree.
    pub here: Value,
}

impl Difference {
    /// Every leaf in which two trees differ, and every two lists of different lengths, by order of keys.
    pub fn all(there: &Value, here: &Value) -> Vec<Self> {
        let mut found = Vec::new();
        collect("", there, here, &mut found);
        found
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, there, here } = self;
        match (there, here) {
            (Value::Array(there), Value::Array(here)) if there.len() != here.len() => {
                write!(f, "{key} has {} entries there and {} here", there.len(), here.len())
            }
            _ => write!(f, "{key} is {there} there and {here} here"),
        }
    }
}

fn collect(key: &str, there: &Value, here: &Value, found: &mut Vec<Difference>) {
    let join = |name: &str| match key {
        "" => name.to_owned(),
        key => format!("{key}.{name}"),
    };
    match (there, here) {
        (Value::Object(there), Value::Object(here)) => {
            let names: BTreeSet<&String> = there.keys().chain(here.keys()).collect();
            for name in names {
                let side = |tree: &serde_json::Map<String, Value>| tree.get(name).cloned().unwrap_or_default();
                collect(&join(name), &side(there), &side(here), found);
            }
        }
        (Value::Array(there), Value::Array(here)) if there.len() == here.len() => {
            for (i, (there, here)) in there.iter().zip(here).enumerate() {
                collect(&join(&i.to_string()), there, here, found);
            }
        }
        (there, here) if there == here => {}
        (there, here) => found.push(Difference {
            key: key.to_owned(),
            there: there.clone(),
            here: here.clone(),
        }),
    }
}
