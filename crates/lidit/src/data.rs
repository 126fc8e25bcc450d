//! `lidit data build|inspect|verify|order|audit`: make shards, look at them, say who sees what and prove that they did.

mod audit;
mod build;
mod inspect;
mod order;
mod shard_args;
mod verify;

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
    Build(Box<build::Args>),
    /// Schema, rows, sizes, caption statistics.
    Inspect(inspect::Args),
    /// Read and decode everything, and name the rows that can't be used.
    Verify(verify::Args),
    /// The sample ids that each rank would see.
    Order(order::Args),
    /// Prove from a run's records that no sample was lost or repeated.
    Audit(audit::Args),
}

/// Runs one of them.
pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Command::Build(args) => build::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Order(args) => order::run(args),
        Command::Audit(args) => audit::run(args),
    }
}
