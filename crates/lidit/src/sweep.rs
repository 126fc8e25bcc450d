//! `lidit sweep plan|run|status|fit|report`: a grid of runs, from one file to a finished table, its law and its page.

mod commands;
mod difference;
mod finished;
mod fit;
mod folder;
mod grid;
mod plan;
mod process;
mod progress;
mod report;
mod run;
mod runner;
mod samples;
mod shared_features;
mod state;
mod status;
mod table;

use std::path::{Path, PathBuf};

use anyhow::Result;

use self::folder::SweepFolder;
use crate::outcome::Outcome;

/// Arguments of `lidit sweep`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Say what every run would be and cost; refuse what can't fit.
    Plan(plan::Args),
    /// Train and evaluate every run that is not finished.
    Run(run::Args),
    /// Say how far every run is.
    Status(status::Args),
    /// Fit the laws of loss against parameters, data and compute.
    Fit(fit::Args),
    /// Write the page of the sweep: plots, table, law, pictures.
    Report(report::Args),
}

/// Which sweep, and where it is kept.
#[derive(clap::Args)]
pub struct SweepArgs {
    /// The sweep's file, such as configs/sweep/grid.toml.
    pub sweep: PathBuf,
    /// Where its runs are kept [default: runs/NAME of the file].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl SweepArgs {
    /// Where its runs are kept.
    fn folder(&self) -> Result<SweepFolder> {
        let name = self
            .sweep
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let dir = self.dir.clone().unwrap_or_else(|| Path::new("runs").join(&name));
        Ok(SweepFolder::at(std::path::absolute(dir)?, name))
    }
}

/// What a sweep's runs change.
#[derive(clap::Args)]
pub struct BaseArgs {
    /// Another base than the file's: the same sweep of another run.
    #[arg(long, value_name = "CONFIG")]
    base: Option<PathBuf>,
}

/// Runs one of them.
pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Command::Plan(args) => plan::run(args),
        Command::Run(args) => run::run(args),
        Command::Status(args) => status::run(args),
        Command::Fit(args) => fit::run(args),
        Command::Report(args) => report::run(args),
    }
}
