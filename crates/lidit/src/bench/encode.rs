//! `lidit bench encode CONFIG`: captions a second through each frozen language model of a config.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use lidit_data::Dataset;
use lidit_encoders::{EncoderSpec, PromptEncoder, cost};
use lidit_train::RunConfig;
use serde_json::{Value, json};

use crate::device::DeviceArg;
use crate::fetch;
use crate::outcome::Outcome;

/// Arguments of `lidit bench encode`.
#[derive(clap::Args)]
pub struct Args {
    /// A run's config: its data set's captions, its template, its language models.
    config: PathBuf,
    /// Change one key: `--set encoders.precision=bf16`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Captions to encode, the first of the data set; a smaller set is repeated.
    #[arg(long, value_name = "N", default_value_t = 512)]
    captions: usize,
    /// Times that all captions are encoded, after one warm-up on the first 32.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Compute every prompt from its first token on, instead of the instruction once.
    #[arg(long)]
    no_reuse: bool,
    /// Also write each model's prompts as lists of token ids, for a peer to encode the same.
    #[arg(long, value_name = "FILE.json")]
    prompts_out: Option<PathBuf>,
    /// cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu")]
    device: DeviceArg,
}

/// Times each language model alone.
pub fn run(args: &Args) -> Result<Outcome> {
    ensure!(
        args.captions > 0 && args.rounds > 0,
        "--captions and --rounds must be at least 1"
    );
    let config = RunConfig::load(&args.config, &args.sets)?;
    let captions = captions(&config, args.captions)?;
    let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
    let device = args.device.open(0)?;
    let mut results = Vec::new();
    let mut prompts = Vec::new();
    let mut text = String::new();
    for llm in &config.encoders.llm {
        let path = fetch::resolve_model(&llm.model)?;
        let spec = EncoderSpec::open(
            &path,
            llm.choice()?,
            config.encoders.template(),
            config.encoders.precision,
        )?;
        prompts.push(json!({ "model": llm.model, "path": path, "ids": ids(&spec, &captions)? }));
        let result = time(spec, &captions, args, &device)?;
        text.push_str(&result.line(&llm.model, captions.len()));
        results.push(result.json(&llm.model, captions.len()));
    }
    if let Some(path) = &args.prompts_out {
        std::fs::write(path, serde_json::to_vec(&prompts)?).with_context(|| format!("writing {}", path.display()))?;
    }
    let json = json!({
        "captions": captions.len(),
        "median_ms": results[0]["median_ms"],
        "items_per_s": results[0]["items_per_s"],
        "models": results,
    });
    Ok(Outcome::done(text, json))
}

/// What one model's rounds took.
struct Timing {
    /// Of each round, ascending.
    seconds: Vec<f64>,
    /// Of all prompts.
    tokens: usize,
    /// Those that were not shared.
    computed: usize,
    /// Of a round.
    flops: u64,
}

impl Timing {
    fn median(&self) -> f64 {
        self.seconds[self.seconds.len() / 2]
    }

    fn items_per_s(&self, items: usize) -> f64 {
        items as f64 / self.median()
    }

    fn line(&self, model: &str, items: usize) -> String {
        let rate = |seconds: f64| items as f64 / seconds;
        let a_caption = |tokens: usize| tokens as f64 / items as f64;
        format!(
            "{model}: {:.1} captions/s (median of {}, {:.1} to {:.1}), {:.1} tokens a caption, {:.1} of them computed, {:.0} GFLOP/s\n",
            self.items_per_s(items),
            self.seconds.len(),
            self.seconds.last().copied().map_or(f64::NAN, rate),
            self.seconds.first().copied().map_or(f64::NAN, rate),
            a_caption(self.tokens),
            a_caption(self.computed),
            self.flops as f64 / self.median() / 1e9,
        )
    }

    fn json(&self, model: &str, items: usize) -> Value {
        json!({
            "model": model,
            "median_ms": self.median() * 1e3,
            "items_per_s": self.items_per_s(items),
            "seconds": self.seconds,
            "tokens": self.tokens,
            "tokens_computed": self.computed,
            "gflop_per_s": self.flops as f64 / self.median() / 1e9,
        })
    }
}

fn time(spec: EncoderSpec, captions: &[&str], args: &Args, device: &Device) -> Result<Timing> {
    let mut encoder: PromptEncoder = spec.load(device)?;
    if args.no_reuse {
        encoder = encoder.without_reuse()?;
    }
    encoder.encode(&captions[..captions.len().min(32)])?;
    let mut seconds = Vec::new();
    let (mut tokens, mut computed, mut flops) = (0, 0, 0);
    for _ in 0..args.rounds {
        let begun = Instant::now();
        let states = encoder.encode(captions)?;
        seconds.push(begun.elapsed().as_secs_f64());
        tokens = states.iter().map(|prompt| prompt.ids.len()).sum();
        computed = states.iter().map(|prompt| prompt.ids.len() - prompt.shared).sum();
        let price = |new, all| cost::flops(encoder.llm().shape(), encoder.llm().depth(), new, all);
        flops = states
            .iter()
            .map(|prompt| price(prompt.ids.len() - prompt.shared, prompt.ids.len()))
            .sum();
    }
    seconds.sort_by(f64::total_cmp);
    Ok(Timing {
        seconds,
        tokens,
        computed,
        flops,
    })
}

fn captions(config: &RunConfig, count: usize) -> Result<Vec<String>> {
    let all: Vec<String> = Dataset::open(&config.data)?
        .captions()?
        .into_iter()
        .filter_map(|(_, captions)| captions.into_iter().next())
        .collect();
    ensure!(!all.is_empty(), "the data has no captions");
    Ok(all.iter().cycle().take(count).cloned().collect())
}

fn ids(spec: &EncoderSpec, captions: &[&str]) -> Result<Vec<Vec<u32>>> {
    let prompts = captions.iter().map(|caption| Ok(spec.prompt(caption)?.ids));
    prompts.collect()
}
