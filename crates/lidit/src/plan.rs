//! `lidit plan CONFIG`: what a run costs, and how it should come by its encoders' states, without running it.

mod rate;
mod run_price;

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use lidit_data::Dataset;
use lidit_train::{RunConfig, Sharding, TokenSample, Way, readable_bytes, readable_count};
use serde_json::{Value, json};

pub use self::rate::{Duration, RateArgs, positive};
pub use self::run_price::Plan;
use crate::fetch;
use crate::outcome::Outcome;

/// Arguments of `lidit plan`.
#[derive(clap::Args)]
pub struct Args {
    /// The run's config.
    config: PathBuf,
    /// Change one key: `--set train.steps=1000`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Runs of the sweep that would share the encoders' states: a ladder's rungs.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Number of ranks, a device each.
    #[arg(long, value_name = "W", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    world: u64,
    #[command(flatten)]
    rate: RateArgs,
}

/// Prices a run from its config, its models' headers and a sample of its captions.
pub fn run(args: &Args) -> Result<Outcome> {
    let config = RunConfig::load(&args.config, &args.sets)?;
    let dataset = Dataset::open(&config.data)?;
    let sample = TokenSample::take(&config.encoders, &dataset, &fetch::resolve_model)?;
    let rate = args.rate.flops_per_s(&config, &sample)?;
    let plan = Plan::of(&config, sample, args.runs, args.rate.device.ranks(args.world))?;
    let duration = rate.map(|rate| args.rate.duration(&plan, rate, args.world));
    let report = Report {
        plan: &plan,
        config: &config,
        world: args.world,
        timing: rate.zip(duration),
    };
    Ok(Outcome::done(report.text()?, report.json()))
}

/// A plan as it is printed.
struct Report<'a> {
    plan: &'a Plan,
    config: &'a RunConfig,
    world: u64,
    /// FLOPs a second of a device, and what follows from them.
    timing: Option<(f64, Duration)>,
}

impl Report<'_> {
    fn json(&self) -> Value {
        let plan = self.plan;
        let mut json = json!({
            "params": plan.params.total(),
            "flops_per_image": 3.0 * plan.forward,
            "memory_bytes": plan.memory.total(),
            "model": {
                "blocks": plan.params.blocks,
                "frame": plan.params.frame,
                "refiners": plan.params.refiners,
                "forward_flops": plan.forward,
            },
            "memory": plan.memory,
            "memory_table": plan.memory_table,
            "encoders": plan.encoders,
            "compute": {
                "model": plan.compute.model,
                "encoder": plan.compute.encoder,
                "total": plan.compute.total(),
            },
        });
        if let Some((rate, duration)) = &self.timing {
            json["flops_per_s"] = json!(rate);
            json["time"] = json!(duration);
        }
        json
    }

    fn text(&self) -> Result<String> {
        let mut text = String::new();
        self.parameters(&mut text)?;
        self.compute(&mut text)?;
        self.memory(&mut text)?;
        self.encoding(&mut text)?;
        Ok(text)
    }

    fn parameters(&self, text: &mut String) -> std::fmt::Result {
        let params = &self.plan.params;
        let count = |number: u64| readable_count(number as f64);
        writeln!(
            text,
            "parameters   {} trainable: backbone {}, refiners {}",
            count(params.total()),
            count(params.blocks + params.frame),
            count(params.refiners)
        )?;
        for llm in &self.plan.encoders.llm {
            writeln!(
                text,
                "encoder      {}: {} in {} layers and {} in the embedding; prompts of {:.1} tokens on average, {} at most, \
                 {} of them shared by all; {:.1} % of the captions are cut",
                llm.model,
                count(llm.layer_parameters),
                llm.depth,
                count(llm.embedding_parameters),
                llm.mean_prompt_tokens,
                llm.max_prompt_tokens,
                llm.prefix_tokens,
                100.0 * llm.cut_share
            )?;
        }
        Ok(())
    }

    fn compute(&self, text: &mut String) -> std::fmt::Result {
        let plan = self.plan;
        let encode: f64 = plan.encoders.llm.iter().map(|llm| llm.flops_per_caption).sum();
        writeln!(
            text,
            "FLOPs        {} to train on an image (forward {}), {} to encode a caption, from {} captions",
            readable_count(3.0 * plan.forward),
            readable_count(plan.forward),
            readable_count(encode),
            plan.encoders.sampled_captions
        )?;
        let train = &self.config.train;
        writeln!(
            text,
            "run          {} steps of {}: C_model {}, C_encoder {}, C_total {}",
            train.steps,
            train.global_batch,
            readable_count(plan.compute.model),
            readable_count(plan.compute.encoder),
            readable_count(plan.compute.total())
        )?;
        let Some((rate, duration)) = &self.timing else {
            return writeln!(text, "time         say --flops-per-s or --measure for hours and cost");
        };
        let cost = duration.cost.map_or(String::new(), |cost| format!(", cost {cost:.2}"));
        writeln!(
            text,
            "time         {:.2} h on {} devices of {}FLOP/s: {:.2} device-hours{cost}",
            duration.seconds / 3600.0,
            self.world,
            readable_count(*rate),
            duration.device_hours
        )
    }

    fn memory(&self, text: &mut String) -> std::fmt::Result {
        let bytes = |bytes: u64| readable_bytes(bytes as f64);
        let memory = &self.plan.memory;
        writeln!(
            text,
            "memory       {} a device of {}, estimated: weights {}, gradients {}, optimizer {}, averages {}, activations {} (micro-batch {}), encoders {}",
            bytes(memory.total()),
            self.world,
            bytes(memory.weights),
            bytes(memory.gradients),
            bytes(memory.optimizer),
            bytes(memory.ema),
            bytes(memory.activations),
            self.config.train.micro_batch,
            bytes(memory.encoders)
        )?;
        for rows in self
            .plan
            .memory_table
            .chunk_by(|a, b| (a.world, a.sharding) == (b.world, b.sharding))
        {
            let sharding = match rows[0].sharding {
                Sharding::None => "none",
                Sharding::Zero1 => "zero1",
            };
            let cells: Vec<String> = rows
                .iter()
                .map(|row| format!("{} {}", row.recompute_blocks, bytes(row.bytes)))
                .collect();
            writeln!(
                text,
                "             {:>3} ranks, sharding {sharding:<5}: by recompute_blocks {}",
                rows[0].world,
                cells.join(", ")
            )?;
        }
        Ok(())
    }

    fn encoding(&self, text: &mut String) -> std::fmt::Result {
        let price = &self.plan.encoders;
        writeln!(
            text,
            "encoding     {} captions, {} runs: cache {} FLOPs and {}; remember {} FLOPs and {} of memory a rank; on the fly {} FLOPs; training {} FLOPs",
            readable_count(price.captions),
            price.runs,
            readable_count(price.cache_flops),
            readable_bytes(price.cache_bytes),
            readable_count(price.remember_flops),
            readable_bytes(price.remember_bytes),
            readable_count(price.on_the_fly_flops),
            readable_count(price.training_flops)
        )?;
        let way = match price.recommended {
            Way::Cache => "cache",
            Way::Remember => "remember",
            Way::OnTheFly => "on the fly",
        };
        write!(text, "recommended  {way}: {}", price.why)
    }
}
