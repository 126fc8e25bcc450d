//! `lidit sweep report`: the sweep as one page, with its plots and its table.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lidit_scaling::law::{Fit, FitOptions};
use lidit_scaling::report::{CurveSample, HeldOutLosses, Picture, Report, ReportRun, RunStatus, Score};
use lidit_scaling::scenes::Split;
use lidit_train::metrics::{self, StepRecord};
use lidit_train::{RunConfig, RunDir, ValidationRecord, history, leaves, readable_count};
use serde_json::{Value, json};

use super::SweepArgs;
use super::finished::law_table;
use super::fit::OptionArgs;
use super::folder::{PlannedEvaluation, PlannedPoint, Points, SweepFolder};
use super::state::{Stage, State, read_json};
use crate::eval::{self, ScenesScores};
use crate::outcome::Outcome;
use crate::plan::positive;

/// Points of a curve, at most.
const CURVE: usize = 200;
/// Pictures of a run, at most.
const PICTURES: usize = 48;

/// Arguments of `lidit sweep report`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    sweep: SweepArgs,
    /// Fit the law to this value of an axis only, `AXIS=VALUE`; the page shows all runs. May be repeated.
    #[arg(long, value_name = "AXIS=VALUE")]
    only: Vec<String>,
    /// What an hour of one device costs.
    #[arg(long, value_name = "PRICE", requires = "currency", value_parser = positive)]
    price: Option<f64>,
    /// In what, such as USD.
    #[arg(long, value_name = "NAME", requires = "price")]
    currency: Option<String>,
    /// Where report.html, plots/ and table.csv go [default: report/ in the sweep's folder].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    options: OptionArgs,
}

/// Writes the page.
pub fn run(args: &Args) -> Result<Outcome> {
    let folder = args.sweep.folder()?;
    let points = folder.points()?;
    let mut notes = Vec::new();
    let fit = match fit(&folder, &points, args) {
        Ok(fit) => Some(fit),
        Err(error) => {
            notes.push(format!("There is no law: {error:#}."));
            None
        }
    };
    let mut runs = Vec::with_capacity(points.grid.len());
    let mut uncounted = Vec::new();
    for point in &points.grid {
        let (run, counts) = report_run(&folder, &points, point, args.price)?;
        if counts == Some(false) {
            uncounted.push(point.name.clone());
        }
        runs.push(run);
    }
    if !uncounted.is_empty() {
        notes.push(format!(
            "Scores of these runs mean nothing yet: their single objects are not above chance by 5 standard errors: {}.",
            uncounted.join(", ")
        ));
    }
    if points.features_flops > 0.0 {
        notes.push(format!(
            "The runs read shared features; encoding them took {} FLOPs once, which are in no run's C_encoder.",
            readable_count(points.features_flops)
        ));
    }
    let finished = runs.iter().filter(|run| run.status == RunStatus::Finished).count();
    let report = Report {
        title: points
            .sweep
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        made: made(&points, &folder)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        currency: args.currency.clone().unwrap_or_default(),
        notes,
        fit,
        runs,
    };
    let out = args.out.clone().unwrap_or_else(|| folder.root().join("report"));
    report.write(&out)?;
    let page = out.join("report.html");
    Ok(Outcome::done(
        format!("{finished} finished runs of {}: {}", report.runs.len(), page.display()),
        json!({ "runs": report.runs.len(), "finished": finished, "report": page, "law": report.fit.is_some(), "notes": report.notes }),
    ))
}

/// When the newest of what it shows was made: the same sweep has the same page.
fn made(points: &Points, folder: &SweepFolder) -> Result<String> {
    let mut newest = String::new();
    for point in &points.grid {
        let path = folder.run(&point.name).join("history.jsonl");
        if path.exists()
            && let Some(last) = history::read(&path)?.last()
        {
            newest = newest.max(last.time.clone());
        }
    }
    Ok(newest.get(..10).unwrap_or_default().to_owned())
}

fn fit(folder: &SweepFolder, points: &Points, args: &Args) -> Result<Fit> {
    let (table, tokens_per_sample) = law_table(folder, points, &args.only)?;
    let options = FitOptions {
        tokens_per_sample,
        ..args.options.options()
    };
    Ok(Fit::of(&table.points, options)?)
}

