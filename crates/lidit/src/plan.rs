//! `lidit plan CONFIG`: what a run costs, and how it should come by its encoders' states, without running it.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use lidit_data::Dataset;
use lidit_model::{Conditioning, ImageTokens, ParameterCounts, forward_flops, parameter_counts};
use lidit_train::{EncodePrice, MemoryEstimate, RunConfig, TokenSample, Way, readable_bytes};
use serde_json::json;

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
    /// Number of ranks, for the memory of one.
    #[arg(long, value_name = "W", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    world: u64,
}

/// What a run costs.
pub struct Plan {
    /// Trainable parameters, by part.
    pub params: ParameterCounts,
    forward: f64,
    /// Of one rank's device.
    pub memory: MemoryEstimate,
    /// What the frozen encoders add.
    pub encoders: EncodePrice,
}

/// Prices a run from its config, its models' headers and a sample of its captions.
pub fn run(args: &Args) -> Result<Outcome> {
    let config = RunConfig::load(&args.config, &args.sets)?;
    let dataset = Dataset::open(&config.data)?;
    let sample = TokenSample::take(&config.encoders, &dataset, &fetch::resolve_model)?;
    let plan = Plan::of(&config, sample, args.runs, args.world)?;
    Ok(Outcome::done(plan.text(&config, args)?, plan.json()))
}

impl Plan {
    /// Prices `config` with a sample of its captions, for a sweep of `runs` runs of `world` ranks each.
    pub fn of(config: &RunConfig, sample: TokenSample, runs: u64, world: u64) -> Result<Self> {
        let conditioning = Conditioning {
            context_dims: sample.dims(),
            input_norm: config.encoders.input_norm,
            pooling: config.encoders.pooling,
        };
        let token = config.token_pixels()?;
        let pixels = config.data.image_size;
        ensure!(
            pixels.is_multiple_of(token),
            "data.image_size is {pixels}: it must be a multiple of a token's {token} pixels"
        );
        let side = (pixels / token) as usize;
        let image = ImageTokens {
            rows: side,
            columns: side,
        };
        let params = parameter_counts(&config.model, &conditioning);
        let flops = |text: &Vec<_>| forward_flops(&config.model, &conditioning, image, text) as f64;
        let forward = sample.tokens().iter().map(flops).sum::<f64>() / sample.tokens().len() as f64;
        let loaded = match config.encoders.features {
            Some(_) => 0,
            None => sample.weight_bytes(),
        };
        let memory = MemoryEstimate::new(
            &config.model,
            &config.train,
            params.total(),
            world,
            image,
            &sample.longest(),
            loaded,
        );
        Ok(Self {
            params,
            forward,
            memory,
            encoders: EncodePrice::new(config, sample, runs, 3.0 * forward),
        })
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "params": self.params.total(),
            "flops_per_image": 3.0 * self.forward,
            "memory_bytes": self.memory.total(),
            "model": {
                "blocks": self.params.blocks,
                "frame": self.params.frame,
                "refiners": self.params.refiners,
                "forward_flops": self.forward,
            },
            "memory": self.memory,
            "encoders": self.encoders,
        })
    }

    fn text(&self, config: &RunConfig, args: &Args) -> Result<String> {
        let mut text = String::new();
        let count = |number: f64| lidit_train::readable_count(number);
        let params = &self.params;
        writeln!(
            text,
            "parameters   {} trainable: backbone {}, refiners {}",
            count(params.total() as f64),
            count((params.blocks + params.frame) as f64),
            count(params.refiners as f64)
        )?;
        let price = &self.encoders;
        for llm in &price.llm {
            writeln!(
                text,
                "encoder      {}: {} in {} layers and {} in the embedding; prompts of {:.1} tokens on average, {} at most, \
                 {} of them shared by all; {:.1} % of the captions are cut",
                llm.model,
                count(llm.layer_parameters as f64),
                llm.depth,
                count(llm.embedding_parameters as f64),
                llm.mean_prompt_tokens,
                llm.max_prompt_tokens,
                llm.prefix_tokens,
                100.0 * llm.cut_share
            )?;
        }
        let encode: f64 = price.llm.iter().map(|llm| llm.flops_per_caption).sum();
        writeln!(
            text,
            "FLOPs        {} to train on an image (forward {}), {} to encode a caption, from {} captions",
            count(3.0 * self.forward),
            count(self.forward),
            count(encode),
            price.sampled_captions
        )?;
        let bytes = |bytes: u64| readable_bytes(bytes as f64);
        let memory = &self.memory;
        writeln!(
            text,
            "memory       {} a device of {}, estimated: weights {}, gradients {}, optimizer {}, averages {}, activations {} (micro-batch {}), encoders {}",
            bytes(memory.total()),
            args.world,
            bytes(memory.weights),
            bytes(memory.gradients),
            bytes(memory.optimizer),
            bytes(memory.ema),
            bytes(memory.activations),
            config.train.micro_batch,
            bytes(memory.encoders)
        )?;
        writeln!(
            text,
            "encoding     {} captions, {} runs: cache {} FLOPs and {}; remember {} FLOPs and {} of memory a rank; on the fly {} FLOPs; training {} FLOPs",
            count(price.captions),
            price.runs,
            count(price.cache_flops),
            readable_bytes(price.cache_bytes),
            count(price.remember_flops),
            readable_bytes(price.remember_bytes),
            count(price.on_the_fly_flops),
            count(price.training_flops)
        )?;
        let way = match price.recommended {
            Way::Cache => "cache",
            Way::Remember => "remember",
            Way::OnTheFly => "on the fly",
        };
        write!(text, "recommended  {way}: {}", price.why)?;
        Ok(text)
    }
}
