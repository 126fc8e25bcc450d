//! `lidit data build|inspect|order`: make shards, look at them, and say who sees what.

mod build;
mod inspect;
mod order;

use anyhow::Result;

use crate::outcome::Outcome;

/// Arguments of `lidit data`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Write Parquet shards with a manifest.
    Build(build::Args),
    /// Schema, rows, sizes, caption statistics.
    Inspect(inspect::Args),
    /// The sample ids that each rank would see.
    Order(order::Args),
}

/// Builds, inspects or orders.
pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Command::Build(args) => build::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Order(args) => order::run(args),
    }
}
