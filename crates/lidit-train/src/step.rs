//! One optimizer step over this rank's share of the global batch.

use std::num::NonZeroUsize;

use anyhow::{Result, ensure};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use lidit_data::{Bucket, MicroBatch, SampleSum};
use lidit_dist::World;
use lidit_model::{Conditioning, ImageTokens, LiDit, LossBatch, Losses, PromptBatch, forward_flops};

use crate::checkpoint_writer::Progress;
use crate::conditioner::{Conditioned, Conditioner};
use crate::config::RunConfig;
use crate::gradients::{Ownership, clip_factor};
use crate::latents::{LatentSpace, PIXEL_CHANNELS};
use crate::layout::{FlatGradients, FlatLayout};
use crate::loss_bins::{BINS, LossBins};
use crate::sample_draws::draw;
use crate::schedule::LrSchedule;
use crate::state::TrainState;
use crate::stop::Stop;

/// What stays the same from step to step.
pub struct Stepper<'a> {
    /// The run's config.
    pub config: &'a RunConfig,
    /// Frozen encoders.
    pub conditioner: &'a Conditioner,
    /// What lies between pictures and network.
    pub latents: &'a LatentSpace,
    /// What the network knows of the encoders.
    pub conditioning: &'a Conditioning,
    /// Flat space.
    pub layout: &'a FlatLayout,
    /// Who updates what.
    pub ownership: &'a Ownership,
    /// The ranks.
    pub world: &'a World,
    /// Where the network lies, with autodiff.
    pub device: &'a Device,
    /// Whether somebody asked to stop.
    pub stop: &'a Stop,
    /// How far this rank is with the save under way.
    pub saving: Progress,
}

/// What a step says of itself; the same on every rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepStats {
    /// Mean loss over the global batch's usable samples.
    pub loss: f64,
    /// Unweighted losses of the same samples, by their times.
    pub loss_bins: LossBins,
    /// L2 norm of the mean gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// Usable samples of the global batch.
    pub usable: usize,
    /// Model FLOPs, forward and backward, of the global batch.
    pub flops: f64,
    /// Caption tokens that the limit cut off the global batch's prompts, over all encoders.
    pub caption_tokens_cut: u64,
    /// Image tokens of the global batch, unusable samples included.
    pub image_tokens: u64,
    /// The samples that all ranks trained on.
    pub samples: SampleSum,
    /// Some rank was asked to stop.
    pub stop: bool,
    /// How far all ranks are with the save under way.
    pub saving: Progress,
}

impl StepStats {
    /// Samples of the global batch that could not be used.
    pub fn unusable(&self) -> u64 {
        self.samples.samples - self.usable as u64
    }
}

