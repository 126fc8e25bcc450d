//! `lidit bench loader CONFIG`: images a second from a config's data, shuffled, decoded, cropped.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use lidit_data::{Dataset, Loader, LoaderConfig, Share, Wanted};
use lidit_train::RunConfig;
use serde_json::json;

use crate::bench::memory::peak_rss_bytes;
use crate::outcome::Outcome;

/// Arguments of `lidit bench loader`.
#[derive(clap::Args)]
pub struct Args {
    /// A run's config: its data, its global batch.
    config: PathBuf,
    /// Change one key: `--set data.path=..`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Images to load, after the warm-up.
    #[arg(long, value_name = "N", default_value_t = 8192)]
    images: usize,
    /// Steps that are loaded before the clock starts.
    #[arg(long, value_name = "N", default_value_t = 8)]
    warm_up: usize,
}

/// Times the steps of one rank that does nothing else.
pub fn run(args: &Args) -> Result<Outcome> {
    ensure!(args.images > 0, "--images must be at least 1");
    let config = RunConfig::load(&args.config, &args.sets)?;
    let batch = config.train.global_batch;
    let mut loader = Loader::new(
        Dataset::open(&config.data)?,
        LoaderConfig {
            seed: config.train.seed,
            global_batch: batch,
            micro_batch: batch,
            share: Share::ALL,
            wanted: Wanted::All,
            start_step: 0,
        },
    )?;
    for _ in 0..args.warm_up {
        loader.next_step()?;
    }
    let mut waits = Vec::new();
    let mut unusable = 0;
    let begun = Instant::now();
    for _ in 0..args.images.div_ceil(batch) {
        let waiting = Instant::now();
        unusable += loader.next_step()?.unusable.len();
        waits.push(waiting.elapsed().as_secs_f64());
    }
    let seconds = begun.elapsed().as_secs_f64();
    let images = waits.len() * batch;
    waits.sort_by(f64::total_cmp);
    let (items_per_s, median_ms) = (images as f64 / seconds, waits[waits.len() / 2] * 1e3);
    let peak = peak_rss_bytes();
    let memory = peak.map_or_else(|| "unknown".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
    let text = format!(
        "{items_per_s:.0} images/s over {seconds:.1} s ({images} images, {unusable} unusable); a step of {batch} every \
         {median_ms:.1} ms (median), peak memory {memory}"
    );
    Ok(Outcome::done(
        text,
        json!({
            "items_per_s": items_per_s,
            "median_ms": median_ms,
            "images": images,
            "unusable": unusable,
            "seconds": seconds,
            "peak_rss_bytes": peak,
        }),
    ))
}
