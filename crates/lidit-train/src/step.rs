//! One optimizer step over this rank's share of the global batch.

use std::num::NonZeroUsize;

use anyhow::Result;
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use lidit_data::{Bucket, MicroBatch, SampleSum};
use lidit_dist::World;
use lidit_kernels::{GradientScale, row_squares, updates_in_place};
use lidit_model::{Conditioning, ImageTokens, LiDit, LossBatch, Losses, PromptBatch, forward_flops};

use crate::checkpoint_writer::Progress;
use crate::conditioner::{Conditioned, Conditioner};
use crate::config::RunConfig;
use crate::device_losses::{DeviceLosses, read_together};
use crate::fault::Fault;
use crate::gradients::{Ownership, clip_factor};
use crate::incident::MicroBatchReport;
use crate::latents::{LatentSpace, PIXEL_CHANNELS};
use crate::layout::{FlatGradients, FlatLayout};
use crate::local_sums::LocalSums;
use crate::loss_watch::IncidentKind;
use crate::phase_clock::{Phase, PhaseClock};
use crate::sample_draws::draw;
use crate::schedule::LrSchedule;
use crate::state::TrainState;
use crate::step_stats::{Finding, StepStats};
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
    /// What this rank breaks on purpose.
    pub fault: Option<Fault>,
    /// Who wants to know where the time goes.
    pub clock: Option<&'a PhaseClock>,
}

/// What a step's gradients and losses come to over all ranks.
struct Reduced {
    total: LocalSums,
    /// This rank's own range of the sum of gradients.
    sum: Tensor<1>,
    /// Of the mean gradient.
    grad_norm: f64,
}

