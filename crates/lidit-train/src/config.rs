//! What a run is: one typed tree, every result-changing value written down.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use lidit_data::DataConfig;
use lidit_dist::Wire;
use lidit_encoders::{LlmConfig, PrefixKind, PromptFormat, TemplateConfig};
use lidit_model::{InputNorm, ModelConfig, Objective, Pooling, Sampler};
use serde::{Deserialize, Deserializer, Serialize};

use crate::latents::VaeConfig;
use crate::start::StartConfig;
use crate::validation::ValidationConfig;

/// Version of the resolved config's format, `format_version`.
pub const FORMAT_VERSION: u32 = 1;

/// A whole run, as `configs/run/*.toml` resolve to it and `RUN/config.toml` stores it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Always `FORMAT_VERSION` of this file.
    pub format_version: u32,
    /// Which pictures and captions.
    pub data: DataConfig,
    /// Which frozen language models read the captions, and how.
    pub encoders: EncodersConfig,
    /// What lies between pictures and network.
    pub vae: VaeConfig,
    /// The trainable network.
    pub model: ModelConfig,
    /// What the network is trained to predict.
    pub objective: Objective,
    /// How it is trained.
    pub train: TrainConfig,
    /// How pictures are drawn, in training and by `lidit sample`.
    pub sample: SampleConfig,
    /// Whose weights it begins with; random ones without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<StartConfig>,
    /// Held-out triples of sample, time and noise on which it is judged; none without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationConfig>,
}

/// The frozen prompt encoders of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncodersConfig {
    /// Normalisation of each encoder's states before projection and pooling.
    pub input_norm: InputNorm,
    /// Which tokens the pooled text vector averages.
    pub pooling: Pooling,
    /// How system prompt, instruction and caption are joined.
    pub format: PromptFormat,
    /// What is said before each caption: the paper's switch, and its controls.
    pub prefix: PrefixKind,
    /// What the language model is told it is.
    pub system_prompt: String,
    /// What it is told to do with the caption.
    pub instruction: String,
    /// Longer captions are cut to this many tokens; nothing else of a prompt is.
    pub max_caption_tokens: usize,
    /// Leave out the states of each prompt's first token, the attention sink.
    pub drop_first_token: bool,
    /// What the language models compute in.
    pub precision: lidit_encoders::Precision,
    /// What is kept in memory of encoded prompts.
    pub remember: Remember,
    /// Folder of features that `lidit cache` wrote; with it training loads no language model.
    #[serde(default, deserialize_with = "empty_is_none")]
    pub features: Option<PathBuf>,
    /// How `lidit cache` stores features.
    pub cache: CacheConfig,
    /// The language models, each encoding alone.
    pub llm: Vec<LlmConfig>,
}

/// How `lidit cache` stores features.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    /// The type of the stored states; `bf16` takes half the room and rounds to 8 bits of mantissa.
    pub precision: lidit_encoders::Precision,
    /// Samples a file: what a rank encodes before it can be stopped, and what a killed one loses.
    pub rows_per_file: u64,
}

/// Which encoded prompts stay in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remember {
    /// Every caption of the data set, encoded once before the first step: for sets that fit.
    Dataset,
    /// None: each micro-batch is encoded when it is needed.
    Nothing,
}

impl EncodersConfig {
    /// The prompt template that all language models share.
    pub fn template(&self) -> TemplateConfig {
        TemplateConfig {
            format: self.format,
            prefix: self.prefix,
            system_prompt: self.system_prompt.clone(),
            instruction: self.instruction.clone(),
            max_caption_tokens: self.max_caption_tokens,
            drop_first_token: self.drop_first_token,
        }
    }
}

