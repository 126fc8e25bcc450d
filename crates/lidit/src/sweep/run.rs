//! `lidit sweep run`: trains and evaluates what is not finished, a process a run.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use lidit_train::{RunConfig, Stop, write_atomically};
use serde_json::{Value, json};

use super::difference::first_difference;
use super::folder::SweepFolder;
use super::grid::{Grid, GridPoint, SharedFeatures};
use super::plan::Limits;
use super::process::{self, Ended};
use super::progress::say;
use super::state::{Stage, State};
use super::{BaseArgs, SweepArgs};
use crate::device::DeviceArg;
use crate::launch::thread_variables;
use crate::outcome::{Exit, Outcome};
use crate::plan::RateArgs;

/// Tries for a lock that somebody who only looks may hold for a moment.
const LOCK_TRIES: u32 = 20;
/// Between them.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

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
    /// Print the commands of unfinished runs and run nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Trains every unfinished run of the grid.
pub fn run(args: &Args) -> Result<Outcome> {
    args.check()?;
    let stop = Stop::on_signals()?;
    let folder = args.sweep.folder()?;
    let base = args.base.base.as_deref();
    let world = u64::from(args.limits.nproc);
    let grid = Grid::read(&args.sweep.sweep, base, &folder, world, &RateArgs::none(args.device))?;
    args.limits
        .refuse_what_cannot_fit(&grid, args.device, u64::from(args.jobs))?;
    let wanted = args.wanted(&grid)?;
    let runner = Runner {
        args,
        folder: &folder,
        grid: &grid,
        stop: &stop,
    };
    if args.dry_run {
        return runner.commands(&wanted);
    }
    folder.create()?;
    folder.write_points(&args.sweep.sweep, grid.evaluate.as_deref(), grid.planned())?;
    for &index in &wanted {
        runner.settle_config(&grid.points[index])?;
    }
    if !runner.write_features(&wanted)? {
        return runner.outcome(&wanted, vec![]);
    }
    let failures = runner.work(&wanted);
    runner.outcome(&wanted, failures)
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
}

/// What went wrong with a run.
struct Failure {
    name: String,
    reason: String,
}

struct Runner<'a> {
    args: &'a Args,
    folder: &'a SweepFolder,
    grid: &'a Grid,
    stop: &'a Stop,
}