impl Stepper<'_> {
    /// Runs `micro_batches` forward and backward, reduces, clips, and updates `state` by one step.
    ///
    /// # Errors
    /// A peer was lost, a prompt can't be encoded, or loss or gradient are not finite (nothing is updated then).
    pub fn step(&self, state: &mut TrainState, micro_batches: &[MicroBatch]) -> Result<StepStats> {
        let mut gradients: Option<Tensor<1>> = None;
        let mut local = LocalSums::default();
        for batch in micro_batches {
            let (gradient, sums) = self.forward_backward(state, batch)?;
            gradients = Some(match gradients {
                Some(so_far) => so_far + gradient,
                None => gradient,
            });
            local.add(&sums);
        }
        // A rank without a sample still takes part in the reduction.
        let gradients = gradients.unwrap_or_else(|| Tensor::zeros([self.layout.len()], &self.device.clone().inner()));
        local.stop = f64::from(u8::from(self.is_stop_due(state.step + 1)));
        local.saving = self.saving;
        let total = local.over_all_ranks(self.world)?;
        let usable = total.usable.max(1.0);
        let mean = self.ownership.reduce(gradients, self.world)?.div_scalar(usable);
        let grad_norm = self.ownership.norm(&mean, self.world)?;
        let loss = total.loss / usable;
        ensure!(
            loss.is_finite() && grad_norm.is_finite(),
            "step {}: loss {loss}, gradient norm {grad_norm}: not finite, so nothing was updated; lower train.lr or look at the data",
            state.step + 1
        );
        let lr = LrSchedule::new(&self.config.train).lr(state.step);
        let clipped = mean.mul_scalar(clip_factor(grad_norm, self.config.train.max_grad_norm));
        self.update(state, &clipped, lr)?;
        Ok(StepStats {
            loss,
            loss_bins: total.loss_bins,
            grad_norm,
            lr,
            usable: total.usable as usize,
            flops: total.flops,
            caption_tokens_cut: total.cut as u64,
            image_tokens: total.tokens as u64,
            samples: total.samples,
            stop: total.stop > 0.0,
            saving: total.saving,
        })
    }

    /// One micro-batch's gradient sum in flat space, and its share of the step's sums.
    fn forward_backward(&self, state: &TrainState, batch: &MicroBatch) -> Result<(Tensor<1>, LocalSums)> {
        let train = &self.config.train;
        let image = self.image(batch.size);
        let tokens = image.rows * image.columns;
        let drawn = draw(batch, self.images(batch)?, tokens, train.seed, train.caption_dropout);
        let prompts = self.conditioner.condition_samples(&batch.ids, &drawn.captions)?;
        let (losses, gradient) = self.loss_and_gradient(&state.model, &drawn.batch, &prompts.batches);
        // One transfer for all numbers.
        let numbers = Tensor::cat(vec![losses.sum.inner(), losses.each], 0).into_data();
        let numbers: Vec<f32> = numbers.iter::<f32>().collect();
        let sums = LocalSums {
            loss: f64::from(numbers[0]),
            loss_bins: LossBins::of_samples(&losses.times, &numbers[1..], &batch.weights),
            usable: batch.weights.iter().map(|&weight| f64::from(weight)).sum(),
            flops: self.flops(&prompts, image),
            tokens: (tokens * batch.len()) as f64,
            cut: prompts.num_cut as f64,
            samples: SampleSum::of_batch(batch),
            ..LocalSums::default()
        };
        Ok((gradient, sums))
    }

    /// A micro-batch's losses and the gradient of their sum in flat space.
    fn loss_and_gradient(&self, model: &LiDit, batch: &LossBatch, prompts: &[PromptBatch]) -> (Losses, Tensor<1>) {
        let mut gradients = FlatGradients::new(self.layout, model);
        let objective = &self.config.objective;
        let noised = objective.noise(batch);
        let (input, timesteps) = (noised.input.clone(), noised.timesteps.clone());
        let losses_of = |prediction| objective.loss_of(&noised, prediction, &batch.weights);
        let losses = match NonZeroUsize::new(self.config.train.recompute_blocks) {
            None => {
                let losses = losses_of(model.forward(input, timesteps, prompts));
                gradients.take(&mut losses.sum.backward());
                losses
            }
            Some(blocks) => {
                let losses = |prediction| {
                    let losses = losses_of(prediction);
                    (losses.sum.clone(), losses)
                };
                let take = |part: &mut Gradients| gradients.take(part);
                model.backward_in_segments(input, timesteps, prompts, blocks, losses, take)
            }
        };
        (losses, gradients.into_flat(&self.device.clone().inner()))
    }

    /// Whether this rank wants `step` to be the last of this attempt.
    fn is_stop_due(&self, step: u64) -> bool {
        self.stop.is_requested() || self.config.train.stop_after.is_some_and(|last| step >= last)
    }

    /// Model FLOPs of a micro-batch, forward and backward (twice the forward), padding not counted.
    fn flops(&self, prompts: &Conditioned, image: ImageTokens) -> f64 {
        let forward = |text: &Vec<_>| forward_flops(&self.config.model, self.conditioning, image, text);
        prompts.tokens.iter().map(|text| 3.0 * forward(text) as f64).sum()
    }

    /// What the network sees of a micro-batch's pictures: latents that were written before, or pictures encoded now.
    pub(crate) fn images(&self, batch: &MicroBatch) -> Result<Tensor<4>> {
        let [height, width] = self.latents.grid(batch.size);
        let latents_shape = [batch.len(), self.latents.channels(), height, width];
        if let Some(latents) = self.conditioner.latents(&batch.ids, latents_shape)? {
            return Ok(Tensor::from_data(TensorData::new(latents, latents_shape), self.device));
        }
        let shape = [
            batch.len(),
            PIXEL_CHANNELS,
            batch.size.height as usize,
            batch.size.width as usize,
        ];
        let pixels = TensorData::new(batch.pixels.clone(), shape);
        let latents = self
            .latents
            .encode(Tensor::from_data(pixels, &self.device.clone().inner()));
        Ok(latents.autodiff())
    }

    /// The tokens of a picture.
    pub(crate) fn image(&self, size: Bucket) -> ImageTokens {
        let [rows, columns] = self.latents.grid(size).map(|side| side / self.config.model.patch_size);
        ImageTokens { rows, columns }
    }

    fn update(&self, state: &mut TrainState, gradient: &Tensor<1>, lr: f64) -> Result<()> {
        state.optimizer.step(lr, gradient);
        for ema in &mut state.ema {
            ema.update(state.optimizer.masters(), self.config.train.global_batch);
        }
        let masters = self.ownership.gather(state.optimizer.masters(), self.world)?;
        state.model = self
            .layout
            .load(&masters, self.config.train.precision, state.model.clone());
        state.step += 1;
        Ok(())
    }
}

/// Sums over samples, first of one rank, then of all.
#[derive(Clone, Copy, Debug, Default)]
struct LocalSums {
    loss: f64,
    loss_bins: LossBins,
    usable: f64,
    flops: f64,
    cut: f64,
    tokens: f64,
    samples: SampleSum,
    stop: f64,
    saving: Progress,
}

impl LocalSums {
    fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.loss_bins += other.loss_bins;
        self.usable += other.usable;
        self.flops += other.flops;
        self.cut += other.cut;
        self.tokens += other.tokens;
        self.samples += other.samples;
    }

    fn over_all_ranks(self, world: &World) -> Result<Self> {
        let SampleSum { samples, words } = self.samples;
        let [samples, first, second] = [samples, words[0], words[1]].map(|count| count as f64);
        let own = [self.loss, self.usable, self.flops, self.cut, self.tokens, self.stop];
        let [loss, usable, flops, cut, tokens, stop] = own;
        let Progress { done, failed } = self.saving;
        let bins = self.loss_bins.numbers();
        let mut sums = [0.0; 11 + 2 * BINS];
        sums[..11].copy_from_slice(&[
            loss, usable, flops, cut, tokens, stop, samples, first, second, done, failed,
        ]);
        sums[11..].copy_from_slice(&bins);
        if world.size() > 1 {
            world.sum_f64(&mut sums)?;
        }
        let [
            loss,
            usable,
            flops,
            cut,
            tokens,
            stop,
            samples,
            first,
            second,
            done,
            failed,
            ref bins @ ..,
        ] = sums;
        Ok(Self {
            samples: SampleSum {
                samples: samples as u64,
                words: [first as u64, second as u64],
            },
            loss,
            loss_bins: LossBins::of_numbers(bins),
            usable,
            flops,
            cut,
            tokens,
            stop,
            saving: Progress { done, failed },
        })
    }
}
