//! `lidit sweep plan`: every run and what it costs, before anything is spent.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use lidit_train::{readable_bytes, readable_count};
use serde_json::{Value, json};

use super::grid::{Grid, GridPoint};
use super::table::{columns, readable_seconds};
use super::{BaseArgs, SweepArgs};
use crate::device::DeviceArg;
use crate::doctor::memory::host_memory;
use crate::outcome::Outcome;
use crate::plan::{Duration, RateArgs, positive};

/// What a process on the CPU takes beside its plan: itself, and what reads its data. Measured (docs/features.md).
const PROCESS_BYTES: f64 = 350e6;

/// Arguments of `lidit sweep plan`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    sweep: SweepArgs,
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    rate: RateArgs,
}

/// What a run may take.
#[derive(clap::Args, Clone, Copy)]
pub struct Limits {
    /// Ranks of each run, a device each.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub nproc: u16,
    /// Memory of a device in GiB; a run that needs more is refused [default: what this host has free, for --device cpu].
    #[arg(long, value_name = "GIB", value_parser = positive)]
    memory_gib: Option<f64>,
}

/// Prices the grid.
pub fn run(args: &Args) -> Result<Outcome> {
    let folder = args.sweep.folder()?;
    let base = args.base.base.as_deref();
    let ranks = args.rate.device.ranks(u64::from(args.limits.nproc));
    let grid = Grid::read(&args.sweep.sweep, base, &folder, ranks, Some(&args.rate))?;
    let timed = grid.points.iter().map(|point| args.time_of(point)).collect::<Vec<_>>();
    let report = Report { grid: &grid, timed };
    args.limits.refuse_what_cannot_fit(&grid, args.rate.device, 1)?;
    Ok(Outcome::done(report.text()?, report.json()))
}

impl Args {
    fn time_of(&self, point: &GridPoint) -> Option<Duration> {
        let rate = point.flops_per_s?;
        Some(self.rate.duration(&point.plan, rate, u64::from(self.limits.nproc)))
    }
}

impl Limits {
    /// Refuses a grid with a run that takes more memory than a device has; `at_once` runs share a host.
    ///
    /// # Errors
    /// Every such run, with what it needs.
    pub fn refuse_what_cannot_fit(&self, grid: &Grid, device: DeviceArg, at_once: u64) -> Result<()> {
        let given = self.memory_gib.map(|gib| gib * f64::from(1 << 30));
        let (limit, sharing, beside) = match (given, device) {
            (Some(limit), _) => (limit, 1, 0.0),
            (None, DeviceArg::Cpu) => match host_memory() {
                Some(free) => (free, at_once * u64::from(self.nproc), PROCESS_BYTES),
                None => return Ok(()),
            },
            // Without the GPU at hand nobody knows.
            (None, DeviceArg::Cuda(_)) => return Ok(()),
        };
        let needs = |point: &GridPoint| sharing as f64 * (point.planned.memory_bytes as f64 + beside);
        let mut refused = String::new();
        for point in grid.points.iter().filter(|point| needs(point) > limit) {
            write!(
                refused,
                "\n  {}: about {}",
                point.planned.name,
                readable_bytes(needs(point))
            )?;
        }
        if refused.is_empty() {
            return Ok(());
        }
        bail!(
            "these runs need more memory than the {} there are; lower train.micro_batch, set train.recompute_blocks, or leave \
             them out:{refused}",
            readable_bytes(limit)
        );
    }
}

struct Report<'a> {
    grid: &'a Grid,
    timed: Vec<Option<Duration>>,
}

impl Report<'_> {
    fn text(&self) -> Result<String> {
        let header = [
            "run",
            "params",
            "steps",
            "batch",
            "lr",
            "samples",
            "unique",
            "C_model",
            "C_encoder",
            "memory",
            "time",
            "cost",
        ];
        let rows: Vec<Vec<String>> = self
            .grid
            .points
            .iter()
            .zip(&self.timed)
            .map(|(point, time)| row(point, *time))
            .collect();
        let mut text = columns(&header, &rows);
        let total = |of: fn(&GridPoint) -> f64| self.grid.points.iter().map(of).sum::<f64>();
        writeln!(
            text,
            "{} runs: C_model {}, C_encoder {}",
            rows.len(),
            readable_count(total(|point| point.planned.c_model)),
            readable_count(total(|point| point.planned.c_encoder))
        )?;
        for features in &self.grid.features {
            writeln!(
                text,
                "features {}: {} FLOPs once, {}",
                features.folder.display(),
                readable_count(features.flops),
                readable_bytes(features.bytes)
            )?;
        }
        let sum = |of: fn(&Duration) -> f64| self.timed.iter().flatten().map(of).sum::<f64>();
        if self.timed.iter().all(Option::is_some) {
            let cost = self.timed.iter().flatten().filter_map(|time| time.cost).sum::<f64>();
            let cost = if cost > 0.0 {
                format!(", cost {cost:.2}")
            } else {
                String::new()
            };
            write!(
                text,
                "training {}, one after another: {:.2} device-hours{cost}; evaluation, loading and saves come on top",
                readable_seconds(sum(|time| time.seconds)),
                sum(|time| time.device_hours)
            )?;
        } else {
            write!(text, "say --measure or --flops-per-s for hours and cost")?;
        }
        Ok(text)
    }

    fn json(&self) -> Value {
        let runs: Vec<Value> = self
            .grid
            .points
            .iter()
            .zip(&self.timed)
            .map(|(point, time)| {
                let mut run = json!(point.planned);
                if let Some(object) = run.as_object_mut() {
                    object.insert("time".to_owned(), json!(time));
                    object.insert("flops_per_s".to_owned(), json!(point.flops_per_s));
                }
                run
            })
            .collect();
        let features: Vec<Value> = self
            .grid
            .features
            .iter()
            .map(|features| {
                json!({
                    "folder": features.folder,
                    "flops": features.flops,
                    "bytes": features.bytes,
                })
            })
            .collect();
        json!({ "runs": runs, "features": features })
    }
}

fn row(point: &GridPoint, time: Option<Duration>) -> Vec<String> {
    let planned = &point.planned;
    let dash = || "-".to_owned();
    vec![
        planned.name.clone(),
        readable_count(planned.params as f64),
        planned.steps.to_string(),
        planned.global_batch.to_string(),
        format!("{:.2e}", planned.lr),
        planned.samples_seen.to_string(),
        planned.unique_samples.to_string(),
        readable_count(planned.c_model),
        readable_count(planned.c_encoder),
        readable_bytes(planned.memory_bytes as f64),
        time.map_or_else(dash, |time| readable_seconds(time.seconds)),
        time.and_then(|time| time.cost)
            .map_or_else(dash, |cost| format!("{cost:.2}")),
    ]
}
