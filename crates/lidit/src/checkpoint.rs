//! `lidit checkpoint list|verify|digest`: what a run has saved.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use lidit_train::{Checkpoint, RunDir};
use serde_json::json;

use crate::outcome::Outcome;

/// Arguments of `lidit checkpoint`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// The checkpoints of a run, newest first.
    List {
        /// The run directory.
        run: PathBuf,
    },
    /// Read every file of every checkpoint and compare it with its digest.
    Verify {
        /// The run directory.
        run: PathBuf,
    },
    /// One hash over model, optimizer, averages and data position of the newest checkpoint.
    Digest {
        /// The run directory.
        run: PathBuf,
    },
}

/// Lists, verifies or fingerprints.
pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Command::List { run } => list(run),
        Command::Verify { run } => verify(run),
        Command::Digest { run } => digest(run),
    }
}

fn list(run: &Path) -> Result<Outcome> {
    let mut text = String::new();
    let mut rows = Vec::new();
    for (step, checkpoint) in checkpoints(run)? {
        match checkpoint {
            Ok(checkpoint) => {
                let manifest = checkpoint.manifest();
                let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
                let _ = writeln!(
                    text,
                    "step {step}: {} files, {bytes} bytes, {} ranks",
                    manifest.files.len(),
                    manifest.world_size
                );
                rows.push(json!({ "step": step, "bytes": bytes, "world_size": manifest.world_size }));
            }
            Err(error) => {
                let _ = writeln!(text, "step {step}: unreadable: {error:#}");
                rows.push(json!({ "step": step, "error": format!("{error:#}") }));
            }
        }
    }
    let newest = rows.first().map(|row| row["step"].clone());
    Ok(Outcome::done(text, json!({ "step": newest, "checkpoints": rows })))
}

fn verify(run: &Path) -> Result<Outcome> {
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for (step, checkpoint) in checkpoints(run)? {
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

fn digest(run: &Path) -> Result<Outcome> {
    let Some((step, newest)) = checkpoints(run)?.into_iter().next() else {
        bail!("{} has no checkpoint", run.display());
    };
    let newest = newest?;
    newest.verify()?;
    let digest = newest.digest()?;
    Ok(Outcome::done(
        format!("{digest}  step {step}"),
        json!({ "step": step, "digest": digest }),
    ))
}

fn checkpoints(run: &Path) -> Result<Vec<(u64, Result<Checkpoint>)>> {
    let found = Checkpoint::list(&RunDir::find(run)?.checkpoints())?;
    if found.is_empty() {
        bail!("{} has no checkpoint", run.display());
    }
    Ok(found)
}
