//! What the frozen encoders cost a run and a sweep, encoded on the fly, remembered, or once for all.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lidit_data::Dataset;
use lidit_encoders::cost::{LlmCost, flops};
use lidit_encoders::{EncoderSpec, Precision};
use lidit_model::TextTokens;
use serde::Serialize;

use crate::conditioner::open_spec;
use crate::config::{EncodersConfig, RunConfig};
use crate::readable::readable_bytes;

/// Samples whose captions are tokenized, evenly spaced over the data set's part.
const SAMPLED: u64 = 512;
/// What a row of features takes beside its states and ids: itself, and for every encoder. Measured.
const ROW_BYTES: (f64, f64) = (110.0, 230.0);
/// Remembered states that are taken to fit beside a run, on the host.
const REMEMBERED_BYTES: f64 = 4e9;
/// A share of the training's FLOPs that is not worth a folder.
const NEGLIGIBLE: f64 = 0.01;

/// One encoder's price, from its header and a sample of the captions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LlmPrice {
    /// As the config names it.
    pub model: String,
    /// Width of a state.
    pub dim: usize,
    /// Layers that are computed.
    pub depth: usize,
    /// Parameters of those layers.
    pub layer_parameters: u64,
    /// Parameters of the embedding, which stays quantised on the host.
    pub embedding_parameters: u64,
    /// Bytes of the layers on the device.
    pub weight_bytes: u64,
    /// Tokens that prompts share and that are computed and stored once.
    pub prefix_tokens: usize,
    /// Tokens of a prompt beyond those, on average.
    pub mean_own_tokens: f64,
    /// Tokens of a prompt, on average.
    pub mean_prompt_tokens: f64,
    /// Tokens of the longest prompt met.
    pub max_prompt_tokens: usize,
    /// Tokens of the longest caption met.
    pub max_caption_tokens: usize,
    /// Share of the captions that the limit cuts.
    pub cut_share: f64,
    /// FLOPs of the prefix, computed once.
    pub prefix_flops: u64,
    /// FLOPs of a caption behind the prefix, on average.
    pub flops_per_caption: f64,
}

/// What the encoders of a run cost by each way of having their states.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EncodePrice {
    /// In config order.
    pub llm: Vec<LlmPrice>,
    /// Captions that were tokenized.
    pub sampled_captions: usize,
    /// Captions of the data set's part, alternatives counted: from the sample.
    pub captions: f64,
    /// Runs of the sweep.
    pub runs: u64,
    /// FLOPs of training the network over the sweep, for comparison.
    pub training_flops: f64,
    /// FLOPs of encoding over the sweep when every batch encodes its captions.
    pub on_the_fly_flops: f64,
    /// FLOPs when each run encodes the data set once.
    pub remember_flops: f64,
    /// Host memory of a rank for it.
    pub remember_bytes: f64,
    /// FLOPs of `lidit cache`, once for the sweep.
    pub cache_flops: f64,
    /// What it leaves on the disk.
    pub cache_bytes: f64,
    /// `cache`, `remember` or `on_the_fly`.
    pub recommended: Way,
    /// Why, in a paragraph.
    pub why: String,
}

/// How a run comes by its encoders' states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// `lidit cache`, then `encoders.features`.
    Cache,
    /// `encoders.remember = "dataset"`.
    Remember,
    /// `encoders.remember = "nothing"`.
    OnTheFly,
}

/// The encoders of a config with a tokenized sample of its captions.
#[derive(Clone)]
pub struct TokenSample {
    llm: Vec<LlmPrice>,
    /// Of every sampled caption, one an encoder.
    tokens: Vec<Vec<TextTokens>>,
    captions: f64,
    cache_bytes_per_caption: f64,
    prefix_bytes: f64,
}

