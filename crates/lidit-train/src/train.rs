//! The training run, from an empty or interrupted run directory to its result.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Device;
use lidit_data::{Dataset, LoadedStep, Loader, LoaderConfig, MicroBatch, SampleOrder, Share};
use lidit_dist::World;
use lidit_model::{Conditioning, LiDit};

use crate::checkpoint::Checkpoint;
use crate::checkpoint_writer::CheckpointWriter;
use crate::conditioner::Conditioner;
use crate::config::{Remember, RunConfig};
use crate::config_file::ConfigFile;
use crate::dashboard::View;
use crate::fault::Fault;
use crate::features::FeatureStore;
use crate::gradients::Ownership;
use crate::history::{self, Arithmetic, Event};
use crate::incident::{FORMAT_VERSION, Incident, RankReport};
use crate::latents::LatentSpace;
use crate::layout::FlatLayout;
use crate::previews::Previews;
use crate::quarantine::Quarantine;
use crate::recorder::Recorder;
use crate::resolve::{Start, resolve};
use crate::run_dir::{RunDir, host_name};
use crate::state::{Identity, TrainState};
use crate::step::{Finding, StepStats, Stepper};
use crate::stop::Stop;
use crate::tensorboard::Ending;

/// What to train, where to keep it, and how to watch it.
pub struct RunRequest<'a> {
    /// Reads the config that a new run follows.
    pub load: &'a dyn Fn() -> Result<ConfigFile>,
    /// `key.path=value` each.
    pub sets: &'a [String],
    /// The run directory.
    pub run_dir: PathBuf,
    /// A new run, or whatever is there.
    pub start: Start,
    /// Dashboard, progress bar or lines.
    pub view: View,
    /// Where to compute, without autodiff.
    pub device: Device,
    /// What `--device` said, for the history.
    pub device_name: String,
    /// Turns a language model's name or path into its file.
    pub locate: &'a dyn Fn(&str) -> Result<PathBuf>,
}

/// What a run says when it leaves.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Optimizer steps made.
    pub step: u64,
    /// Loss of the last step.
    pub loss: f64,
    /// The run directory.
    pub run_dir: PathBuf,
    /// How; an error is no ending but an `Err`.
    pub ending: Ending,
}

/// Trains a single run with all ranks of `world`.
pub(crate) fn train_run(request: &RunRequest<'_>, world: &World, stop: &Stop) -> Result<Ended> {
    let (run_dir, config) = open(request, world)?;
    let mut recorder = Recorder::open(&run_dir, request.view, world, stop)?;
    let outcome = Session::prepare(request, &run_dir, config, world, &mut recorder)
        .and_then(|mut session| session.train(world, stop, &mut recorder));
    recorder.close(&outcome)?;
    outcome
}

/// Rank 0 opens the run directory and settles the config; the others follow it.
fn open(request: &RunRequest<'_>, world: &World) -> Result<(RunDir, RunConfig)> {
    if world.rank() > 0 {
        let mut toml = Vec::new();
        world.broadcast(&mut toml, 0)?;
        let text = String::from_utf8(toml).context("the config from rank 0")?;
        return Ok((
            RunDir::attach(&request.run_dir)?,
            RunConfig::from_table(text.parse()?, &[])?,
        ));
    }
    // A config that can't be read leaves no run directory behind.
    if !request.run_dir.join("config.toml").exists() {
        (request.load)()?.run(request.sets)?;
    }
    let run_dir = match request.start {
        Start::Fresh => RunDir::create(&request.run_dir)?,
        Start::Resume => RunDir::resume(&request.run_dir)?,
    };
    let config = resolve(&run_dir, request.start, request.sets, request.load)?;
    let toml = config.to_toml()?;
    run_dir.write_config(&toml)?;
    world.broadcast(&mut toml.into_bytes(), 0)?;
    Ok((run_dir, config))
}

/// A run with everything loaded.
struct Session<'a> {
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
    state: TrainState,
    writer: CheckpointWriter,
    arithmetic: Arithmetic,
    fault: Option<Fault>,
    device: Device,
    device_name: String,
}

