//! `lidit data order CONFIG --steps N`: the sample ids that each rank would see.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use lidit_data::{Dataset, LoaderConfig, OrderReport, Share, Wanted};
use lidit_train::RunConfig;
use serde_json::json;

use crate::outcome::Outcome;

// What `--report` looks at besides the config's own.
const WINDOWS: [u64; 4] = [1024, 4096, 16_384, 65_536];
const WORLDS: [usize; 4] = [1, 2, 8, 64];

/// Arguments of `lidit data order`.
#[derive(clap::Args)]
pub struct Args {
    /// The run's config.
    config: PathBuf,
    /// How many steps.
    #[arg(long, value_name = "N")]
    steps: u64,
    /// The first of them.
    #[arg(long, value_name = "STEP", default_value_t = 0)]
    start: u64,
    /// Number of ranks.
    #[arg(long, value_name = "W", default_value_t = 1)]
    world: usize,
    /// Also say how well the order shuffles and what ranks must read, for several windows.
    #[arg(long)]
    report: bool,
    /// Change one key: `--set train.seed=1`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

/// Lists ids without reading a picture.
pub fn run(args: &Args) -> Result<Outcome> {
    let config = RunConfig::load(&args.config, &args.sets)?;
    let dataset = Dataset::open(&config.data)?;
    let order = dataset.order(config.train.seed, config.train.global_batch);
    let mut text = String::new();
    let mut steps = Vec::new();
    for step in args.start..args.start.saturating_add(args.steps) {
        for rank in 0..args.world.max(1) {
            let share = Share {
                rank,
                world_size: args.world,
            };
            LoaderConfig {
                seed: config.train.seed,
                global_batch: config.train.global_batch,
                micro_batch: config.train.micro_batch,
                share,
                wanted: Wanted::Captions,
                start_step: step,
            }
            .validate()?;
            let ids: Vec<u64> = order.draws(step, &share).iter().map(|draw| draw.id).collect();
            writeln!(text, "step {step} rank {rank}: {ids:?}")?;
            steps.push(json!({ "step": step, "rank": rank, "ids": ids }));
        }
    }
    let mut json = json!({ "steps": steps });
    if args.report {
        let reports = reports(&dataset, &config)?;
        table(&mut text, &reports)?;
        json["report"] = serde_json::to_value(&reports)?;
    }
    Ok(Outcome::done(text.trim_end(), json))
}

/// The configured window, and others with lanes of as many rows.
fn reports(dataset: &Dataset, config: &RunConfig) -> Result<Vec<OrderReport>> {
    let (own, lanes) = (config.data.shuffle_window, config.data.lanes);
    let lane = own / lanes;
    let mut windows = vec![(own, lanes)];
    let others = WINDOWS.into_iter().filter(|window| *window != own && *window >= lane);
    windows.extend(others.map(|window| (window, window / lane)));
    windows.push((dataset.len().max(own), 1));
    windows.sort_unstable();
    windows
        .into_iter()
        .map(|windows| Ok(dataset.report(config.train.seed, config.train.global_batch, windows, &WORLDS)?))
        .collect()
}

fn table(text: &mut String, reports: &[OrderReport]) -> Result<()> {
    write!(text, "window lanes displacement neighbours same_block reading_by_ranks")?;
    for report in reports {
        let OrderReport { window, lanes, .. } = report;
        write!(
            text,
            "\n{window} {lanes} {:.3} {:.3} {:.5}",
            report.mean_displacement, report.neighbour_correlation, report.same_block
        )?;
        for read in &report.read_amplification {
            write!(text, " {}:{:.2}", read.world_size, read.rows)?;
        }
    }
    Ok(())
}
