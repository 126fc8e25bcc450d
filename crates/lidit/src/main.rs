//! The `lidit` command line: parses, dispatches, and prints an error's chain once.

mod allocator;
mod artist;
mod bench;
mod cache;
mod chaos;
mod checkpoint;
mod coordinate_check;
#[cfg(feature = "cuda")]
mod cuda;
mod data;
mod device;
mod doctor;
mod encode;
mod eval;
mod fetch;
mod launch;
mod outcome;
mod plan;
mod quickstart;
mod render;
mod replay;
mod sample;
mod sweep;
mod train;
mod vae;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lidit_dist::DistError;

use crate::outcome::{Exit, Outcome};

/// Train LLM-encoded text-to-image diffusion transformers.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// Print one machine-readable object, on one line, last on stdout.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch, train and sample the built-in small run: from nothing to pictures in minutes.
    Quickstart(quickstart::Args),
    /// Bring known inputs into the cache folder and verify them.
    Fetch(fetch::Args),
    /// Build and look at data sets.
    Data(data::Args),
    /// Write a frozen language model's states of prompts to a file.
    Encode(encode::Args),
    /// Say what a run would cost, and how it should come by its encoders' states.
    Plan(plan::Args),
    /// Encode a data set's captions once, for many runs.
    Cache(cache::Args),
    /// Train: one process of a run.
    Train(train::Args),
    /// Train or cache with several processes on this machine.
    Launch(launch::Args),
    /// Write a job script for Slurm or manifests for Kubernetes, from a launch config.
    Render(render::Args),
    /// Look at machine, ranks, disk and a config's inputs: what will fail, before the allocation is spent.
    Doctor(doctor::Args),
    /// Draw pictures from prompts with a trained run.
    Sample(sample::Args),
    /// Judge a trained run: its loss on held-out pictures with fixed noise, and what its pictures show of their prompts.
    Eval(eval::Args),
    /// Turn pictures into an autoencoder's latents and back.
    Vae(vae::Args),
    /// Time the hot paths.
    Bench(bench::Args),
    /// Plan, run and follow a grid of runs, and fit the law that they follow.
    Sweep(sweep::Args),
    /// Train several widths for a few steps, with and without muP, and say how much more the wider ones move.
    CoordinateCheck(coordinate_check::Args),
    /// Break a run on purpose, restart it, and compare its end with an undisturbed run's.
    Chaos(chaos::Args),
    /// List, verify and fingerprint a run's checkpoints.
    Checkpoint(checkpoint::Args),
    /// Go through one step of a run again, on one process, and name the sample and the layer that broke it.
    Replay(replay::Args),
}

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    let cli = Cli::parse();
    match dispatch(&cli.command) {
        Ok(outcome) => {
            if cli.json {
                println!("{}", outcome.json);
            } else if !outcome.text.is_empty() {
                println!("{}", outcome.text.trim_end());
            }
            outcome.exit.into()
        }
        Err(error) => {
            // Standard error may lie on the disk that is full: that must not turn the error into a panic.
            let _ = writeln!(std::io::stderr(), "error: {}", described(&error));
            if is_lost_peer(&error) {
                Exit::PeerFailed.into()
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn dispatch(command: &Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Quickstart(args) => quickstart::run(args),
        Command::Fetch(args) => fetch::run(args),
        Command::Data(args) => data::run(args),
        Command::Encode(args) => encode::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Cache(args) => cache::run(args),
        Command::Train(args) => train::run(args),
        Command::Launch(args) => launch::run(args),
        Command::Render(args) => render::run(args),
        Command::Doctor(args) => Ok(doctor::run(args)),
        Command::Sample(args) => sample::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Vae(args) => vae::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Sweep(args) => sweep::run(args),
        Command::CoordinateCheck(args) => coordinate_check::run(args),
        Command::Chaos(args) => chaos::run(args),
        Command::Checkpoint(args) => checkpoint::run(args),
        Command::Replay(args) => replay::run(args),
    }
}

/// The error and its causes, without a cause that the error before it has said already.
fn described(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        if said.is_empty() {
            cause
        } else if said.ends_with(&cause) {
            said
        } else {
            format!("{said}: {cause}")
        }
    })
}

fn is_lost_peer(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref().is_some_and(DistError::is_peer_failure))
}
