//! Made-up inputs of given shapes, for benchmarks on machines that have neither data nor language models.

use std::sync::Arc;

use anyhow::{Result, ensure};
use lidit_data::{Bucket, MicroBatch, SampleRng, Stream};
use lidit_encoders::PromptStates;

use crate::config::TrainConfig;

/// The shapes of made-up inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntheticShape {
    /// Width of each language model's states.
    pub context_dims: Vec<usize>,
    /// Tokens of every prompt, one a language model. All are the caption's: there is no instruction.
    pub text_tokens: Vec<usize>,
    /// Height and width of what the network sees: pixels, or latents.
    pub size: u32,
}

impl SyntheticShape {
    /// Refuses shapes that can't be, each by its option's name.
    pub fn validate(&self, patch_size: usize) -> Result<()> {
        ensure!(
            !self.context_dims.is_empty() && !self.context_dims.contains(&0),
            "--context-dims: every language model's states have at least one feature"
        );
        ensure!(
            self.text_tokens.len() == self.context_dims.len() && !self.text_tokens.contains(&0),
            "--text-tokens: {} numbers for the {} language models of --context-dims, each at least 1",
            self.text_tokens.len(),
            self.context_dims.len()
        );
        ensure!(
            self.size > 0 && (self.size as usize).is_multiple_of(patch_size),
            "--size {} is not a multiple of model.patch_size = {patch_size}",
            self.size
        );
        Ok(())
    }
}

/// Standard normal pictures and prompt states, the same in every process. Nothing is read.
pub struct SyntheticInputs {
    dims: Vec<usize>,
    /// Of the samples `0..`, one a sample of a global batch.
    prompts: Vec<Arc<Vec<PromptStates>>>,
    pictures: Vec<Vec<f32>>,
    size: Bucket,
}

impl SyntheticInputs {
    /// Inputs of `shape` for `samples` samples whose pictures have `channels` channels.
    pub fn new(shape: &SyntheticShape, channels: usize, samples: usize) -> Self {
        let side = shape.size as usize;
        let prompt = |sample| {
            let models = shape.context_dims.iter().zip(&shape.text_tokens).enumerate();
            let states = models.map(|(model, (&dim, &tokens))| PromptStates {
                ids: vec![0; tokens],
                states: normal(sample, 1 + model as u64, tokens * dim),
                dim,
                shared: 0,
                caption: 0..tokens,
                num_cut: 0,
            });
            Arc::new(states.collect())
        };
        let samples = 0..samples as u64;
        Self {
            dims: shape.context_dims.clone(),
            prompts: samples.clone().map(prompt).collect(),
            pictures: samples
                .map(|sample| normal(sample, 0, channels * side * side))
                .collect(),
            size: Bucket::square(shape.size),
        }
    }

    /// Widths of the language models' states.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Every language model's states of a sample's prompt, whatever its caption: dropout takes nothing away.
    pub fn prompt(&self, sample: u64) -> Arc<Vec<PromptStates>> {
        self.prompts[sample as usize % self.prompts.len()].clone()
    }

    /// What the network sees of some samples, `[B, C, H, W]`.
    pub fn pictures(&self, samples: &[u64]) -> Vec<f32> {
        let picture = |sample: &u64| self.pictures[*sample as usize % self.pictures.len()].iter();
        samples.iter().flat_map(picture).copied().collect()
    }

    /// The micro-batches of a step of one rank. Every step has the same pictures and other noise.
    pub fn step(&self, step: u64, train: &TrainConfig) -> Vec<MicroBatch> {
        let ids: Vec<u64> = (0..train.global_batch as u64).collect();
        let batch = |ids: &[u64]| MicroBatch {
            epochs: vec![step; ids.len()],
            ids: ids.to_vec(),
            positions: ids.iter().map(|id| step * train.global_batch as u64 + id).collect(),
            pixels: Vec::new(),
            captions: vec![String::new(); ids.len()],
            weights: vec![1.0; ids.len()],
            size: self.size,
        };
        ids.chunks(train.micro_batch).map(batch).collect()
    }
}

fn normal(sample: u64, what: u64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    SampleRng::new(0, what, sample, Stream::Generation).fill_normal(&mut values);
    values
}
