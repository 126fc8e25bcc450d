//! Which config a run follows: its own when it has one, the given one when it starts.

use anyhow::{Context, Result, bail};
use lidit_encoders::Precision;
use toml::Table;

use crate::config::RunConfig;
use crate::config_file::{ConfigFile, split_set};
use crate::run_dir::RunDir;

/// Whether a run directory may already hold a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// A new run; a directory that holds anything is refused.
    Fresh,
    /// Continue the run that is there; start it if there is none.
    Resume,
}

/// Keys that a continued run may change: they say how a run computes or what it records, never what it computes.
const FREE_KEYS: [&str; 15] = [
    "train.micro_batch",
    "train.recompute_blocks",
    "train.sharding",
    "train.bucket_mb",
    "train.checkpoint_every",
    "train.keep_last",
    "train.keep_every",
    "train.log_every",
    "train.sample_every",
    "train.stop_after",
    "train.max_nonfinite",
    "train.spike_zscore",
    "sample",
    "validation.every",
    "validation.prompt_gain",
];

/// Keys that may change where features are stored in f32: they are what the language models say then.
const FEATURE_KEYS: [&str; 2] = ["encoders.features", "validation.features"];

/// The config to follow in `run_dir`, with `sets` applied. `load` reads the given one.
///
/// # Errors
/// `sets` changes a key of an existing run that changes its results; the key is named.
pub fn resolve(
    run_dir: &RunDir,
    start: Start,
    sets: &[String],
    load: &dyn Fn() -> Result<ConfigFile>,
) -> Result<RunConfig> {
    match run_dir.read_config()? {
        Some(text) if start == Start::Resume => {
            continued(&text, sets).with_context(|| format!("resuming {}", run_dir.root().display()))
        }
        _ => load()?.run(sets),
    }
}

fn continued(stored: &str, sets: &[String]) -> Result<RunConfig> {
    let table: Table = stored.parse().context("parsing its config.toml")?;
    let original = RunConfig::from_table(table.clone(), &[]).context("in its config.toml")?;
    for set in sets {
        let (key, _) = split_set(set)?;
        let changed = RunConfig::from_table(table.clone(), std::slice::from_ref(set))?;
        if is_free(key) || changed == original {
            continue;
        }
        if FEATURE_KEYS.contains(&key) && changed.encoders.cache.precision == Precision::F32 {
            continue;
        }
        if key == "train.steps" {
            if changed.train.steps < original.train.steps {
                bail!(
                    "--set {set}: train.steps may grow on resume, not shrink below {}",
                    original.train.steps
                );
            }
            continue;
        }
        bail!(
            "--set {set}: {key} changes the results of a run that has begun: leave it, or start a new run in another --run-dir"
        );
    }
    RunConfig::from_table(table, sets)
}

fn is_free(key: &str) -> bool {
    FREE_KEYS
        .iter()
        .any(|free| key == *free || key.strip_prefix(free).is_some_and(|rest| rest.starts_with('.')))
}