impl Runner<'_> {
    /// Writes what the run will be given; refuses a run that was begun as another one.
    fn settle_config(&self, point: &GridPoint) -> Result<()> {
        let name = &point.planned.name;
        let begun = self.folder.run(name).join("config.toml");
        if begun.exists() {
            let before = RunConfig::load(&begun, &[])?;
            if let Some(key) = first_difference(&before, &point.config, &["encoders.features", "validation.features"])?
            {
                bail!(
                    "run {name} was begun with another {key}: take the change to {} back, or keep the new sweep elsewhere with \
                     --dir",
                    self.args.sweep.sweep.display()
                );
            }
        }
        write_atomically(&self.folder.config(name), point.config.to_toml()?.as_bytes())
    }

    /// Encodes what unfinished runs share; answers whether it came to its end.
    fn write_features(&self, wanted: &[usize]) -> Result<bool> {
        for features in &self.grid.features {
            let mut needed = false;
            for &index in wanted {
                let point = &self.grid.points[index];
                let held_out = point.config.validation.as_ref().and_then(|set| set.features.as_ref());
                let reads = point
                    .config
                    .encoders
                    .features
                    .iter()
                    .chain(held_out)
                    .any(|path| *path == features.folder);
                needed |= reads
                    && matches!(
                        self.state(point)?.stage,
                        Stage::Waiting | Stage::Training | Stage::Failed
                    );
            }
            if needed && !self.encode(features)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn encode(&self, features: &SharedFeatures) -> Result<bool> {
        let key = features
            .folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let name = format!("features-{key}");
        let mut waited = false;
        let _lock = loop {
            if let Some(lock) = self.folder.try_lock(&name)? {
                break lock;
            }
            if !std::mem::replace(&mut waited, true) {
                say(&format!("waiting for the process that writes features {key}"));
            }
            if self.stop.is_requested() {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(500));
        };
        let config = self.folder.config(&name);
        write_atomically(&config, features.config.to_toml()?.as_bytes())?;
        say(&format!("features {key}: encoding what is not there yet"));
        let log = self.folder.log(&name);
        let arguments = self.cache_command(features);
        match process::run(&arguments, thread_variables(1), &log, self.stop)? {
            Ended::Done => Ok(true),
            Ended::Stopped => Ok(false),
            Ended::Failed(code) => bail!(
                "encoding the features failed ({}): {}",
                ended_with(code),
                last_line(&log)
            ),
        }
    }

    /// Runs the wanted points, some at once; answers the failures.
    fn work(&self, wanted: &[usize]) -> Vec<Failure> {
        let queue: Mutex<VecDeque<usize>> = Mutex::new(wanted.iter().copied().collect());
        let failures = Mutex::new(Vec::new());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        thread::scope(|scope| {
            for job in 0..usize::from(self.args.jobs) {
                let (next, failures) = (&next, &failures);
                scope.spawn(move || {
                    while let Some(index) = next() {
                        if self.stop.is_requested() {
                            return;
                        }
                        let point = &self.grid.points[index];
                        let place = format!("[{}/{}] {}", index + 1, self.grid.points.len(), point.planned.name);
                        if let Err(error) = self.point(point, &place, job) {
                            let reason = format!("{error:#}");
                            say(&format!("{place}: {reason}"));
                            let name = point.planned.name.clone();
                            failures
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .push(Failure { name, reason });
                        }
                    }
                });
            }
        });
        failures.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Trains and evaluates one run, as far as that is not done.
    fn point(&self, point: &GridPoint, place: &str, job: usize) -> Result<()> {
        let name = &point.planned.name;
        let Some(_lock) = self.lock(name)? else {
            say(&format!("{place}: another process is at it"));
            return Ok(());
        };
        let mut state = self.state(point)?;
        if state.stage == Stage::Done {
            say(&format!("{place}: done before"));
            return Ok(());
        }
        if state.stage != Stage::Trained {
            let from = if state.step > 0 {
                format!(" from step {}", state.step)
            } else {
                String::new()
            };
            say(&format!("{place}: training{from} to step {}", point.planned.steps));
            if !self.process(&self.train_command(point, job), name)? {
                return Ok(());
            }
            state = self.state(point)?;
        }
        if let Some(evaluate) = &self.grid.evaluate
            && state.stage == Stage::Trained
        {
            say(&format!("{place}: evaluating"));
            if !self.process(&self.eval_command(point, evaluate, job), name)? {
                return Ok(());
            }
            state = self.state(point)?;
        }
        ensure!(
            state.stage == Stage::Done,
            "its processes ended well and left no result: look into {}",
            self.folder.log(name).display()
        );
        let number = |number: Option<f64>| number.map_or("-".to_owned(), |number| format!("{number:.5}"));
        say(&format!(
            "{place}: done, loss {}, validation {}, {:.0} s of training",
            number(state.loss),
            number(state.val_loss),
            state.seconds
        ));
        Ok(())
    }

    /// Answers whether it came to its end.
    fn process(&self, arguments: &[String], name: &str) -> Result<bool> {
        let log = self.folder.log(name);
        let threads = thread_variables(usize::from(self.args.jobs));
        match process::run(arguments, threads, &log, self.stop)? {
            Ended::Done => Ok(true),
            Ended::Stopped => Ok(false),
            Ended::Failed(code) => Err(anyhow!("{} {}: {}", arguments[0], ended_with(code), last_line(&log))),
        }
    }

    fn lock(&self, name: &str) -> Result<Option<std::fs::File>> {
        for _ in 0..LOCK_TRIES {
            if let Some(lock) = self.folder.try_lock(name)? {
                return Ok(Some(lock));
            }
            thread::sleep(LOCK_PAUSE);
        }
        Ok(None)
    }

    fn state(&self, point: &GridPoint) -> Result<State> {
        State::of(self.folder, &point.planned, self.grid.evaluate.as_deref())
    }

    fn cache_command(&self, features: &SharedFeatures) -> Vec<String> {
        let name = features.folder.file_name().unwrap_or_default().to_string_lossy();
        let config = self.folder.config(&format!("features-{name}"));
        let mut words = vec![
            "cache".to_owned(),
            text(&config),
            "--out".to_owned(),
            text(&features.folder),
        ];
        words.extend(["--device".to_owned(), self.device(0).to_string()]);
        words
    }

    fn train_command(&self, point: &GridPoint, job: usize) -> Vec<String> {
        let name = &point.planned.name;
        let nproc = self.args.limits.nproc;
        let mut words = Vec::new();
        if nproc > 1 {
            words.extend(["launch", "--nproc"].map(String::from));
            words.extend([nproc.to_string(), "--".to_owned()]);
        }
        words.extend(["train".to_owned(), text(&self.folder.config(name))]);
        words.extend([
            "--run-dir".to_owned(),
            text(&self.folder.run(name)),
            "--resume".to_owned(),
        ]);
        words.extend(["--device".to_owned(), self.device(job).to_string()]);
        words
    }

    fn eval_command(&self, point: &GridPoint, evaluate: &Path, job: usize) -> Vec<String> {
        let mut words = vec!["eval".to_owned(), text(evaluate)];
        words.extend(["--run".to_owned(), text(&self.folder.run(&point.planned.name))]);
        words.extend(["--device".to_owned(), self.device(job).to_string()]);
        words
    }

    /// A GPU of its own for each of several runs at once.
    fn device(&self, job: usize) -> DeviceArg {
        match self.args.device {
            DeviceArg::Cuda(None) if self.args.jobs > 1 => DeviceArg::Cuda(Some(job)),
            device => device,
        }
    }

    /// What would be run, one command a line.
    fn commands(&self, wanted: &[usize]) -> Result<Outcome> {
        let mut commands: Vec<Vec<String>> = self
            .grid
            .features
            .iter()
            .map(|features| self.cache_command(features))
            .collect();
        for &index in wanted {
            let point = &self.grid.points[index];
            let stage = self.state(point)?.stage;
            if !matches!(stage, Stage::Done | Stage::Trained) {
                commands.push(self.train_command(point, 0));
            }
            if let Some(evaluate) = &self.grid.evaluate
                && stage != Stage::Done
            {
                commands.push(self.eval_command(point, evaluate, 0));
            }
        }
        let lines: Vec<String> = commands
            .iter()
            .map(|words| format!("lidit {}", words.join(" ")))
            .collect();
        Ok(Outcome::done(lines.join("\n"), json!({ "commands": commands })))
    }

    fn outcome(&self, wanted: &[usize], failures: Vec<Failure>) -> Result<Outcome> {
        let mut runs: Vec<Value> = Vec::with_capacity(wanted.len());
        let mut done = 0;
        for &index in wanted {
            let point = &self.grid.points[index];
            let state = self.state(point)?;
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
        } else if self.stop.is_requested() {
            Exit::Stopped
        } else {
            Exit::Done
        };
        let mut said = format!(
            "{done} of {} runs are done: {}",
            wanted.len(),
            self.folder.root().display()
        );
        for failure in &failures {
            said.push_str(&format!("\nfailed: {}: {}", failure.name, failure.reason));
        }
        if exit == Exit::Stopped {
            said.push_str("\nstopped; the same command goes on");
        }
        Ok(Outcome {
            text: said,
            json: json!({ "runs": runs, "done": done, "dir": self.folder.root() }),
            exit,
        })
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn ended_with(code: Option<i32>) -> String {
    code.map_or("was killed".to_owned(), |code| format!("ended with {code}"))
}

/// What a process said last.
fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let last = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing");
    format!("{last} (all of it in {})", log.display())
}
