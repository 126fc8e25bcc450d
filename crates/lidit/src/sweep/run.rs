//! `lidit sweep run`: trains and evaluates what is not finished, a process a run.

use std::fmt::Write as _;

use anyhow::{Result, bail, ensure};
use lidit_train::{RunConfig, Stop, write_atomically};
use serde_json::{Value, json};

use super::commands::Commands;
use super::difference::first_difference;
use super::folder::SweepFolder;
use super::grid::{Grid, GridPoint};
use super::plan::Limits;
use super::runner::{Failure, Runner};
use super::state::Stage;
use super::{BaseArgs, SweepArgs};
use crate::device::DeviceArg;
use crate::outcome::{Exit, Outcome};

/// Arguments of `lidit sweep run`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    sweep: SweepArgs,
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    limits: Limits,
    /// Only the run of this number, from 0 in the plan's order: a Slurm array's or a Kubernetes job's index.
    #[arg(long, value_name = "I")]
    index: Option<usize>,
    /// Runs at once, a device each: on the CPU they share its cores, on GPUs run J takes the J-th.
    #[arg(long, value_name = "J", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// cpu or cuda.
    #[arg(long, default_value = "cpu")]
    device: DeviceArg,
    /// Write the runs' configs, print the commands of unfinished runs and run nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Trains every unfinished run of the grid.
pub fn run(args: &Args) -> Result<Outcome> {
    args.check()?;
    let stop = Stop::on_signals()?;
    let folder = args.sweep.folder()?;
    let base = args.base.base.as_deref();
    let ranks = args.device.ranks(u64::from(args.limits.nproc));
    let grid = Grid::read(&args.sweep.sweep, base, &folder, ranks, None)?;
    args.limits
        .refuse_what_cannot_fit(&grid, args.device, u64::from(args.jobs))?;
    let wanted = args.wanted(&grid)?;
    let runner = Runner {
        jobs: args.jobs,
        folder: &folder,
        grid: &grid,
        stop: &stop,
        commands: Commands {
            folder: &folder,
            nproc: args.limits.nproc,
            jobs: args.jobs,
            device: args.device,
        },
    };
    folder.create()?;
    // Several processes may begin the same sweep at once.
    let Some(settling) = folder.lock("settling", &stop, || ())? else {
        return outcome(&runner, &wanted, &[]);
    };
    folder.write_points(&grid.planned(&args.sweep.sweep)?)?;
    for &index in &wanted {
        args.settle_config(&folder, &grid.points[index])?;
    }
    for features in &grid.features {
        write_atomically(&folder.config(&features.name()), features.config.to_toml()?.as_bytes())?;
    }
    drop(settling);
    if args.dry_run {
        return dry_run(&runner, &wanted);
    }
    if !runner.write_features(&wanted)? {
        return outcome(&runner, &wanted, &[]);
    }
    let failures = runner.work(&wanted);
    outcome(&runner, &wanted, &failures)
}

impl Args {
    fn check(&self) -> Result<()> {
        ensure!(
            self.jobs == 1 || self.limits.nproc == 1,
            "--jobs {} with --nproc {}: either several runs at once, or several ranks a run",
            self.jobs,
            self.limits.nproc
        );
        if let (DeviceArg::Cuda(Some(_)), true) = (self.device, self.jobs > 1 || self.limits.nproc > 1) {
            bail!(
                "--device {} names one GPU: say cuda, and each run or rank takes one of its own",
                self.device
            );
        }
        Ok(())
    }

    /// Indices of the runs to look at.
    fn wanted(&self, grid: &Grid) -> Result<Vec<usize>> {
        let runs = grid.points.len();
        match self.index {
            None => Ok((0..runs).collect()),
            Some(index) if index < runs => Ok(vec![index]),
            Some(index) => bail!("--index {index}: the sweep has {runs} runs, 0 to {}", runs - 1),
        }
    }

    /// Writes what the run will be given; refuses a run that was begun as another one.
    fn settle_config(&self, folder: &SweepFolder, point: &GridPoint) -> Result<()> {
        let name = &point.planned.name;
        let begun = folder.run(name).join("config.toml");
        if begun.exists() {
            let before = RunConfig::load(&begun, &[])?;
            if let Some(key) = first_difference(&before, &point.config, &["encoders.features", "validation.features"])?
            {
                bail!(
                    "run {name} was begun with another {key}: take the change to {} back, or keep the new sweep elsewhere with \
                     --dir",
                    self.sweep.sweep.display()
                );
            }
        }
        write_atomically(&folder.config(name), point.config.to_toml()?.as_bytes())
    }
}

/// What would be run, one command a line.
fn dry_run(runner: &Runner<'_>, wanted: &[usize]) -> Result<Outcome> {
    let mut commands: Vec<Vec<String>> = runner
        .needed_features(wanted)?
        .into_iter()
        .map(|features| runner.commands.cache(features))
        .collect();
    for &index in wanted {
        let point = &runner.grid.points[index];
        let stage = runner.state(point)?.stage;
        if !matches!(stage, Stage::Done | Stage::Trained) {
            commands.push(runner.commands.train(point, 0));
        }
        if let Some(evaluate) = &runner.grid.evaluate
            && stage != Stage::Done
        {
            commands.push(runner.commands.evaluate(point, &evaluate.path, 0));
        }
    }
    let lines: Vec<String> = commands
        .iter()
        .map(|words| format!("lidit {}", words.join(" ")))
        .collect();
    Ok(Outcome::done(lines.join("\n"), json!({ "commands": commands })))
}

/// What is done, and what is not.
fn outcome(runner: &Runner<'_>, wanted: &[usize], failures: &[Failure]) -> Result<Outcome> {
    let mut runs: Vec<Value> = Vec::with_capacity(wanted.len());
    let mut done = 0;
    for &index in wanted {
        let point = &runner.grid.points[index];
        let state = runner.state(point)?;
        done += usize::from(state.stage == Stage::Done);
        let mut run = json!(state);
        run["name"] = json!(point.planned.name);
        if let Some(failure) = failures.iter().find(|failure| failure.name == point.planned.name) {
            run["error"] = json!(failure.reason);
        }
        runs.push(run);
    }
    let exit = if !failures.is_empty() {
        Exit::Code(1)
    } else if runner.stop.is_requested() {
        Exit::Stopped
    } else {
        Exit::Done
    };
    let mut said = format!(
        "{done} of {} runs are done: {}",
        wanted.len(),
        runner.folder.root().display()
    );
    for failure in failures {
        write!(said, "\nfailed: {}: {}", failure.name, failure.reason)?;
    }
    if exit == Exit::Stopped {
        said.push_str("\nstopped; the same command goes on");
    }
    Ok(Outcome {
        text: said,
        json: json!({ "runs": runs, "done": done, "dir": runner.folder.root() }),
        exit,
    })
}