impl<'a> Session<'a> {
    fn prepare(
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
            state,
            writer,
            arithmetic,
            fault,
            device,
            device_name: request.device_name.clone(),
        })
    }

    fn train(&mut self, world: &World, stop: &Stop, recorder: &mut Recorder) -> Result<Ended> {
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
            recorder.step(&self.state, &stats, begun.elapsed(), waited)?;
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
        ensure!(
            skipped < allowed,
            "loss or gradient were not finite in steps {first} to {last}, and train.max_nonfinite = {allowed} ends the \
             run: {root}/incidents/step-{first}.json and later say what each rank had; `lidit replay {root} --step \
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

    /// Draws the sample grid where one is due; every rank draws its share.
    fn preview(&self, world: &World, recorder: &mut Recorder) -> Result<()> {
        let every = self.config.train.sample_every;
        if every == 0 || !self.state.step.is_multiple_of(every) {
            return Ok(());
        }
        let model = self
            .state
            .averaged_model(&self.config, &self.layout, &self.ownership, world)?;
        let device = self.device.clone().inner();
        let grid = self
            .previews
            .draw(&model, &self.conditioner, &self.latents, &self.config, &device, world)?;
        recorder.grid(self.state.step, &grid)
    }
}

/// The language models, or the features that they left.
pub(crate) fn conditioner(
    config: &RunConfig,
    dataset: &Dataset,
    latents: &LatentSpace,
    device: &Device,
    locate: &dyn Fn(&str) -> Result<PathBuf>,
) -> Result<Conditioner> {
    let Some(folder) = &config.encoders.features else {
        return Conditioner::load(&config.encoders, device, locate);
    };
    let store = FeatureStore::open(folder, config, dataset, latents, locate).context("encoders.features")?;
    Ok(Conditioner::from_features(store, device))
}

/// Encodes all prompts of a run that remembers them; `on_progress` hears how many of how many are done.
pub(crate) fn remember(
    conditioner: &mut Conditioner,
    config: &RunConfig,
    dataset: &Dataset,
    mut on_progress: impl FnMut(usize, usize),
) -> Result<()> {
    if config.encoders.remember == Remember::Nothing || config.encoders.features.is_some() {
        return Ok(());
    }
    let mut captions: Vec<String> = dataset
        .captions()?
        .into_iter()
        .flat_map(|(_, captions)| captions)
        .collect();
    captions.push(String::new());
    captions.extend(config.sample.prompts.iter().cloned());
    let total = captions.len();
    conditioner.remember(&captions, |done| on_progress(done, total))
}

/// The newest checkpoint that verifies, chosen by rank 0 for all; `None` where none was ever saved.
fn newest_checkpoint(
    run_dir: &RunDir,
    start: Start,
    world: &World,
    recorder: &mut Recorder,
) -> Result<Option<Checkpoint>> {
    if start == Start::Fresh {
        return Ok(None);
    }
    let mut chosen = Vec::new();
    if world.rank() == 0 {
        let newest = newest_or_none_yet(run_dir, recorder)?;
        chosen = newest
            .map_or(String::new(), |checkpoint| checkpoint.manifest().step.to_string())
            .into_bytes();
    }
    world.broadcast(&mut chosen, 0)?;
    if chosen.is_empty() {
        return Ok(None);
    }
    let step = String::from_utf8(chosen).context("the checkpoint's step from rank 0")?;
    Checkpoint::open(&run_dir.checkpoints().join(format!("step-{step}"))).map(Some)
}

/// The newest checkpoint that verifies. A run that has saved one and finds none is not begun anew without a word.
fn newest_or_none_yet(run_dir: &RunDir, recorder: &mut Recorder) -> Result<Option<Checkpoint>> {
    let mut skipped = Vec::new();
    let newest = Checkpoint::newest_verified(&run_dir.checkpoints(), |step, error| {
        skipped.push((step, format!("{error:#}")));
    })?;
    let none_is_whole = if skipped.is_empty() {
        "holds none"
    } else {
        "holds none that is whole"
    };
    for (step, reason) in skipped {
        recorder.skipped(step, reason)?;
    }
    if newest.is_none() {
        let events = history::read(&run_dir.history())?;
        let saved = events.iter().rev().find_map(|line| match line.event {
            Event::Saved { step, .. } => Some(step),
            _ => None,
        });
        if let Some(step) = saved {
            bail!(
                "history.jsonl says that the checkpoint of step {step} was saved, but {} {none_is_whole}: bring it back \
                 (is its disk mounted?), or begin anew in another --run-dir",
                run_dir.checkpoints().display()
            );
        }
    }
    Ok(newest)
}
