//! `lidit checkpoint export RUN`: one set of weights with what they mean.

use std::path::PathBuf;

use anyhow::Result;
use lidit_train::{ExportRequest, Weights};
use serde_json::json;

use crate::device::DeviceArg;
use crate::outcome::Outcome;

/// Arguments of `lidit checkpoint export`.
#[derive(clap::Args)]
pub struct Args {
    /// The run directory.
    run: PathBuf,
    /// `raw`, `ema` or `ema:HALF_LIFE` (in samples); `ema` is the one with the longest half-life.
    #[arg(long, default_value = "ema")]
    weights: Weights,
    /// The step of the checkpoint [default: the newest].
    #[arg(long)]
    step: Option<u64>,
    /// The folder to write; missing, empty or an earlier export.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Add a training step on random inputs, with its loss and gradients: what another implementation must repeat.
    #[arg(long)]
    example: bool,
    /// Where the example is computed: cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu", requires = "example")]
    device: DeviceArg,
}

/// Writes `config.json` and `model.safetensors`.
pub fn run(args: &Args) -> Result<Outcome> {
    let export = ExportRequest {
        run: &args.run,
        step: args.step,
        weights: args.weights,
        out: &args.out,
        example: args.example.then(|| args.device.open(0)).transpose()?,
    }
    .write()?;
    let config = export.config();
    Ok(Outcome::done(
        format!("{} of step {}: {}", config.weights, config.step, args.out.display()),
        json!({ "out": args.out, "step": config.step, "weights": config.weights, "sha256": config.sha256 }),
    ))
}
