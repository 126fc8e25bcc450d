//! `lidit bench step CONFIG`: what a training step takes, and where its time goes.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use lidit_data::Dataset;
use lidit_train::{
    Phase, PhaseClock, Remember, RunConfig, StepBench, SyntheticShape, TokenSample, VaeConfig, readable_bytes,
    readable_count,
};
use serde_json::{Value, json};

use crate::bench::gemm::Gemm;
use crate::bench::memory::{peak_rss_bytes, pool_bytes};
use crate::device::DeviceArg;
use crate::fetch;
use crate::outcome::Outcome;

/// Steps of the table of phases, at most.
const WATCHED: usize = 5;

/// Arguments of `lidit bench step`.
#[derive(clap::Args)]
pub struct Args {
    /// A run's config.
    config: PathBuf,
    /// Change one key: `--set train.micro_batch=8`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Short for `--set train.precision=..`.
    #[arg(long, value_parser = ["f32", "bf16"])]
    precision: Option<String>,
    /// Steps that are timed.
    #[arg(long, value_name = "N", default_value_t = 10)]
    steps: usize,
    /// Steps before the clock starts.
    #[arg(long, value_name = "N", default_value_t = 3)]
    warmup: usize,
    /// cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu")]
    device: DeviceArg,
    /// Train on random pictures and prompt states instead of the config's data and encoders, of which nothing is read.
    #[arg(long, requires_all = ["context_dims", "text_tokens"])]
    synthetic: bool,
    /// Of synthetic inputs: widths of the language models' states, such as 576,640.
    #[arg(long, value_name = "WIDTH,..", value_delimiter = ',', requires = "synthetic")]
    context_dims: Vec<usize>,
    /// Of synthetic inputs: caption tokens in each language model, or one number for all. There is no instruction.
    #[arg(long, value_name = "COUNT,..", value_delimiter = ',', requires = "synthetic")]
    text_tokens: Vec<usize>,
    /// Of synthetic inputs: height and width of what the network sees, latents or pixels [default: `data.image_size`, where
    /// it sees pixels].
    #[arg(long, value_name = "SIDE", requires = "synthetic")]
    size: Option<u32>,
}

/// Times a run's steps; nothing is written.
pub fn run(args: &Args) -> Result<Outcome> {
    ensure!(args.steps > 0, "--steps must be at least 1");
    let mut sets = args.sets.clone();
    sets.extend(
        args.precision
            .iter()
            .map(|precision| format!("train.precision={precision:?}")),
    );
    let config = RunConfig::load(&args.config, &sets)?;
    let device = args.device.open(0)?;
    let (mut bench, encode_flops) = match args.shape(&config)? {
        Some(shape) => (StepBench::synthetic(config.clone(), &device, &shape)?, None),
        None => (
            StepBench::new(config.clone(), &device, &fetch::resolve_model)?,
            Some(encode_flops(&config)?),
        ),
    };
    let timing = Timing::take(args, &mut bench, &device)?;
    let (peak, pool) = (peak_rss_bytes(), pool_bytes(&device));
    let gemm = Gemm::on(&device);
    let report = Report {
        args,
        config: &config,
        parameters: bench.parameters(),
        timing,
        encode_flops,
        peak,
        pool,
        ceiling: gemm.ceiling(&device, config.train.precision)?,
        gemm,
    };
    let conditioning = bench.conditioning();
    let mut json = report.json();
    // For a peer that makes the same step.
    json["network"] = json!({
        "model": config.model,
        "conditioning": {
            "context_dims": conditioning.context_dims,
            "input_norm": conditioning.input_norm,
            "pooling": conditioning.pooling,
        },
        "objective": config.objective,
        "train": config.train,
    });
    Ok(Outcome::done(report.text()?, json))
}

impl Args {
    /// The shapes of synthetic inputs, where they are asked for.
    fn shape(&self, config: &RunConfig) -> Result<Option<SyntheticShape>> {
        if !self.synthetic {
            return Ok(None);
        }
        ensure!(
            self.size.is_some() || !matches!(config.vae, VaeConfig::Kl(_)),
            "--size: say how high and wide the latents are; the config's VAE, which would tell, is not read"
        );
        let size = self.size.unwrap_or(config.data.image_size);
        let text_tokens = match self.text_tokens[..] {
            [tokens] => vec![tokens; self.context_dims.len()],
            _ => self.text_tokens.clone(),
        };
        Ok(Some(SyntheticShape {
            context_dims: self.context_dims.clone(),
            text_tokens,
            size,
        }))
    }
}

/// What the language models compute in a step: nothing where their states are at hand.
fn encode_flops(config: &RunConfig) -> Result<f64> {
    if config.encoders.features.is_some() || config.encoders.remember == Remember::Dataset {
        return Ok(0.0);
    }
    let dataset = Dataset::open(&config.data)?;
    let sample = TokenSample::take(&config.encoders, &dataset, &fetch::resolve_model)?;
    // A dropped caption is the empty one, which costs nothing beyond the prefix.
    let drawn = config.train.global_batch as f64 * f64::from(1.0 - config.train.caption_dropout);
    Ok(drawn * sample.flops_per_caption())
}

/// What steps took.
struct Timing {
    /// Of each step, ascending.
    seconds: Vec<f64>,
    /// Of a step that was watched, on average: each phase, and all of it.
    phases: [f64; Phase::ALL.len()],
    watched: f64,
    /// Model FLOPs of a step, on average.
    flops: f64,
    /// Of the last step.
    loss: f64,
}