/// A run, and whether its scores count, where it has any.
fn report_run(
    folder: &SweepFolder,
    points: &Points,
    point: &PlannedPoint,
    price: Option<f64>,
) -> Result<(ReportRun, Option<bool>)> {
    let state = State::of(folder, point, points.evaluate.as_ref())?;
    let mut run = ReportRun {
        name: point.name.clone(),
        status: status_of(state.stage),
        axes: point.axes.clone(),
        n: Some(point.params as f64),
        u: Some(point.unique_samples as f64),
        ..ReportRun::default()
    };
    if state.stage == Stage::Waiting {
        return Ok((run, None));
    }
    let run_dir = RunDir::find(&folder.run(&point.name))?;
    let config = RunConfig::load(&run_dir.config(), &[])?;
    run.seed = Some(config.train.seed);
    run.config = flat(&config)?;
    let steps = if run_dir.metrics().exists() {
        metrics::read(&run_dir.metrics())?
    } else {
        Vec::new()
    };
    run.curve = curve(&steps);
    if let Some(last) = steps.last() {
        run.d = Some(last.tokens_seen as f64);
        run.c = Some(last.flops);
        run.c_encoder = Some(point.c_encoder);
        run.c_total = Some(last.flops + point.c_encoder);
    }
    if let Some(result) = read_json(&run_dir.result())? {
        run.loss = result["val_loss"].as_f64();
        run.se = result["val_loss_se"].as_f64();
        run.prompt_gain = result["prompt_gain"].as_f64();
        run.prompt_gain_se = result["prompt_gain_se"].as_f64();
        if let Some(record) = validation(&run_dir, &result)? {
            run.held_out_gains =
                Some(held_out(&record, record.sample_gains())).filter(|gains| !gains.losses.is_empty());
            run.held_out = Some(held_out(&record, record.sample_losses()));
        }
        run.seconds = result["wall_seconds"].as_f64();
        run.goodput = result["goodput"].as_f64();
        run.devices = devices(&run_dir)?;
        run.cost = run.device_hours().zip(price).map(|(hours, price)| hours * price);
    }
    let mut counts = None;
    if let Some(PlannedEvaluation { path, config }) = &points.evaluate
        && let Some(evaluation) = eval::finished(&run_dir, path, config)?
        && let Some(scenes) = evaluation.scenes()
    {
        judged(&mut run, scenes, &eval::folder(&run_dir, path))?;
        counts = Some(scenes.counts);
    }
    Ok((run, counts))
}

/// The last step's losses on the validation triples.
fn validation(run: &RunDir, result: &Value) -> Result<Option<ValidationRecord>> {
    match result["step"].as_u64() {
        Some(step) => ValidationRecord::read(run, step),
        None => Ok(None),
    }
}

/// What `record` has of each sample.
fn held_out(record: &ValidationRecord, losses: Vec<f64>) -> HeldOutLosses {
    HeldOutLosses {
        digest: record.digest.clone(),
        losses,
    }
}

/// Ranks of the run's last attempt, a device each.
fn devices(run: &RunDir) -> Result<Option<f64>> {
    let events = history::read(&run.history())?;
    let ranks = events.iter().rev().find_map(|line| match line.event {
        history::Event::Started { world_size, .. } => Some(world_size as f64),
        _ => None,
    });
    Ok(ranks)
}

/// Adds what the judge says of the pictures in `folder`.
fn judged(run: &mut ReportRun, scenes: &ScenesScores, folder: &Path) -> Result<()> {
    for line in scenes.categories.iter().filter(|line| line.split == Split::All) {
        run.scores.insert(line.category.name().to_owned(), score(&line.score));
    }
    run.quartiles = scenes.quartiles.iter().map(|line| score(&line.score)).collect();
    // Some of each category: they follow each other.
    let stride = scenes.pictures.len().div_ceil(PICTURES).max(1);
    for picture in scenes.pictures.iter().step_by(stride) {
        let file = folder.join(&picture.file);
        let right = picture.right.iter().filter(|right| **right).count();
        run.pictures.push(Picture {
            png: fs::read(&file).with_context(|| format!("reading {}", file.display()))?,
            prompt: picture.prompt.clone(),
            verdict: format!("{right} of {} hold", picture.right.len()),
            right: Some(right == picture.right.len()),
        });
    }
    Ok(())
}

fn score(score: &lidit_scaling::scenes::Score) -> Score {
    Score {
        mean: score.mean,
        low: score.low,
        high: score.high,
        n: score.n as u64,
        chance: Some(score.chance),
    }
}

fn status_of(stage: Stage) -> RunStatus {
    match stage {
        Stage::Waiting => RunStatus::Planned,
        Stage::Training => RunStatus::Unfinished,
        Stage::Failed => RunStatus::Failed,
        Stage::Trained | Stage::Done => RunStatus::Finished,
    }
}

/// Logged losses, averaged over as many as it takes to show few.
fn curve(steps: &[StepRecord]) -> Vec<CurveSample> {
    let together = steps.len().div_ceil(CURVE).max(1);
    let chunks = steps.chunks(together).filter_map(|chunk| {
        let losses: Vec<f64> = chunk
            .iter()
            .map(|step| step.loss)
            .filter(|loss| loss.is_finite())
            .collect();
        let last = chunk.last()?;
        (!losses.is_empty()).then(|| CurveSample {
            c: last.flops,
            loss: losses.iter().sum::<f64>() / losses.len() as f64,
        })
    });
    chunks.collect()
}

/// A config's values by their dotted keys.
fn flat(config: &RunConfig) -> Result<BTreeMap<String, String>> {
    let table: toml::Table = config.to_toml()?.parse().context("a resolved config")?;
    let text = |value: toml::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Ok(leaves(&table)
        .into_iter()
        .map(|(key, value)| (key, text(value)))
        .collect())
}
