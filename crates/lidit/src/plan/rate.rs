//! How fast a device trains: as said, or as measured here.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lidit_train::{RunConfig, StepBench, SyntheticShape, TokenSample};
use serde::Serialize;

use super::run_price::Plan;
use crate::device::DeviceArg;

/// Steps before the clock starts, and steps that are timed.
const STEPS: [usize; 2] = [2, 3];

/// Where a plan's hours and prices come from.
#[derive(clap::Args, Clone)]
pub struct RateArgs {
    /// FLOPs a second that one device keeps up in training, such as 4e14: gives hours and GPU-hours.
    #[arg(long, value_name = "FLOPS", value_parser = positive, conflicts_with = "measure")]
    flops_per_s: Option<f64>,
    /// Measure that here, with a few steps on made-up inputs of the run's shapes.
    #[arg(long)]
    measure: bool,
    /// What an hour of one device costs, in any currency.
    #[arg(long, value_name = "PRICE", value_parser = positive)]
    price: Option<f64>,
    /// What the run will compute on, and `--measure` here: cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu")]
    pub device: DeviceArg,
}

/// A number above 0, as clap wants its parsers.
pub fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "a number is needed".to_owned())?;
    if number > 0.0 && number.is_finite() {
        Ok(number)
    } else {
        Err("it must be above 0".to_owned())
    }
}

/// What a run takes on the clock.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Duration {
    /// Wall time of training and of encoding where the run does that; loading, saves and evaluation come on top.
    pub seconds: f64,
    /// Devices times hours.
    pub device_hours: f64,
    /// In the currency of `--price`.
    pub cost: Option<f64>,
}

impl RateArgs {
    /// FLOPs a second of one device for the network of `config`; `None` where nobody said or asked.
    pub fn flops_per_s(&self, config: &RunConfig, sample: &TokenSample) -> Result<Option<f64>> {
        if !self.measure {
            return Ok(self.flops_per_s);
        }
        measure(config, sample, self.device)
            .context("measuring the step")
            .map(Some)
    }

    /// The time of `plan` on `world` devices of this rate, taking encoders to run at the same one.
    pub fn duration(&self, plan: &Plan, flops_per_s: f64, world: u64) -> Duration {
        let device_seconds = plan.compute.total() / flops_per_s;
        let device_hours = device_seconds / 3600.0;
        Duration {
            seconds: device_seconds / world as f64,
            device_hours,
            cost: self.price.map(|price| price * device_hours),
        }
    }
}

/// FLOPs a second of training's own step on one device, one micro-batch a step.
fn measure(config: &RunConfig, sample: &TokenSample, device: DeviceArg) -> Result<f64> {
    let mut config = config.clone();
    config.train.micro_batch = config.train.micro_batch.min(config.train.global_batch);
    config.train.global_batch = config.train.micro_batch;
    let prompts = sample.tokens().iter();
    let mean = |encoder: usize| {
        let tokens: usize = prompts.clone().map(|prompt| prompt[encoder].prompt).sum();
        tokens.div_ceil(sample.tokens().len())
    };
    let token = config.token_pixels()?;
    ensure!(
        config.data.image_size.is_multiple_of(token),
        "data.image_size is no multiple of a token's {token} pixels"
    );
    let shape = SyntheticShape {
        context_dims: sample.dims(),
        text_tokens: (0..sample.dims().len()).map(mean).collect(),
        size: config.data.image_size / token * config.model.patch_size as u32,
    };
    let device = device.open(0)?;
    let mut bench = StepBench::synthetic(config, &device, &shape)?;
    let [warmup, timed] = STEPS;
    for _ in 0..warmup {
        bench.step(None)?;
    }
    device.sync().context("waiting for the device")?;
    let begun = Instant::now();
    let mut flops = 0.0;
    for _ in 0..timed {
        flops += bench.step(None)?.flops;
    }
    device.sync().context("waiting for the device")?;
    Ok(flops / begun.elapsed().as_secs_f64())
}
