//! The finished runs of a sweep, as the law and the report take them.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use lidit_scaling::law::{Point, Table};
use lidit_train::metrics::{self, StepRecord};
use lidit_train::{RunConfig, RunDir};
use serde_json::Value;

use super::difference::first_difference;
use super::folder::{PlannedPoint, Points, SweepFolder};
use super::state::{Stage, State, read_json};

/// Keys in which runs of one law may differ: size, length, and what follows from them or changes no result.
const FREE_KEYS: [&str; 27] = [
    "data.max_samples",
    "encoders.cache.rows_per_file",
    "encoders.features",
    "encoders.remember",
    "model.depth",
    "model.hidden_size",
    "model.num_heads",
    "sample",
    "train.bucket_mb",
    "train.checkpoint_every",
    "train.global_batch",
    "train.keep_every",
    "train.keep_last",
    "train.log_every",
    "train.lr",
    "train.micro_batch",
    "train.recompute_blocks",
    "train.sample_every",
    "train.seed",
    "train.sharding",
    "train.steps",
    "train.max_nonfinite",
    "train.spike_zscore",
    "train.warmup_steps",
    "validation.every",
    "validation.features",
    "validation.prompt_gain",
];

/// A run that has done all its steps.
struct Finished {
    /// As it was planned.
    planned: PlannedPoint,
    /// Its resolved config.
    config: RunConfig,
    /// `result.json`.
    result: Value,
    /// Its last logged step.
    last: StepRecord,
}

impl Finished {
    /// The finished runs of `folder`, in the grid's order. Of an axis named in `only` (`AXIS=VALUE` each), only that value.
    fn of(folder: &SweepFolder, points: &Points, only: &[String]) -> Result<Vec<Self>> {
        let mut wanted: Vec<&PlannedPoint> = points.grid.iter().collect();
        for choice in only {
            let (axis, value) = choice
                .split_once('=')
                .with_context(|| format!("--only {choice}: write AXIS=VALUE"))?;
            let is_it = |point: &&PlannedPoint| point.axes.get(axis).is_some_and(|own| own == value);
            wanted.retain(is_it);
            ensure!(
                !wanted.is_empty(),
                "--only {choice}: no run has that value; the axes are {}",
                axes_of(points)
            );
        }
        let mut finished = Vec::new();
        for point in wanted {
            let state = State::of(folder, point, points.evaluate.as_ref())?;
            if matches!(state.stage, Stage::Trained | Stage::Done) {
                finished.push(Self::read(&folder.run(&point.name), point)?);
            }
        }
        Ok(finished)
    }

    fn read(root: &Path, point: &PlannedPoint) -> Result<Self> {
        let run_dir = RunDir::find(root)?;
        let missing = || format!("run {} has no", point.name);
        Ok(Self {
            planned: point.clone(),
            config: RunConfig::load(&run_dir.config(), &[])?,
            result: read_json(&run_dir.result())?.with_context(|| format!("{} result.json", missing()))?,
            last: metrics::read(&run_dir.metrics())?
                .pop()
                .with_context(|| format!("{} logged step", missing()))?,
        })
    }

    /// The run for the law. Its loss is the one on the fixed triples.
    fn point(&self) -> Result<Point> {
        let name = &self.planned.name;
        let loss = self.result["val_loss"].as_f64().with_context(|| {
            format!("run {name} has no validation loss, the only one that runs can be compared by: give the base config a [validation]")
        })?;
        Ok(Point {
            name: name.clone(),
            n: self.planned.params as f64,
            d: self.last.tokens_seen as f64,
            c: self.last.flops,
            loss,
            se: self.result["val_loss_se"].as_f64(),
            u: Some(self.planned.unique_samples as f64),
            seed: Some(self.config.train.seed),
        })
    }
}

/// The finished runs of a sweep as a table for the law, and the image tokens of a sample.
///
/// # Errors
/// There are none, or no one law can hold for all of them.
pub fn law_table(folder: &SweepFolder, points: &Points, only: &[String]) -> Result<(Table, Option<f64>)> {
    let runs = Finished::of(folder, points, only)?;
    check_alike(&runs)?;
    let table = Table {
        points: runs.iter().map(Finished::point).collect::<Result<_>>()?,
        ignored: Vec::new(),
    };
    Ok((table, runs.first().map(|run| run.planned.image_tokens as f64)))
}

/// Refuses runs that no one law can hold for: of another objective, VAE, resolution, prompt, network but its size, or
/// judged on other triples.
fn check_alike(runs: &[Finished]) -> Result<()> {
    let Some(first) = runs.first() else {
        bail!("no run of the sweep is finished: lidit sweep status says how far they are")
    };
    for other in &runs[1..] {
        let names = (&first.planned.name, &other.planned.name);
        if let Some(key) = first_difference(&first.config, &other.config, &FREE_KEYS)? {
            return Err(anyhow!(
                "runs {} and {} differ in {key}: one law can't hold for both; choose with --only AXIS=VALUE",
                names.0,
                names.1
            ));
        }
        let digest = |run: &Finished| run.result["validation_digest"].as_str().map(str::to_owned);
        ensure!(
            digest(first) == digest(other),
            "runs {} and {} were validated on other samples, times or noise: their losses can't be compared",
            names.0,
            names.1
        );
    }
    Ok(())
}

fn axes_of(points: &Points) -> String {
    let mut axes: Vec<String> = points
        .grid
        .iter()
        .flat_map(|point| point.axes.iter().map(|(axis, value)| format!("{axis}={value}")))
        .collect();
    axes.sort_unstable();
    axes.dedup();
    axes.join(", ")
}
