//! `lidit cache`: what the frozen language models say about a data set's captions, written once for many runs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use lidit_dist::World;
use lidit_train::{FeatureRequest, FeaturesWritten, RunConfig, Stop, write_features};
use serde_json::json;

use crate::device::DeviceArg;
use crate::fetch;
use crate::outcome::{Exit, Outcome};

/// Arguments of `lidit cache`.
#[derive(clap::Args)]
pub struct Args {
    /// The run's config: its captions are encoded by its language models.
    config: PathBuf,
    /// The folder: new, empty, or an earlier attempt at the same features, which goes on where it was.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Change one key: `--set encoders.cache.precision=f32`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Encode the config's validation set in the place of its data: for `validation.features`.
    #[arg(long)]
    validation: bool,
    /// cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu")]
    device: DeviceArg,
    /// Longest wait for another rank, in seconds: it must exceed the time that one file takes.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    deadline: u64,
}

/// Encodes, or continues to.
pub fn run(args: &Args) -> Result<Outcome> {
    let stop = Stop::on_signals()?;
    let world = World::from_env(Duration::from_secs(args.deadline))?;
    let mut config = RunConfig::load(&args.config, &args.sets)?;
    if args.validation {
        let validation = config.validation.as_ref();
        let validation = validation.with_context(|| format!("{} has no [validation]", args.config.display()))?;
        config = validation.set().in_place_of_data(&config);
    }
    let request = FeatureRequest {
        config: &config,
        out: &args.out,
        device: args.device.open(world.local_rank())?,
        locate: &fetch::resolve_model,
    };
    let out = args.out.display();
    Ok(match write_features(&request, &world, &stop)? {
        FeaturesWritten::Stopped { samples, total } => Outcome {
            text: format!("stopped after {samples} of {total} samples; the same command goes on: {out}"),
            json: json!({ "rows": samples, "total": total, "path": args.out }),
            exit: Exit::Stopped,
        },
        FeaturesWritten::Done(manifest) => Outcome::done(
            format!(
                "{} captions of {} samples in {} files, {} bytes: {out}",
                manifest.captions,
                manifest.samples,
                manifest.files.len() + 2,
                manifest.bytes
            ),
            json!({
                "rows": manifest.samples,
                "captions": manifest.captions,
                "bytes": manifest.bytes,
                "fingerprint": manifest.fingerprint,
                "files": manifest.files.len() + 2,
                "path": args.out,
            }),
        ),
    })
}