/// Optimisation, precision, parallelism and record keeping of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimizer steps of the whole run; the rate's schedule ends here.
    pub steps: u64,
    /// Seeds weights, sample order, timesteps, noise and dropout.
    pub seed: u64,
    /// Samples a step, over all ranks.
    pub global_batch: usize,
    /// Most samples a rank runs forward and backward at once; changes memory, not results.
    pub micro_batch: usize,
    /// 0 keeps all activations for the backward pass; n keeps the input of every n blocks and computes the rest again.
    /// Changes memory and time, not results.
    pub recompute_blocks: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// The refiners' rate is this times `lr`; refiners are all that `lidit plan` counts as such.
    pub refiner_lr_ratio: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// The cosine ends at `lr * min_lr_ratio`.
    pub min_lr_ratio: f64,
    /// `AdamW`'s decay rates of the first and second moment.
    pub betas: [f32; 2],
    /// `AdamW`'s epsilon.
    pub eps: f32,
    /// `AdamW`'s decoupled weight decay, on matrices and kernels only; not on modulation and gates.
    pub weight_decay: f32,
    /// Gradients are scaled so that their global norm is at most this.
    pub max_grad_norm: f64,
    /// The run stops after this many steps in a row whose loss or gradient is not finite; each of them is skipped.
    pub max_nonfinite: u64,
    /// A loss so many standard deviations above the running mean is recorded as a spike; 0 for none. Changes no result.
    pub spike_zscore: f64,
    /// Half-lives of the weight averages, in samples.
    pub ema_half_lives: Vec<u64>,
    /// What the network computes in.
    pub precision: Precision,
    /// Who owns the optimizer's state.
    pub sharding: Sharding,
    /// The type in which gradients travel between ranks.
    pub reduce_dtype: ReduceDtype,
    /// Megabytes of f32 gradient that travel at once, while the next are made ready. Changes time and memory, not results.
    pub bucket_mb: usize,
    /// Share of samples trained with an empty caption, for guidance.
    pub caption_dropout: f32,
    /// Steps between checkpoints; the last step always saves.
    pub checkpoint_every: u64,
    /// Checkpoints kept, newest first.
    pub keep_last: usize,
    /// Checkpoints at multiples of this many steps are kept for good; 0 for none.
    pub keep_every: u64,
    /// Steps between logged lines.
    pub log_every: u64,
    /// Steps between sample grids; 0 for none.
    pub sample_every: u64,
    /// Leave after this step as SIGTERM would. Never stored.
    #[serde(skip_serializing)]
    pub stop_after: Option<u64>,
}

/// What the network computes in. Masters, moments, norms and the loss are f32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit weights and activations.
    F32,
    /// Weights rounded to bf16, bf16 activations.
    Bf16,
}

/// Who owns the optimizer's state in flat space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharding {
    /// Every rank owns all of it; gradients are all-reduced.
    None,
    /// Each rank owns a contiguous range; gradients are reduce-scattered, weights all-gathered.
    Zero1,
}

/// The type in which gradients travel between ranks; a single rank's don't travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReduceDtype {
    /// As they are.
    F32,
    /// Rounded to bf16: half the bytes, and results depend on the number of ranks beyond the order of sums.
    Bf16,
}

impl From<ReduceDtype> for Wire {
    fn from(dtype: ReduceDtype) -> Self {
        match dtype {
            ReduceDtype::F32 => Self::F32,
            ReduceDtype::Bf16 => Self::Bf16,
        }
    }
}

/// How pictures are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleConfig {
    /// What the grids of a training run show.
    pub prompts: Vec<String>,
    /// Seeds the starting noise.
    pub seed: u64,
    /// Update rule, steps, guidance.
    pub sampler: Sampler,
}

impl RunConfig {
    /// Refuses combinations that can't run, each by its key.
    pub fn validate(&self) -> Result<()> {
        ensure!(
            self.format_version == FORMAT_VERSION,
            "format_version is {}, this lidit reads {FORMAT_VERSION}",
            self.format_version
        );
        self.train.validate()?;
        ensure!(
            !self.encoders.llm.is_empty(),
            "encoders.llm is empty: name at least one language model"
        );
        for (i, llm) in self.encoders.llm.iter().enumerate() {
            llm.choice().with_context(|| format!("encoders.llm.{i}"))?;
        }
        ensure!(
            self.encoders.max_caption_tokens > 0,
            "encoders.max_caption_tokens is 0: captions would never be seen"
        );
        ensure!(
            self.encoders.cache.rows_per_file > 0,
            "encoders.cache.rows_per_file is 0: a file holds at least one sample"
        );
        self.data.validate()?;
        self.vae.validate()?;
        // A VAE's factor is known when its folder is read: LatentSpace checks against it.
        let image_size = match self.vae {
            VaeConfig::Identity | VaeConfig::Normalized(_) => self.data.image_size as usize,
            VaeConfig::Kl(_) => self.model.patch_size,
        };
        self.model.validate(self.encoders.llm.len(), image_size)?;
        if let Some(start) = &self.start {
            start.validate()?;
        }
        if let Some(validation) = &self.validation {
            validation.validate(&self.train, &self.encoders)?;
        }
        self.objective.validate()?;
        self.sample.sampler.validate(&self.objective)?;
        if self.train.sample_every > 0 && self.sample.prompts.is_empty() {
            bail!(
                "train.sample_every is {} but sample.prompts is empty: name prompts or set train.sample_every = 0",
                self.train.sample_every
            );
        }
        Ok(())
    }

