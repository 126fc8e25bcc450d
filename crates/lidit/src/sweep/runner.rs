//! Trains and evaluates the unfinished runs of a grid, a process each.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use lidit_train::Stop;

use super::commands::Commands;
use super::folder::SweepFolder;
use super::grid::{Grid, GridPoint};
use super::process::{self, Ended};
use super::progress::say;
use super::shared_features::SharedFeatures;
use super::state::{Stage, State};
use crate::launch::thread_variables;

/// Tries for a lock that somebody who only looks may hold for a moment.
const LOCK_TRIES: u32 = 20;
/// Between them.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// What went wrong with a run.
pub struct Failure {
    /// The run.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// The work on a grid.
pub struct Runner<'a> {
    /// Runs at once.
    pub jobs: u16,
    /// Where they are kept.
    pub folder: &'a SweepFolder,
    /// All of them.
    pub grid: &'a Grid,
    /// Whether somebody asked to stop.
    pub stop: &'a Stop,
    /// What runs are made of.
    pub commands: Commands<'a>,
}

impl Runner<'_> {
    /// What of the runs' shared features those of `wanted` still read that are not trained.
    pub fn needed_features(&self, wanted: &[usize]) -> Result<Vec<&SharedFeatures>> {
        let mut needed = Vec::new();
        for features in &self.grid.features {
            for &index in wanted {
                let point = &self.grid.points[index];
                if point.reads(&features.folder) && !self.is_trained(point)? {
                    needed.push(features);
                    break;
                }
            }
        }
        Ok(needed)
    }

    /// Encodes what unfinished runs share; answers whether it came to its end.
    pub fn write_features(&self, wanted: &[usize]) -> Result<bool> {
        for features in self.needed_features(wanted)? {
            if !self.encode(features)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn encode(&self, features: &SharedFeatures) -> Result<bool> {
        let name = features.name();
        let waits = || say(&format!("waiting for the process that writes {name}"));
        let Some(_lock) = self.folder.lock(&name, self.stop, waits)? else {
            return Ok(false);
        };
        say(&format!("{name}: encoding what is not there yet"));
        let log = self.folder.log(&name);
        let arguments = self.commands.cache(features);
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

    /// Runs the wanted points, some at once; answers the failures. With several at once the dearest begin first, or the last one
    /// would leave the others' cores and devices idle.
    pub fn work(&self, wanted: &[usize]) -> Vec<Failure> {
        let mut order = wanted.to_vec();
        if self.jobs > 1 {
            let cost = |index: &usize| self.grid.points[*index].planned.c_model;
            order.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
        }
        let queue: Mutex<VecDeque<usize>> = Mutex::new(order.into());
        let failures = Mutex::new(Vec::new());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        thread::scope(|scope| {
            for job in 0..usize::from(self.jobs) {
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
            if !self.process(&self.commands.train(point, job), name)? {
                return Ok(());
            }
            state = self.state(point)?;
        }
        if let Some(evaluate) = &self.grid.evaluate
            && state.stage == Stage::Trained
        {
            say(&format!("{place}: evaluating"));
            if !self.process(&self.commands.evaluate(point, &evaluate.path, job), name)? {
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
        let threads = thread_variables(usize::from(self.jobs));
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

    /// How far a run is.
    pub fn state(&self, point: &GridPoint) -> Result<State> {
        State::of(self.folder, &point.planned, self.grid.evaluate.as_ref())
    }

    /// Whether it has done all its steps.
    pub fn is_trained(&self, point: &GridPoint) -> Result<bool> {
        Ok(matches!(self.state(point)?.stage, Stage::Trained | Stage::Done))
    }
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
