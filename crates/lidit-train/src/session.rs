//! One attempt at a run, with everything loaded.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use lidit_data::{Dataset, LoadedStep, Loader, LoaderConfig, MicroBatch, SampleOrder, Share};
use lidit_dist::World;
use lidit_model::{Conditioning, LiDit};

use crate::checkpoint_writer::CheckpointWriter;
use crate::conditioner::Conditioner;
use crate::config::{Remember, RunConfig};
use crate::fault::Fault;
use crate::gradients::Ownership;
use crate::history::Arithmetic;
use crate::incident::{FORMAT_VERSION, Incident, RankReport};
use crate::latents::LatentSpace;
use crate::layout::FlatLayout;
use crate::previews::Previews;
use crate::quarantine::Quarantine;
use crate::recorder::Recorder;
use crate::run_dir::{RunDir, host_name};
use crate::state::{Identity, TrainState};
use crate::step::Stepper;
use crate::step_stats::{Finding, StepStats};
use crate::stop::Stop;
use crate::tensorboard::Ending;
use crate::train::{Ended, RunRequest, conditioner, newest_checkpoint, remember};
use crate::validation::{HeldOut, Judged, ValidationConfig, ValidationRecord};
use crate::weights::Weights;

/// A run with everything loaded.
pub struct Session<'a> {
    run_dir: &'a RunDir,
    config: RunConfig,
    conditioner: Conditioner,
    conditioning: Conditioning,
    latents: LatentSpace,
    layout: FlatLayout,
    ownership: Ownership,
    identity: Identity,
    loader: Loader,
    order: SampleOrder,
    quarantine: Quarantine,
    previews: Previews,
    validation: Option<HeldOut>,
    state: TrainState,
    writer: CheckpointWriter,
    arithmetic: Arithmetic,
    fault: Option<Fault>,
    device: Device,
    device_name: String,
}

impl<'a> Session<'a> {
    /// Loads all that the run needs, and the state that it begins with. A collective.
    pub fn prepare(
        request: &RunRequest<'_>,
        run_dir: &'a RunDir,
        config: RunConfig,
        world: &World,
        recorder: &mut Recorder,
    ) -> Result<Self> {
        let fault = Fault::from_env()?;
        if let Some(fault) = fault {
            fault.announce(world.rank());
        }
        let dataset = Dataset::open(&config.data)?;
        let latents = LatentSpace::open(&config.vae, &config.model, &request.device)?;
        let mut conditioner = conditioner(&config, &dataset, &latents, &request.device, request.locate)?;
        let identity = Identity {
            dataset: dataset.digest().to_owned(),
            encoders: conditioner.fingerprints()?,
            vae: latents.fingerprint().to_owned(),
        };
        remember(&mut conditioner, &config, &dataset, |done, total| {
            recorder.encoding(done, total);
        })?;
        let validation = match &config.validation {
            Some(validation) => {
                let set = validation.set();
                let held_out = HeldOut::open(&set, &config, &latents, &request.device, request.locate, world)?;
                held_out.check_apart(&dataset)?;
                if config.encoders.remember == Remember::Dataset {
                    let captions = held_out.captions();
                    conditioner.remember(&captions, |done| recorder.encoding(done, captions.len()))?;
                }
                Some(held_out)
            }
            None => None,
        };
        let device = request.device.clone().autodiff();
        let conditioning = conditioner.conditioning(&config.encoders);
        let model = LiDit::init(&config.model, &conditioning, config.train.seed, &device);
        let layout = FlatLayout::of(&model);
        let ownership = Ownership::new(&config.train, &layout, world.rank(), world.size());
        let mut state = match newest_checkpoint(run_dir, request.start, world, recorder)? {
            Some(checkpoint) => {
                identity.check(&checkpoint)?;
                TrainState::restore(&checkpoint, &config, &layout, &ownership, model)?
            }
            None => match &config.start {
                Some(start) => start.state(&config, &identity, &layout, &ownership, model)?,
                None => TrainState::new(&config, &layout, &ownership, model),
            },
        };
        let samples = dataset.len();
        let previews = Previews::new(&config, &dataset)?;
        let stream = LoaderConfig {
            seed: config.train.seed,
            global_batch: config.train.global_batch,
            micro_batch: config.train.micro_batch,
            share: Share {
                rank: world.rank(),
                world_size: world.size(),
            },
            wanted: conditioner.wanted(),
            start_step: state.step,
        };
        let order = dataset.order(stream.seed, stream.global_batch);
        for size in order.sizes() {
            latents.check_size(size, config.model.patch_size)?;
        }
        let loader = Loader::new(dataset, stream)?;
        conditioner.start(stream)?;
        let arithmetic = Arithmetic::of(&config, world)?;
        let unusable = recorder.begin(&config, &state, &request.device_name, &arithmetic, samples)?;
        state.watch = recorder.loss_watch(state.step, world)?;
        let writer = CheckpointWriter::open(&run_dir.checkpoints(), &config.train, world)?;
        let quarantine = Quarantine::open(run_dir, unusable, config.data.max_unusable, world)?;
        Ok(Self {
            run_dir,
            config,
            conditioner,
            conditioning,
            latents,
            layout,
            ownership,
            identity,
            loader,
            order,
            quarantine,
            previews,
            validation,
            state,
            writer,
            arithmetic,
            fault,
            device,
            device_name: request.device_name.clone(),
        })
    }

