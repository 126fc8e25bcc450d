//! In what two runs differ.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use lidit_train::{RunConfig, leaves};
use toml::{Table, Value};

/// The first key in which two runs differ, but for those in `free` and below them.
pub fn first_difference(a: &RunConfig, b: &RunConfig, free: &[&str]) -> Result<Option<String>> {
    let [a, b] = [bound(a, free)?, bound(b, free)?];
    let mut keys = a.keys().chain(b.keys());
    Ok(keys.find(|key| a.get(*key) != b.get(*key)).cloned())
}

/// The config's values whose keys are not free.
fn bound(config: &RunConfig, free: &[&str]) -> Result<BTreeMap<String, Value>> {
    let table: Table = config.to_toml()?.parse().context("a resolved config")?;
    let is_free = |key: &str| {
        free.iter()
            .any(|&free| key == free || key.starts_with(&format!("{free}.")))
    };
    Ok(leaves(&table).into_iter().filter(|(key, _)| !is_free(key)).collect())
}