impl TokenSample {
    /// Tokenizes the captions of at most 512 samples. Reads the models' headers, no weights.
    pub fn take(config: &EncodersConfig, dataset: &Dataset, locate: &dyn Fn(&str) -> Result<PathBuf>) -> Result<Self> {
        let ids = dataset.subset().spread(SAMPLED);
        let count = ids.len();
        let samples = dataset.captions_of(&ids)?;
        let captions: Vec<&str> = samples
            .iter()
            .flat_map(|(_, captions)| captions)
            .map(String::as_str)
            .collect();
        ensure!(
            !captions.is_empty(),
            "none of {count} sampled rows of the data has a caption: look at it with lidit data inspect"
        );
        let mut sample = Self {
            llm: Vec::new(),
            tokens: vec![Vec::new(); captions.len()],
            captions: captions.len() as f64 / count as f64 * dataset.len() as f64,
            cache_bytes_per_caption: ROW_BYTES.0
                + captions.iter().map(|text| text.len() as f64).sum::<f64>() / captions.len() as f64,
            prefix_bytes: 0.0,
        };
        for (i, llm) in config.llm.iter().enumerate() {
            let path = locate(&llm.model).with_context(|| format!("encoders.llm.{i}.model"))?;
            let spec = open_spec(config, llm, &path).with_context(|| format!("reading encoders.llm.{i}"))?;
            let price = sample.price(&llm.model, &spec, config, &captions)?;
            let width = price.dim as f64 * bytes_of(config.cache.precision) as f64 + 4.0;
            sample.cache_bytes_per_caption += ROW_BYTES.1 + price.mean_own_tokens * width;
            sample.prefix_bytes += price.prefix_tokens as f64 * width;
            sample.llm.push(price);
        }
        Ok(sample)
    }

    /// Widths of the encoders' states.
    pub fn dims(&self) -> Vec<usize> {
        self.llm.iter().map(|llm| llm.dim).collect()
    }

    /// What all encoders compute for a caption behind the prefix, on average.
    pub fn flops_per_caption(&self) -> f64 {
        self.llm.iter().map(|llm| llm.flops_per_caption).sum()
    }

    /// Every sampled caption's tokens, one an encoder.
    pub fn tokens(&self) -> &[Vec<TextTokens>] {
        &self.tokens
    }

    /// What a batch is padded to at most, one an encoder.
    pub fn longest(&self) -> Vec<TextTokens> {
        let longest = |llm: &LlmPrice| TextTokens {
            prompt: llm.max_prompt_tokens,
            caption: llm.max_caption_tokens,
        };
        self.llm.iter().map(longest).collect()
    }

    /// Bytes of the frozen layers on the device.
    pub fn weight_bytes(&self) -> u64 {
        self.llm.iter().map(|llm| llm.weight_bytes).sum()
    }

    fn price(
        &mut self,
        model: &str,
        spec: &EncoderSpec,
        config: &EncodersConfig,
        captions: &[&str],
    ) -> Result<LlmPrice> {
        let (depth, skipped) = (spec.depth()?, spec.num_skipped());
        let prompts = captions.iter().map(|caption| Tokens::of(spec, caption));
        let prompts = prompts.collect::<Result<Vec<_>>>()?;
        let mean = |of: &dyn Fn(&Tokens) -> f64| prompts.iter().map(of).sum::<f64>() / prompts.len() as f64;
        for (tokens, prompt) in self.tokens.iter_mut().zip(&prompts) {
            tokens.push(prompt.seen);
        }
        let cost = LlmCost::new(spec.shape(), depth);
        let prefix = spec.prefix_ids().len();
        Ok(LlmPrice {
            model: model.to_owned(),
            dim: spec.shape().hidden_size,
            depth,
            layer_parameters: cost.layer_parameters,
            embedding_parameters: cost.embedding_parameters,
            weight_bytes: cost.layer_parameters * bytes_of(config.precision),
            prefix_tokens: prefix.saturating_sub(skipped),
            mean_own_tokens: mean(&|prompt| prompt.stored as f64),
            mean_prompt_tokens: mean(&|prompt| prompt.seen.prompt as f64),
            max_prompt_tokens: prompts.iter().map(|prompt| prompt.seen.prompt).max().unwrap_or(0),
            max_caption_tokens: prompts.iter().map(|prompt| prompt.seen.caption).max().unwrap_or(0),
            cut_share: mean(&|prompt| if prompt.num_cut > 0 { 1.0 } else { 0.0 }),
            prefix_flops: flops(spec.shape(), depth, prefix, prefix),
            flops_per_caption: mean(&|prompt| {
                flops(spec.shape(), depth, prompt.all - prompt.shared, prompt.all) as f64
            }),
        })
    }
}

/// The tokens of one prompt.
struct Tokens {
    all: usize,
    /// Of them, those that all prompts begin with.
    shared: usize,
    /// Those that a cache stores with the caption.
    stored: usize,
    seen: TextTokens,
    num_cut: usize,
}

