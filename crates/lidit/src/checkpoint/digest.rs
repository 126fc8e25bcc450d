//! `lidit checkpoint digest RUN`: one hash of a state.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::json;

use super::checkpoints;
use crate::outcome::Outcome;

/// Arguments of `lidit checkpoint digest`.
#[derive(clap::Args)]
pub struct Args {
    /// The run directory.
    run: PathBuf,
}

/// Verifies the newest checkpoint and hashes what it holds.
pub fn run(args: &Args) -> Result<Outcome> {
    let Some((step, newest)) = checkpoints(&args.run)?.into_iter().next() else {
        bail!("{} has no checkpoint", args.run.display());
    };
    let newest = newest?;
    newest.verify()?;
    let digest = newest.digest()?;
    Ok(Outcome::done(
        format!("{digest}  step {step}"),
        json!({ "step": step, "digest": digest }),
    ))
}
