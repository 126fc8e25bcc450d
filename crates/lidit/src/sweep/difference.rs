//! In what two runs differ.

use anyhow::{Context, Result};
use lidit_train::RunConfig;
use toml::{Table, Value};

/// The first key in which two runs differ, but for those in `free`.
pub fn first_difference(a: &RunConfig, b: &RunConfig, free: &[&str]) -> Result<Option<String>> {
    let table = |config: &RunConfig| -> Result<Table> { config.to_toml()?.parse().context("a resolved config") };
    Ok(different_key(&table(a)?, &table(b)?, "", free))
}

fn different_key(a: &Table, b: &Table, above: &str, free: &[&str]) -> Option<String> {
    let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().find_map(|key| {
        let path = if above.is_empty() {
            key.clone()
        } else {
            format!("{above}.{key}")
        };
        if free.contains(&path.as_str()) {
            return None;
        }
        match (a.get(key), b.get(key)) {
            (Some(Value::Table(a)), Some(Value::Table(b))) => different_key(a, b, &path, free),
            (a, b) => (a != b).then_some(path),
        }
    })
}