    /// Trains to the last step, or until somebody asks to stop.
    pub fn train(&mut self, world: &World, stop: &Stop, recorder: &mut Recorder) -> Result<Ended> {
        let mut loss = recorder.last_loss().unwrap_or(f64::NAN);
        let mut saved = self.state.step;
        let mut stopping = false;
        while self.state.step < self.config.train.steps && !stopping {
            let begun = Instant::now();
            let mut loaded = self.loader.next_step()?;
            self.conditioner.next_step(&mut loaded)?;
            let LoadedStep {
                micro_batches,
                unusable,
            } = loaded;
            let waited = begun.elapsed();
            self.state.sample_digest.extend(&self.order, self.state.step);
            let stats = self.step(&micro_batches, world, stop)?;
            if let Some(finding) = &stats.finding {
                recorder.incident(self.incident(&stats, finding, saved, world)?)?;
            }
            if !stats.is_skipped() {
                loss = stats.loss;
            }
            let took = begun.elapsed();
            let validated = self.validate(world, recorder)?;
            recorder.step(&self.state, &stats, took, waited, validated.as_ref())?;
            self.limit_skipping()?;
            let seen = self.state.step * self.config.train.global_batch as u64;
            self.quarantine.add(stats.unusable(), &unusable, seen, world)?;
            if let Some(saved) = self.writer.advance(stats.saving, world)? {
                recorder.saved(&saved)?;
            }
            self.preview(world, recorder)?;
            stopping = stats.stop;
            if stopping || self.is_save_due() {
                self.save(world, recorder)?;
                saved = self.state.step;
            }
        }
        if saved < self.state.step {
            self.save(world, recorder)?;
        }
        if let Some(saved) = self.writer.finish(world)? {
            recorder.saved(&saved)?;
        }
        let finished = self.state.step >= self.config.train.steps;
        Ok(Ended {
            step: self.state.step,
            loss,
            run_dir: self.run_dir.root().to_owned(),
            ending: if finished { Ending::Done } else { Ending::Stopped },
        })
    }

    fn step(&mut self, micro_batches: &[MicroBatch], world: &World, stop: &Stop) -> Result<StepStats> {
        Stepper {
            config: &self.config,
            conditioner: &self.conditioner,
            latents: &self.latents,
            conditioning: &self.conditioning,
            layout: &self.layout,
            ownership: &self.ownership,
            world,
            device: &self.device,
            stop,
            saving: self.writer.progress(),
            fault: self.fault,
            clock: None,
        }
        .step(&mut self.state, micro_batches)
    }

    /// All that every rank knows of the step just made. A collective.
    fn incident(&self, stats: &StepStats, finding: &Finding, checkpoint: u64, world: &World) -> Result<Incident> {
        let own = RankReport {
            rank: world.rank(),
            host: host_name(),
            device: self.device_name.clone(),
            micro_batches: finding.micro_batches.clone(),
        };
        Ok(Incident {
            format_version: FORMAT_VERSION,
            step: self.state.step,
            kind: finding.kind,
            // Rank 0's history knows it.
            attempt: 0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            checkpoint,
            world_size: world.size(),
            seed: self.config.train.seed,
            precision: self.config.train.precision,
            arithmetic: self.arithmetic.clone(),
            loss: stats.loss,
            grad_norm: stats.grad_norm,
            lr: stats.lr,
            usable: stats.usable,
            zscore: finding.zscore,
            ranks: own.gather(world)?,
        })
    }

