//! `lidit sweep status`: how far every run is.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use lidit_train::Stop;
use serde_json::{Value, json};

use super::SweepArgs;
use super::folder::{Points, SweepFolder};
use super::progress::show;
use super::state::{Stage, State};
use super::table::{columns, readable_seconds};
use crate::outcome::Outcome;

/// Between two looks at whether somebody asked to stop.
const POLL: Duration = Duration::from_millis(200);

/// Arguments of `lidit sweep status`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    sweep: SweepArgs,
    /// Show it again every so many seconds, until all is done or Ctrl-C.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
}

/// Reads what lies on the disk.
pub fn run(args: &Args) -> Result<Outcome> {
    let folder = args.sweep.folder()?;
    let Some(seconds) = args.watch else {
        let points = folder.points()?;
        return Ok(outcome(&points, &states(&folder, &points)?));
    };
    let stop = Stop::on_signals()?;
    loop {
        let points = folder.points()?;
        let states = states(&folder, &points)?;
        let now = outcome(&points, &states);
        if stop.is_requested() || states.iter().all(|state| state.stage == Stage::Done) {
            return Ok(now);
        }
        show(&now.text);
        let mut left = Duration::from_secs(seconds);
        while !left.is_zero() && !stop.is_requested() {
            thread::sleep(POLL);
            left = left.saturating_sub(POLL);
        }
    }
}

fn states(folder: &SweepFolder, points: &Points) -> Result<Vec<State>> {
    let of = |point| State::of(folder, point, points.evaluate.as_ref());
    points.grid.iter().map(of).collect()
}

fn outcome(points: &Points, states: &[State]) -> Outcome {
    let header = ["run", "stage", "step", "of", "loss", "validation", "spent", "left"];
    let number = |number: Option<f64>| number.map_or("-".to_owned(), |number| format!("{number:.5}"));
    let rows: Vec<Vec<String>> = points
        .grid
        .iter()
        .zip(states)
        .map(|(point, state)| {
            let running = if state.running { " now" } else { "" };
            vec![
                point.name.clone(),
                format!("{}{running}", name_of(state.stage)),
                state.step.to_string(),
                point.steps.to_string(),
                number(state.loss),
                number(state.val_loss),
                readable_seconds(state.seconds),
                state.seconds_left.map_or("-".to_owned(), readable_seconds),
            ]
        })
        .collect();
    let mut text = columns(&header, &rows);
    let done = states.iter().filter(|state| state.stage == Stage::Done).count();
    let _ = write!(text, "{done} of {} runs are done", states.len());
    for (point, state) in points.grid.iter().zip(states) {
        if let Some(error) = &state.error {
            let _ = write!(text, "\nfailed: {}: {error}", point.name);
        }
    }
    let runs: Vec<Value> = points
        .grid
        .iter()
        .zip(states)
        .map(|(point, state)| {
            let mut run = json!(state);
            run["name"] = json!(point.name);
            run["steps"] = json!(point.steps);
            run
        })
        .collect();
    Outcome::done(text, json!({ "runs": runs, "done": done }))
}

fn name_of(stage: Stage) -> &'static str {
    match stage {
        Stage::Waiting => "waiting",
        Stage::Training => "training",
        Stage::Failed => "failed",
        Stage::Trained => "trained",
        Stage::Done => "done",
    }
}
