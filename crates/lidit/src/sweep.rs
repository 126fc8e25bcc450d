//! `lidit sweep fit`: many runs over model and data size, and the law they follow.

mod fit;

use anyhow::Result;

use crate::outcome::Outcome;

/// Arguments of `lidit sweep`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Fit the laws of loss against parameters, data and compute.
    Fit(fit::Args),
}

/// Runs one of them.
pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Command::Fit(args) => fit::run(args),
    }
}