impl Tokens {
    fn of(spec: &EncoderSpec, caption: &str) -> Result<Self> {
        let prompt = spec.prompt(caption)?;
        let skipped = spec.num_skipped().min(prompt.ids.len());
        let pairs = prompt.ids.iter().zip(spec.prefix_ids());
        let shared = pairs.take_while(|(own, prefix)| own == prefix).count();
        Ok(Self {
            all: prompt.ids.len(),
            shared,
            stored: prompt.ids.len() - shared.max(skipped),
            seen: TextTokens {
                prompt: prompt.ids.len() - skipped,
                caption: prompt.caption.end.saturating_sub(prompt.caption.start.max(skipped)),
            },
            num_cut: prompt.num_cut,
        })
    }
}

impl EncodePrice {
    /// The price over `runs` runs of `config`, whose network takes `flops_per_image` to train on one image.
    pub fn new(config: &RunConfig, sample: TokenSample, runs: u64, flops_per_image: f64) -> Self {
        let seen = (config.train.steps * config.train.global_batch as u64) as f64;
        let prefix: f64 = sample.llm.iter().map(|llm| llm.prefix_flops as f64).sum();
        let caption = sample.flops_per_caption();
        let state_bytes: f64 = sample
            .llm
            .iter()
            .map(|llm| llm.mean_prompt_tokens * 4.0 * llm.dim as f64)
            .sum();
        let sweep = runs as f64;
        // A dropped caption is the empty one, which costs nothing beyond the prefix.
        let drawn = seen * f64::from(1.0 - config.train.caption_dropout);
        let once = prefix + sample.captions * caption;
        let mut price = Self {
            sampled_captions: sample.tokens.len(),
            captions: sample.captions,
            runs,
            training_flops: sweep * seen * flops_per_image,
            on_the_fly_flops: sweep * (prefix + drawn * caption),
            remember_flops: sweep * once,
            remember_bytes: sample.captions * state_bytes,
            cache_flops: once,
            cache_bytes: sample.prefix_bytes + sample.captions * sample.cache_bytes_per_caption,
            llm: sample.llm,
            recommended: Way::OnTheFly,
            why: String::new(),
        };
        price.recommend();
        price
    }

    fn recommend(&mut self) {
        let fits = self.remember_bytes <= REMEMBERED_BYTES;
        let cheap = self.remember_flops <= self.cache_flops.max(NEGLIGIBLE * self.training_flops);
        self.recommended = if fits && cheap && self.remember_flops <= self.on_the_fly_flops {
            Way::Remember
        } else if self.cache_flops < self.on_the_fly_flops {
            Way::Cache
        } else {
            Way::OnTheFly
        };
        let share = |flops: f64| match 100.0 * flops / self.training_flops {
            percent if percent < 0.01 => "under 0.01 %".to_owned(),
            percent => format!("{percent:.2} %"),
        };
        let facts = format!(
            "over {} runs, encoding on the fly takes {} of the network's training FLOPs, once a run {}, once for all {}",
            self.runs,
            share(self.on_the_fly_flops),
            share(self.remember_flops),
            share(self.cache_flops)
        );
        let (memory, disk) = (readable_bytes(self.remember_bytes), readable_bytes(self.cache_bytes));
        self.why = match self.recommended {
            Way::Remember => format!(
                "{facts}; the remembered states take {memory} of each rank's host memory, so a folder of {disk} to write and keep \
                 would gain nothing worth it: set encoders.remember = \"dataset\""
            ),
            Way::Cache if fits => format!(
                "{facts}; remembered states would take {memory} of each rank's memory and be encoded anew by every run and \
                 rank, a folder of {disk} serves all: run lidit cache, then set encoders.features"
            ),
            Way::Cache => format!(
                "{facts}; remembered states would take {memory} of each rank's memory, which is too much, a folder of {disk} \
                 serves all runs: run lidit cache, then set encoders.features"
            ),
            Way::OnTheFly => format!(
                "{facts}; the runs together see fewer captions than the data set has, so encoding all of them would cost more \
                 than it saves, and a folder of {disk} on top: set encoders.remember = \"nothing\""
            ),
        };
    }
}

fn bytes_of(precision: Precision) -> u64 {
    match precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    }
}