    /// Pixels along one side of an image token. Reads the VAE's config, where there is one.
    pub fn token_pixels(&self) -> Result<u32> {
        Ok((self.vae.factor()? * self.model.patch_size) as u32)
    }

    /// The resolved config as TOML, the text of `RUN/config.toml`.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).context("writing the config as TOML")
    }
}

/// `--set encoders.features=` takes the key back.
pub(crate) fn empty_is_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    Ok(Option::deserialize(from)?.filter(|path: &PathBuf| !path.as_os_str().is_empty()))
}

impl TrainConfig {
    fn validate(&self) -> Result<()> {
        ensure!(self.steps > 0, "train.steps is 0: nothing to train");
        ensure!(self.global_batch > 0, "train.global_batch is 0");
        ensure!(self.micro_batch > 0, "train.micro_batch is 0");
        ensure!(
            self.lr.is_finite() && self.lr > 0.0,
            "train.lr is {}: it must be above 0",
            self.lr
        );
        ensure!(
            self.refiner_lr_ratio.is_finite() && self.refiner_lr_ratio > 0.0,
            "train.refiner_lr_ratio is {}: it must be above 0",
            self.refiner_lr_ratio
        );
        ensure!(
            (0.0..=1.0).contains(&self.min_lr_ratio),
            "train.min_lr_ratio is {}: it must be between 0 and 1",
            self.min_lr_ratio
        );
        ensure!(
            self.betas.iter().all(|beta| (0.0..1.0).contains(beta)),
            "train.betas is {:?}: both must be at least 0 and below 1",
            self.betas
        );
        ensure!(
            self.eps > 0.0 && self.eps.is_finite(),
            "train.eps is {}: it must be above 0",
            self.eps
        );
        ensure!(
            self.weight_decay >= 0.0 && self.weight_decay.is_finite(),
            "train.weight_decay is {}: it must be at least 0",
            self.weight_decay
        );
        ensure!(
            self.max_grad_norm > 0.0,
            "train.max_grad_norm is {}: it must be above 0 (a large number never clips)",
            self.max_grad_norm
        );
        ensure!(
            self.max_nonfinite > 0,
            "train.max_nonfinite is 0: 1 stops the run at its first step that is not finite"
        );
        ensure!(
            self.spike_zscore.is_finite() && self.spike_zscore >= 0.0,
            "train.spike_zscore is {}: it must be above 0, or 0 to record no spikes",
            self.spike_zscore
        );
        ensure!(
            self.bucket_mb > 0,
            "train.bucket_mb is 0: at least one megabyte travels at once"
        );
        ensure!(
            self.ema_half_lives.iter().all(|&half_life| half_life > 0),
            "train.ema_half_lives has a 0: half-lives are in samples and above 0"
        );
        ensure!(
            (0.0..=1.0).contains(&self.caption_dropout),
            "train.caption_dropout is {}: it must be between 0 and 1",
            self.caption_dropout
        );
        ensure!(
            self.checkpoint_every > 0,
            "train.checkpoint_every is 0: the last step saves in any case, so name a number of steps"
        );
        ensure!(
            self.keep_last > 0,
            "train.keep_last is 0: the newest checkpoint is always kept"
        );
        ensure!(
            self.keep_every.is_multiple_of(self.checkpoint_every),
            "train.keep_every is {}: it must be a multiple of train.checkpoint_every = {}, or 0 to keep none for good",
            self.keep_every,
            self.checkpoint_every
        );
        ensure!(self.log_every > 0, "train.log_every is 0");
        Ok(())
    }
}
