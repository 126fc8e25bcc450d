//! How far a run of a sweep is, by what lies on the disk.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use lidit_train::{RunDir, history, metrics};
use serde::Serialize;
use serde_json::Value;

use super::folder::{PlannedEvaluation, PlannedPoint, SweepFolder};
use crate::eval;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Nothing was begun.
    Waiting,
    /// Begun, and not at its last step.
    Training,
    /// Its last attempt ended with an error; the next one goes on.
    Failed,
    /// Trained to its last step; its evaluation is missing.
    Trained,
    /// Trained, and evaluated where the sweep evaluates.
    Done,
}

/// A run's stage and its numbers so far.
#[derive(Clone, Debug, Serialize)]
pub struct State {
    /// How far.
    pub stage: Stage,
    /// Whether a process is at it now.
    pub running: bool,
    /// Steps logged.
    pub step: u64,
    /// Of the last logged step.
    pub loss: Option<f64>,
    /// On the fixed triples, where the run has any.
    pub val_loss: Option<f64>,
    /// Its standard error.
    pub val_loss_se: Option<f64>,
    /// Training time so far.
    pub seconds: f64,
    /// Training time to come, at the pace of the last logged steps.
    pub seconds_left: Option<f64>,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

impl State {
    /// Reads the state of `point`.
    pub fn of(folder: &SweepFolder, point: &PlannedPoint, evaluate: Option<&PlannedEvaluation>) -> Result<Self> {
        let mut state = Self {
            stage: Stage::Waiting,
            running: false,
            step: 0,
            loss: None,
            val_loss: None,
            val_loss_se: None,
            seconds: 0.0,
            seconds_left: None,
            error: None,
        };
        let root = folder.run(&point.name);
        if !root.join("config.toml").exists() {
            return Ok(state);
        }
        state.running = folder.try_lock(&point.name)?.is_none();
        state.stage = Stage::Training;
        let run_dir = RunDir::find(&root)?;
        if let Some(last) = last_step(&run_dir.metrics())? {
            let left = point.steps.saturating_sub(last.step) as f64 * last.step_s;
            (state.step, state.loss, state.seconds) = (last.step, Some(last.loss), last.seconds);
            state.seconds_left = Some(left);
        }
        if let Some(result) = read_json(&run_dir.result())? {
            state.val_loss = result["val_loss"].as_f64();
            state.val_loss_se = result["val_loss_se"].as_f64();
            state.seconds_left = Some(0.0);
            if result["step"].as_u64().is_some_and(|step| step >= point.steps) {
                state.stage = Stage::Trained;
                if is_evaluated(&run_dir, point, evaluate)? {
                    state.stage = Stage::Done;
                }
                return Ok(state);
            }
        }
        let history = run_dir.history();
        let events = if history.exists() {
            history::read(&history)?
        } else {
            Vec::new()
        };
        if let Some(history::Event::Failed { error, .. }) = events.last().map(|line| &line.event)
            && !state.running
        {
            state.stage = Stage::Failed;
            state.error = Some(error.clone());
        }
        Ok(state)
    }
}

/// Whether the run's last weights went through the evaluation as it is now, where there is one.
fn is_evaluated(run: &RunDir, point: &PlannedPoint, evaluate: Option<&PlannedEvaluation>) -> Result<bool> {
    let Some(PlannedEvaluation { path, config }) = evaluate else {
        return Ok(true);
    };
    let evaluation = eval::finished(run, path, config)?;
    Ok(evaluation.is_some_and(|evaluation| evaluation.step() >= point.steps))
}

/// The last logged step; `None` before the first.
fn last_step(path: &Path) -> Result<Option<metrics::StepRecord>> {
    if !path.exists() {
        return Ok(None);
    }
    Ok(metrics::read(path)?.pop())
}

/// A JSON file's object; `None` where there is no such file.
pub fn read_json(path: &Path) -> Result<Option<Value>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("reading {}", path.display()))
            .map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}
