//! `lidit checkpoint verify RUN`: whether it is whole.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::json;

use super::checkpoints;
use crate::outcome::Outcome;

/// Arguments of `lidit checkpoint verify`.
#[derive(clap::Args)]
pub struct Args {
    /// The run directory.
    run: PathBuf,
}

/// Fails when any checkpoint is damaged.
pub fn run(args: &Args) -> Result<Outcome> {
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for (step, checkpoint) in checkpoints(&args.run)? {
        match checkpoint.and_then(|checkpoint| checkpoint.verify()) {
            Ok(()) => good.push(step),
            Err(error) => bad.push(format!("step {step}: {error:#}")),
        }
    }
    if !bad.is_empty() {
        bail!("{}; whole: steps {good:?}", bad.join("; "));
    }
    Ok(Outcome::done(
        format!("{} checkpoints verified: steps {good:?}", good.len()),
        json!({ "step": good.first(), "verified": good }),
    ))
}
