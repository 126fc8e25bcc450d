//! A run with everything loaded, on one process that plays all ranks.

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor};
use lidit_data::{Dataset, Loader, LoaderConfig, MicroBatch, Share};
use lidit_dist::World;
use lidit_model::{Conditioning, LiDit};

use super::ReplayRequest;
use super::record::{Attempt, Record};
use crate::checkpoint::Checkpoint;
use crate::checkpoint_writer::Progress;
use crate::conditioner::Conditioner;
use crate::config::RunConfig;
use crate::gradients::{Ownership, add_rank, norm_of_ranks};
use crate::latents::LatentSpace;
use crate::layout::FlatLayout;
use crate::local_sums::LocalSums;
use crate::run_dir::RunDir;
use crate::schedule::LrSchedule;
use crate::state::{Identity, TrainState};
use crate::step::Stepper;
use crate::stop::Stop;
use crate::train::{conditioner, remember};

/// A run with everything loaded, on one process that plays all ranks.
pub(super) struct Loaded {
    /// For the places of samples.
    pub dataset: Dataset,
    conditioner: Conditioner,
    conditioning: Conditioning,
    latents: LatentSpace,
    layout: FlatLayout,
    ownership: Ownership,
    loader: Loader,
    world: World,
    stop: Stop,
    device: Device,
}

/// What the ranks make of a step together.
pub(super) struct Outcome {
    /// Of all samples' gradients, whole.
    sum: Tensor<1>,
    /// Samples that count.
    usable: f64,
    /// Mean over the usable samples.
    pub loss: f64,
    /// Of the mean gradient.
    pub grad_norm: f64,
}

impl Loaded {
    /// Everything, and the state that the replay begins with.
    pub fn prepare(request: &ReplayRequest<'_>, record: &Record) -> Result<(Self, TrainState)> {
        let config = &record.config;
        let dataset = Dataset::open(&config.data)?;
        let latents = LatentSpace::open(&config.vae, &config.model, &request.device)?;
        let mut conditioner = conditioner(config, &dataset, &latents, &request.device, request.locate)?;
        let identity = Identity {
            dataset: dataset.digest().to_owned(),
            encoders: conditioner.fingerprints()?,
            vae: latents.fingerprint().to_owned(),
        };
        remember(&mut conditioner, config, &dataset, |_, _| ())?;
        let device = request.device.clone().autodiff();
        let conditioning = conditioner.conditioning(&config.encoders);
        let model = LiDit::init(&config.model, &conditioning, config.train.seed, &device);
        let layout = FlatLayout::of(&model);
        let world = World::solo();
        let ownership = Ownership::new(&config.train, &layout, world.rank(), world.size());
        let state = match newest_before(request.run, request.step)? {
            Some(checkpoint) => {
                identity.check(&checkpoint)?;
                TrainState::restore(&checkpoint, config, &layout, &ownership, model)?
            }
            None => match &config.start {
                Some(start) => start.state(config, &identity, &layout, &ownership, model)?,
                None => TrainState::new(config, &layout, &ownership, model),
            },
        };
        let stream = LoaderConfig {
            seed: config.train.seed,
            global_batch: config.train.global_batch,
            micro_batch: config.train.global_batch,
            share: Share::ALL,
            wanted: conditioner.wanted(),
            start_step: state.step,
        };
        let loader = Loader::new(dataset.clone(), stream)?;
        conditioner.start(stream)?;
        let loaded = Self {
            dataset,
            conditioner,
            conditioning,
            latents,
            layout,
            ownership,
            loader,
            world,
            stop: Stop::default(),
            device,
        };
        Ok((loaded, state))
    }

    pub fn stepper<'a>(&'a self, config: &'a RunConfig) -> Stepper<'a> {
        Stepper {
            config,
            conditioner: &self.conditioner,
            latents: &self.latents,
            conditioning: &self.conditioning,
            layout: &self.layout,
            ownership: &self.ownership,
            world: &self.world,
            device: &self.device,
            stop: &self.stop,
            fault: None,
            clock: None,
            saving: Progress::default(),
        }
    }

    /// The global batch of the next step.
    pub fn next_batch(&mut self) -> Result<MicroBatch> {
        let mut loaded = self.loader.next_step()?;
        self.conditioner.next_step(&mut loaded)?;
        loaded.micro_batches.pop().context("a step without samples")
    }

    /// Every rank's micro-batches in turn, their sums in rank order; `each` sees every micro-batch.
    pub fn work(
        &self,
        state: &TrainState,
        config: &RunConfig,
        attempt: &Attempt,
        ranks: &[Vec<MicroBatch>],
        mut each: impl FnMut(&MicroBatch, &Tensor<1>, &LocalSums),
    ) -> Result<Outcome> {
        let stepper = self.stepper(config);
        let (mut gradient, mut sums) = (None, LocalSums::default());
        for micro_batches in ranks {
            let (own, own_sums) = stepper.accumulate(state, micro_batches, &mut each)?;
            gradient = Some(add_rank(gradient, own, config.train.reduce_dtype, attempt.world_size));
            sums.add(&own_sums);
        }
        let usable = sums.usable.max(1.0);
        let sum = gradient.context("a world without ranks")?;
        Ok(Outcome {
            grad_norm: norm_of_ranks(&sum, usable, config.train.sharding, attempt.world_size),
            loss: sums.loss / usable,
            sum,
            usable,
        })
    }

    /// Repeats one step as it was: its update, or that it was skipped.
    pub fn go_through(&mut self, state: &mut TrainState, record: &Record) -> Result<()> {
        let step = state.step + 1;
        let batch = self.next_batch()?;
        if !record.skipped.contains(&step) {
            let (attempt, config) = (record.attempt(step)?, record.config_of(step)?);
            let Outcome {
                sum,
                usable,
                loss,
                grad_norm,
            } = self.work(state, &config, attempt, &attempt.ranks(&batch), |_, _, _| ())?;
            ensure!(
                loss.is_finite() && grad_norm.is_finite(),
                "step {step}, on the way, has loss {loss} and gradient norm {grad_norm} here, and the run made an update \
                 there: what follows can't be repeated; replay a step up to {step}, or one after a later checkpoint"
            );
            let lr = LrSchedule::new(&config.train).lr(state.step);
            self.stepper(&config).update(state, &sum, usable, grad_norm, lr)?;
        }
        state.step = step;
        Ok(())
    }
}

/// The newest checkpoint that verifies and was saved before `step` was made; says which ones do not verify.
fn newest_before(run: &RunDir, step: u64) -> Result<Option<Checkpoint>> {
    for (saved, checkpoint) in Checkpoint::list(&run.checkpoints())? {
        if saved >= step {
            continue;
        }
        match checkpoint.and_then(|checkpoint| checkpoint.verify().map(|()| checkpoint)) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(error) => eprintln!("warning: skipping the checkpoint of step {saved}: {error:#}"),
        }
    }
    Ok(None)
}