impl Stepper<'_> {
    /// Runs `micro_batches` forward and backward, reduces, clips, and updates `state` by one step. A step whose loss or
    /// gradient is not finite moves on in the stream and updates nothing.
    ///
    /// # Errors
    /// A peer was lost, or a prompt can't be encoded.
    pub fn step(&self, state: &mut TrainState, micro_batches: &[MicroBatch]) -> Result<StepStats> {
        let mut losses = Vec::with_capacity(micro_batches.len());
        let mut gradients = self.sum(state, micro_batches, |_, _, own| losses.push(own))?;
        if let Some(fault) = self.fault {
            gradients = fault.strike(state.step + 1, gradients);
        }
        let Reduced { total, sum, grad_norm } = self.reduce(state.step + 1, gradients, losses)?;
        let usable = total.usable.max(1.0);
        self.mark(Phase::Reduce);
        let loss = total.loss / usable;
        let lr = LrSchedule::new(&self.config.train).lr(state.step);
        let finding = self.judge(state, loss, grad_norm, micro_batches)?;
        self.mark(Phase::Other);
        if grad_norm.is_finite() && loss.is_finite() {
            self.update(state, &sum, usable, grad_norm, lr)?;
        }
        self.mark(Phase::Optimizer);
        state.step += 1;
        Ok(StepStats {
            finding,
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

    /// What this rank's sums in `step`, which is under way, come to over all ranks.
    ///
    /// A rank alone reads losses and norm in one transfer, once all that leads to them is queued on the device.
    fn reduce(&self, step: u64, gradients: Tensor<1>, losses: Vec<DeviceLosses>) -> Result<Reduced> {
        let counted = losses.iter().map(|losses| losses.sums.usable).sum::<f64>();
        let squares = (self.world.size() == 1).then(|| row_squares(&gradients, counted.max(1.0)));
        let numbers = losses.iter().map(|losses| losses.numbers.clone());
        let numbers = read_together(numbers.chain(squares.clone()));
        let mut numbers = numbers.as_slice();
        let mut local = LocalSums::default();
        for losses in losses {
            local.add(&losses.read(&mut numbers));
        }
        local.stop = f64::from(u8::from(self.is_stop_due(step)));
        local.saving = self.saving;
        let total = local.over_all_ranks(self.world)?;
        let sum = self.ownership.reduce(gradients, self.world)?;
        let grad_norm = match squares {
            Some(_) => numbers.iter().map(|&square| f64::from(square)).sum::<f64>().sqrt(),
            None => self.ownership.norm(&sum, total.usable.max(1.0), self.world)?,
        };
        Ok(Reduced { total, sum, grad_norm })
    }

    /// The sum of some micro-batches' gradients in flat space, `[len]`, and their share of the step's sums; `each` sees
    /// every micro-batch with its own gradient and sums.
    pub(crate) fn accumulate(
        &self,
        state: &TrainState,
        micro_batches: &[MicroBatch],
        mut each: impl FnMut(&MicroBatch, &Tensor<1>, &LocalSums),
    ) -> Result<(Tensor<1>, LocalSums)> {
        let mut local = LocalSums::default();
        let gradients = self.sum(state, micro_batches, |batch, gradient, losses| {
            let numbers = read_together(std::iter::once(losses.numbers.clone()));
            let sums = losses.read(&mut numbers.as_slice());
            each(batch, gradient, &sums);
            local.add(&sums);
        })?;
        Ok((gradients, local))
    }

    /// The sum of some micro-batches' gradients in flat space, `[len]`; `each` sees every micro-batch with its own gradient
    /// and losses. Nothing is read back: a GPU computes one micro-batch while the next one is prepared.
    fn sum(
        &self,
        state: &TrainState,
        micro_batches: &[MicroBatch],
        mut each: impl FnMut(&MicroBatch, &Tensor<1>, DeviceLosses),
    ) -> Result<Tensor<1>> {
        let mut gradients: Option<Tensor<1>> = None;
        for batch in micro_batches {
            let (gradient, losses) = self.forward_backward(state, batch)?;
            each(batch, &gradient, losses);
            gradients = Some(match gradients {
                Some(so_far) => so_far + gradient,
                None => gradient,
            });
            self.mark(Phase::Reduce);
        }
        // A rank without a sample still takes part in the reduction.
        Ok(gradients.unwrap_or_else(|| Tensor::zeros([self.layout.len()], &self.device.clone().inner())))
    }

    /// Whether a step of this `loss` and `grad_norm` can be trusted. Both come out of a reduction, so all ranks agree.
    ///
    /// Where it can't, the micro-batches are run once more, before anything is updated: ordinary steps pay nothing for
    /// their single losses and norms.
    fn judge(
        &self,
        state: &mut TrainState,
        loss: f64,
        grad_norm: f64,
        micro_batches: &[MicroBatch],
    ) -> Result<Option<Finding>> {
        let limit = self.config.train.spike_zscore;
        let (watch, kind) = (state.watch, state.watch.judge(loss, grad_norm, limit));
        state.watch.take(loss, kind, limit);
        let Some(kind) = kind else { return Ok(None) };
        let mut reports = Vec::with_capacity(micro_batches.len());
        self.accumulate(state, micro_batches, |batch, gradient, sums| {
            reports.push(MicroBatchReport::of(batch, sums.loss, gradient));
        })?;
        Ok(Some(Finding {
            kind,
            zscore: watch.zscore(loss).filter(|_| kind == IncidentKind::Spike),
            micro_batches: reports,
        }))
    }

    /// One micro-batch's gradient sum in flat space, and its losses.
    fn forward_backward(&self, state: &TrainState, batch: &MicroBatch) -> Result<(Tensor<1>, DeviceLosses)> {
        let train = &self.config.train;
        let image = self.image(batch.size);
        let tokens = image.rows * image.columns;
        let images = self.images(batch)?;
        self.mark(Phase::Encode);
        let drawn = draw(batch, images, tokens, train.seed, train.caption_dropout);
        self.mark(Phase::Other);
        let prompts = self.conditioner.condition_samples(&batch.ids, &drawn.captions)?;
        self.mark(Phase::Encode);
        let (losses, gradient) = self.loss_and_gradient(&state.model, &drawn.batch, &prompts.batches);
        let sums = LocalSums {
            usable: batch.weights.iter().map(|&weight| f64::from(weight)).sum(),
            flops: self.flops(&prompts, image),
            tokens: (tokens * batch.len()) as f64,
            cut: prompts.num_cut as f64,
            samples: SampleSum::of_batch(batch),
            ..LocalSums::default()
        };
        let losses = DeviceLosses {
            numbers: Tensor::cat(vec![losses.sum.inner(), losses.each], 0),
            times: losses.times,
            weights: batch.weights.clone(),
            sums,
        };
        self.mark(Phase::Other);
        Ok((gradient, losses))
    }

    /// A micro-batch's losses and the gradient of their sum in flat space.
    pub(crate) fn loss_and_gradient(
        &self,
        model: &LiDit,
        batch: &LossBatch,
        prompts: &[PromptBatch],
    ) -> (Losses, Tensor<1>) {
        let mut gradients = FlatGradients::new(self.layout, model);
        let objective = &self.config.objective;
        let noised = objective.noise(batch);
        let (input, timesteps) = (noised.input.clone(), noised.timesteps.clone());
        let losses_of = |prediction| {
            let losses = objective.loss_of(&noised, prediction, &batch.weights);
            self.mark(Phase::Forward);
            losses
        };
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
        let flat = gradients.into_flat(&self.device.clone().inner());
        self.mark(Phase::Backward);
        (losses, flat)
    }

    /// What was done since the last mark was `phase`.
    fn mark(&self, phase: Phase) {
        if let Some(clock) = self.clock {
            clock.mark(phase);
        }
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

    /// Updates from the own range of the `sum` of gradients of `usable` samples, whose mean has the norm `grad_norm` over
    /// all ranges: clips, updates, moves the averages.
    pub(crate) fn update(
        &self,
        state: &mut TrainState,
        sum: &Tensor<1>,
        usable: f64,
        grad_norm: f64,
        lr: f64,
    ) -> Result<()> {
        let train = &self.config.train;
        let scale = GradientScale {
            divisor: usable,
            factor: clip_factor(grad_norm, train.max_grad_norm),
        };
        let sums = self.ownership.split(sum);
        let device = self.device.clone().inner();
        if updates_in_place(&device) {
            state.model = FlatLayout::release(state.model.clone());
        }
        let (optimizer, averages) = (&mut state.optimizer, &mut state.ema);
        // The weights of one piece are on their way while the next piece is updated.
        let weights = self.ownership.gather_updated(self.world, &device, |piece| {
            let samples = train.global_batch;
            let masters = optimizer.step(piece, lr, &sums[piece], scale, averages, samples);
            masters.clone()
        })?;
        state.model = self.layout.load(&weights, train.precision, state.model.clone());
        Ok(())
    }
}
