//! `lidit eval`: how good a trained run is.

mod compare;

use anyhow::Result;

use crate::outcome::Outcome;

/// Arguments of `lidit eval`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Say how much the validation losses of two runs differ, and how sure that is.
    Compare(compare::Args),
}

/// Dispatches.
pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Command::Compare(args) => compare::run(args),
    }
}
