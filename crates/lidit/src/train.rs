//! `lidit train`: one process of a run; its rank comes from the environment.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use lidit_dist::World;
use lidit_train::{ConfigFile, Ending, RunRequest, Start, Stop, View, ViewRequest};
use serde_json::json;

use crate::device::DeviceArg;
use crate::fetch;
use crate::outcome::{Exit, Outcome};

/// Arguments of `lidit train`.
#[derive(clap::Args)]
pub struct Args {
    /// The run's config, such as configs/run/quickstart.toml.
    config: PathBuf,
    /// Change one key: `--set train.lr=3e-4`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Where the run is kept [default: runs/NAME of the config].
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Continue the run in the run directory from its newest verified checkpoint, with its own config; starts it if
    /// there is none yet.
    #[arg(long)]
    resume: bool,
    /// cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu")]
    device: DeviceArg,
    /// Show a dashboard instead of a progress bar.
    #[arg(long)]
    tui: bool,
    /// Longest wait for another rank, in seconds, before the run fails and names it.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    deadline: u64,
}

/// Trains, or continues to.
pub fn run(args: &Args) -> Result<Outcome> {
    let stop = Stop::on_signals()?;
    let view = View::choose(if args.tui { ViewRequest::Tui } else { ViewRequest::Auto })?;
    let world = World::from_env(Duration::from_secs(args.deadline))?;
    let request = RunRequest {
        load: &|| ConfigFile::read(&args.config),
        sets: &args.sets,
        run_dir: args.run_dir.clone().unwrap_or_else(|| default_run_dir(&args.config)),
        start: if args.resume { Start::Resume } else { Start::Fresh },
        view,
        device: args.device.open(world.local_rank())?,
        device_name: args.device.to_string(),
        locate: &fetch::resolve_model,
    };
    let ended = lidit_train::train(&request, &world, &stop)?;
    let (exit, how) = match ended.ending {
        Ending::Stopped => (Exit::Stopped, "stopped, resumable with --resume"),
        _ => (Exit::Done, "done"),
    };
    Ok(Outcome {
        text: format!(
            "{how} at step {}, loss {:.5}: {}",
            ended.step,
            ended.loss,
            ended.run_dir.display()
        ),
        json: json!({ "step": ended.step, "loss": ended.loss, "run_dir": ended.run_dir }),
        exit,
    })
}

fn default_run_dir(config: &Path) -> PathBuf {
    PathBuf::from("runs").join(config.file_stem().unwrap_or_default())
}
