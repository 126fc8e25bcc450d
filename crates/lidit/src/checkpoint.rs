//! `lidit checkpoint list|verify|digest|export|import`: what a run has saved, and what it can hand on.

mod digest;
mod export;
mod import;
mod list;
mod verify;

use std::path::Path;

use anyhow::{Result, bail};
use lidit_train::{Checkpoint, RunDir};

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
    List(list::Args),
    /// Read every file of every checkpoint and compare it with its digest.
    Verify(verify::Args),
    /// One hash over model, optimizer, averages and data position of the newest checkpoint.
    Digest(digest::Args),
    /// Write one set of weights with all that they depend on, for Python and for other runs.
    Export(export::Args),
    /// Make a run directory whose run begins with an export's weights.
    Import(import::Args),
}

/// Does what the subcommand says.
pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Command::List(args) => list::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Digest(args) => digest::run(args),
        Command::Export(args) => export::run(args),
        Command::Import(args) => import::run(args),
    }
}

fn checkpoints(run: &Path) -> Result<Vec<(u64, Result<Checkpoint>)>> {
    let found = Checkpoint::list(&RunDir::find(run)?.checkpoints())?;
    if found.is_empty() {
        bail!("{} has no checkpoint", run.display());
    }
    Ok(found)
}
