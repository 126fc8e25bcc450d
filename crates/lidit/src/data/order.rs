//! `lidit data order CONFIG --steps N`: the sample ids that each rank would see.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use lidit_data::{Dataset, LoaderConfig};
use lidit_train::RunConfig;
use serde_json::json;

use crate::outcome::Outcome;

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
    /// Change one key: `--set train.seed=1`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

/// Lists ids without reading a picture.
pub fn run(args: &Args) -> Result<Outcome> {
    let config = RunConfig::load(&args.config, &args.sets)?;
    let dataset = Dataset::open(&config.data)?;
    let mut text = String::new();
    let mut steps = Vec::new();
    for step in args.start..args.start.saturating_add(args.steps) {
        for rank in 0..args.world.max(1) {
            let loader = LoaderConfig {
                seed: config.train.seed,
                global_batch: config.train.global_batch,
                micro_batch: config.train.micro_batch,
                rank,
                world_size: args.world,
                start_step: step,
            };
            loader.validate()?;
            let draws = dataset.draws(loader.seed, step, &loader.share());
            let ids: Vec<u64> = draws.iter().map(|draw| draw.id).collect();
            writeln!(text, "step {step} rank {rank}: {ids:?}")?;
            steps.push(json!({ "step": step, "rank": rank, "ids": ids }));
        }
    }
    Ok(Outcome::done(text.trim_end(), json!({ "steps": steps })))
}