    /// Ends the run on every rank when too many steps in a row were skipped; what is on the disk stays.
    fn limit_skipping(&self) -> Result<()> {
        let (skipped, allowed) = (self.state.watch.skipped_in_a_row, self.config.train.max_nonfinite);
        let (last, root) = (self.state.step, self.run_dir.root().display());
        let first = last + 1 - skipped.min(last);
        let steps = if first == last {
            format!("step {last}")
        } else {
            format!("steps {first} to {last}")
        };
        ensure!(
            skipped < allowed,
            "loss or gradient were not finite in {steps}, and train.max_nonfinite = {allowed} ends the \
             run: {root}/incidents/step-{first}.json says what each rank had; `lidit replay {root} --step \
             {first}` names the sample and the layer where it began; then mend the data or begin again with a lower \
             train.lr (or go past it: --resume --set train.max_nonfinite=N)"
        );
        Ok(())
    }

    fn is_save_due(&self) -> bool {
        self.state.step.is_multiple_of(self.config.train.checkpoint_every) || self.state.step == self.config.train.steps
    }

    /// Copies the state and has it written. Waits for the save before, if that is still under way.
    fn save(&mut self, world: &World, recorder: &mut Recorder) -> Result<()> {
        let begun = Instant::now();
        if let Some(saved) = self.writer.wait(world)? {
            recorder.saved(&saved)?;
        }
        recorder.sync()?;
        let snapshot = self
            .state
            .snapshot(&self.config, &self.layout, &self.ownership, &self.identity, world)?;
        self.writer.start(snapshot, begun)?;
        recorder.stalled(begun.elapsed());
        Ok(())
    }

    /// Judges the held-out triples where the step is to be evaluated; every rank judges its share.
    fn validate(&mut self, world: &World, recorder: &mut Recorder) -> Result<Option<ValidationRecord>> {
        let step = self.state.step;
        let due = |config: &&ValidationConfig| config.is_due(step, self.config.train.steps);
        let Some(config) = self.config.validation.as_ref().filter(due) else {
            return Ok(None);
        };
        let begun = Instant::now();
        let weights = config.weights.among(&self.config.train.ema_half_lives);
        let weights = weights.with_context(|| format!("the run keeps no weights {}", config.weights))?;
        let model = self.model_of(weights, world)?;
        let Some(held_out) = &mut self.validation else {
            return Ok(None);
        };
        let device = self.device.clone().inner();
        let judged = Judged {
            model: &model,
            conditioner: &self.conditioner,
            device: &device,
            micro_batch: self.config.train.micro_batch,
        };
        let record = held_out.evaluate(&judged, world)?.of(step, weights.to_string());
        // A GPU's memory in shapes that no step has a use for.
        device.memory_cleanup();
        recorder.validated(&record, begun.elapsed())?;
        Ok(Some(record))
    }

    /// The network with `weights`, without autodiff. A collective.
    fn model_of(&self, weights: Weights, world: &World) -> Result<LiDit> {
        self.state
            .model_of(weights, &self.config, &self.layout, &self.ownership, world)
    }

    /// Draws the sample grid where one is due; every rank draws its share.
    fn preview(&self, world: &World, recorder: &mut Recorder) -> Result<()> {
        let every = self.config.train.sample_every;
        if every == 0 || !self.state.step.is_multiple_of(every) {
            return Ok(());
        }
        let average = Weights::Ema(None).among(&self.config.train.ema_half_lives);
        let model = self.model_of(average.unwrap_or(Weights::Raw), world)?;
        let device = self.device.clone().inner();
        let grid = self
            .previews
            .draw(&model, &self.conditioner, &self.latents, &self.config, &device, world)?;
        // A GPU's memory in shapes that no step has a use for.
        device.memory_cleanup();
        recorder.grid(self.state.step, &grid)
    }
}
