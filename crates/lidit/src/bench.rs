//! `lidit bench`: median and spread of the hot paths.

mod checkpoint;
mod comm;
mod encode;
mod gemm;
mod judge;
mod loader;
mod memory;
mod step;

use anyhow::Result;

use crate::outcome::Outcome;

/// Arguments of `lidit bench`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// What saving a state costs, and going on from it.
    Checkpoint(checkpoint::Args),
    /// Gigabytes a second between the ranks of a world, each of which runs this.
    Comm(comm::Args),
    /// Captions a second through a config's frozen language models.
    Encode(encode::Args),
    /// How often the judge of Scenes is right, on clean and on damaged drawings.
    Judge(judge::Args),
    /// Images a second from a config's data.
    Loader(loader::Args),
    /// What a training step takes, and where its time goes.
    Step(step::Args),
}

/// Runs one of them.
pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Command::Checkpoint(args) => checkpoint::run(args),
        Command::Comm(args) => comm::run(args),
        Command::Encode(args) => encode::run(args),
        Command::Judge(args) => judge::run(args),
        Command::Loader(args) => loader::run(args),
        Command::Step(args) => step::run(args),
    }
}