impl Timing {
    /// Warms up, times steps as training makes them, and watches some more.
    fn take(args: &Args, bench: &mut StepBench, device: &Device) -> Result<Self> {
        for _ in 0..args.warmup {
            bench.step(None)?;
        }
        let (mut seconds, mut flops, mut loss) = (Vec::with_capacity(args.steps), 0.0, 0.0);
        device.sync().context("waiting for the device")?;
        let mut begun = Instant::now();
        for step in 1..=args.steps {
            let stats = bench.step(None)?;
            if step == args.steps {
                // What the last step left under way is its own.
                device.sync().context("waiting for the device")?;
            }
            let now = Instant::now();
            seconds.push((now - begun).as_secs_f64());
            begun = now;
            flops += stats.flops / args.steps as f64;
            loss = stats.loss;
        }
        seconds.sort_by(f64::total_cmp);
        let watched = args.steps.min(WATCHED);
        let clock = PhaseClock::new(device);
        let mut all = Duration::ZERO;
        for _ in 0..watched {
            let begun = Instant::now();
            bench.step(Some(&clock))?;
            all += begun.elapsed();
        }
        let mean = |spent: Duration| spent.as_secs_f64() / watched as f64;
        Ok(Self {
            seconds,
            phases: clock.spent().map(mean),
            watched: mean(all),
            flops,
            loss,
        })
    }

    fn median(&self) -> f64 {
        self.seconds[self.seconds.len() / 2]
    }

    fn slowest(&self) -> f64 {
        self.seconds[self.seconds.len() - 1]
    }
}

struct Report<'a> {
    args: &'a Args,
    config: &'a RunConfig,
    parameters: usize,
    timing: Timing,
    /// `None` for synthetic inputs.
    encode_flops: Option<f64>,
    peak: Option<u64>,
    pool: Option<u64>,
    gemm: Gemm,
    /// FLOP/s.
    ceiling: f64,
}

impl Report<'_> {
    fn images_per_s(&self) -> f64 {
        self.config.train.global_batch as f64 / self.timing.median()
    }

    /// Model FLOPs a second.
    fn rate(&self) -> f64 {
        self.timing.flops / self.timing.median()
    }

    fn json(&self) -> Value {
        let timing = &self.timing;
        let phases = Phase::ALL.iter().zip(timing.phases);
        let phases: serde_json::Map<_, _> = phases
            .map(|(phase, seconds)| (phase.name().to_owned(), json!(seconds * 1e3)))
            .collect();
        json!({
            "device": self.args.device.to_string(),
            "precision": self.config.train.precision,
            "synthetic": self.args.synthetic,
            "parameters": self.parameters,
            "global_batch": self.config.train.global_batch,
            "micro_batch": self.config.train.micro_batch,
            "median_ms": timing.median() * 1e3,
            "min_ms": timing.seconds[0] * 1e3,
            "max_ms": timing.slowest() * 1e3,
            "steps_ms": timing.seconds.iter().map(|seconds| seconds * 1e3).collect::<Vec<_>>(),
            "images_per_s": self.images_per_s(),
            "items_per_s": self.images_per_s(),
            "phases_ms": phases,
            "watched_step_ms": timing.watched * 1e3,
            "flops_per_step": timing.flops,
            "encode_flops_per_step": self.encode_flops,
            "flops_per_s": self.rate(),
            "gemm": { "side": self.gemm.side, "flops_per_s": self.ceiling },
            "mfu": self.rate() / self.ceiling,
            "peak_rss_bytes": self.peak,
            "device_pool_bytes": self.pool,
            "loss": timing.loss,
        })
    }

    fn text(&self) -> Result<String> {
        let timing = &self.timing;
        let mut text = String::new();
        writeln!(
            text,
            "step         {:.1} ms (median of {}, {:.1} to {:.1}), {:.2} images/s: {} parameters, batch {}",
            timing.median() * 1e3,
            timing.seconds.len(),
            timing.seconds[0] * 1e3,
            timing.slowest() * 1e3,
            self.images_per_s(),
            readable_count(self.parameters as f64),
            self.config.train.global_batch,
        )?;
        writeln!(
            text,
            "arithmetic   {} model FLOPs a step, {} FLOP/s: MFU {:.1} % of {} FLOP/s, the best product of {side} x {side}",
            readable_count(timing.flops),
            readable_count(self.rate()),
            100.0 * self.rate() / self.ceiling,
            readable_count(self.ceiling),
            side = self.gemm.side,
        )?;
        if let Some(flops) = self.encode_flops {
            writeln!(text, "encoders     {} FLOPs a step", readable_count(flops))?;
        }
        let bytes =
            |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), |bytes| readable_bytes(bytes as f64));
        write!(text, "memory       {} at most in this process", bytes(self.peak))?;
        if self.pool.is_some() {
            write!(text, ", {} in the device's pool", bytes(self.pool))?;
        }
        write!(
            text,
            "\nwhere        {:.1} ms a step, waiting for the device after each phase:",
            timing.watched * 1e3
        )?;
        for (phase, seconds) in Phase::ALL.iter().zip(timing.phases) {
            let share = 100.0 * seconds / timing.watched;
            write!(
                text,
                "\n  {:<10} {:>10.2} ms {share:>5.1} %",
                phase.name(),
                seconds * 1e3
            )?;
        }
        if self.config.train.recompute_blocks > 0 {
            write!(text, "\n  (backward holds the forward passes that are run again)")?;
        }
        Ok(text)
    }
}
