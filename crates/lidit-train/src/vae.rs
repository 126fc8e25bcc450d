//! Training an autoencoder: one process, from pictures to a folder in diffusers' format.
//!
//! An autoencoder is small and trained once for many runs, so this loop has no ranks and no sharding.

mod config;
mod export;
mod grid;
mod loss;
mod record;
mod state;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor};
use lidit_data::{Dataset, Loader, LoaderConfig, Share, Wanted};
use lidit_encoders::EfficientNetLite0;
use lidit_kernels::sum_of_squares;

pub use record::VaeRecord;

use crate::atomic::write_atomically;
use crate::config_file::ConfigFile;
use crate::folder_lock;
use crate::gradients::clip_factor;
use crate::layout::FlatGradients;
use crate::resolve::Start;
use crate::schedule::LrSchedule;
use crate::stop::Stop;
use crate::tensorboard::Ending;
use config::{LossConfig, VaeTraining};
use grid::Grid;
use loss::{Terms, noise, terms};
use record::VaeLog;
use state::VaeState;

/// What to train and where to keep it.
pub struct VaeRequest<'a> {
    /// The config that a new training follows.
    pub config: PathBuf,
    /// `key.path=value` each, for a new training.
    pub sets: &'a [String],
    /// Replaces `train.steps`; a continued training may go further than it was meant to.
    pub steps: Option<u64>,
    /// The folder: diffusers' files, and all that a later `--resume` needs.
    pub out: PathBuf,
    /// A new training, or whatever is there.
    pub start: Start,
    /// Where to compute, without autodiff.
    pub device: Device,
    /// Turns the name or path of the perceptual network into its file.
    pub locate: &'a dyn Fn(&str) -> Result<PathBuf>,
    /// Hears of every logged step.
    pub logged: &'a dyn Fn(&VaeRecord),
}

/// What a training says when it leaves.
#[derive(Clone, Debug)]
pub struct VaeEnded {
    /// Optimizer steps made.
    pub step: u64,
    /// The last logged step, if there was one.
    pub last: Option<VaeRecord>,
    /// Done or stopped.
    pub ending: Ending,
}

/// Trains until the last step or until somebody stops it, and writes the autoencoder as it is then.
///
/// # Errors
/// Any problem with config, data or weights before the first step; numbers that are not finite or a failed write later.
pub fn train_vae(request: &VaeRequest<'_>, stop: &Stop) -> Result<VaeEnded> {
    let fresh = !request.out.join("config.toml").exists();
    // A config that can't be read leaves no folder behind.
    let mut config = if fresh {
        ConfigFile::read(&request.config)?.typed::<VaeTraining>(request.sets)?
    } else {
        continued(request)?
    };
    config.train.steps = request.steps.unwrap_or(config.train.steps);
    config.validate()?;
    if fresh && request.out.exists() {
        let mut entries = std::fs::read_dir(&request.out).with_context(|| request.out.display().to_string())?;
        ensure!(
            entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == folder_lock::LOCK)),
            "{} holds something else: choose an empty or new folder",
            request.out.display()
        );
    }
    let dataset = Dataset::open(&config.data)?;
    check_sizes(&config, &dataset)?;
    let perceptual = perceptual(&config.loss, request)?;
    let _lock = folder_lock::take(&request.out, "autoencoder's folder")?;
    write_atomically(&request.out.join("config.toml"), toml::to_string(&config)?.as_bytes())?;
    Session::prepare(request, config, dataset, perceptual)?.train(stop)
}

/// The config of the training that is there.
fn continued(request: &VaeRequest<'_>) -> Result<VaeTraining> {
    let path = request.out.join("config.toml");
    ensure!(
        request.start == Start::Resume,
        "{} holds a training already: continue it with --resume, or choose another folder",
        request.out.display()
    );
    ensure!(
        request.sets.is_empty(),
        "{} is continued with its own config: only --steps may change, not --set {}",
        request.out.display(),
        request.sets.join(" --set ")
    );
    ConfigFile::read(&path)?.typed(&[])
}

/// Whether the network can halve every picture as often as it must.
fn check_sizes(config: &VaeTraining, dataset: &Dataset) -> Result<()> {
    let factor = config.network.factor() as u32;
    for size in dataset.order(config.train.seed, config.train.batch).sizes() {
        ensure!(
            size.width.is_multiple_of(factor) && size.height.is_multiple_of(factor),
            "data.image_size: pictures of {} x {} pixels; both sides must be multiples of {factor}, as \
             network.block_out_channels has it",
            size.width,
            size.height
        );
    }
    Ok(())
}

/// The network of the perceptual term, where there is one.
fn perceptual(loss: &LossConfig, request: &VaeRequest<'_>) -> Result<Option<EfficientNetLite0>> {
    let Some(features) = loss.features.as_ref().filter(|_| loss.perceptual > 0.0) else {
        return Ok(None);
    };
    let path = (request.locate)(features).context("loss.features")?;
    let device = request.device.clone().autodiff();
    EfficientNetLite0::load(&path, &device)
        .map(Some)
        .context("loss.features")
}

/// A training with everything loaded.
struct Session<'a> {
    request: &'a VaeRequest<'a>,
    config: VaeTraining,
    perceptual: Option<EfficientNetLite0>,
    loader: Loader,
    grid: Grid,
    state: VaeState,
    log: VaeLog,
    device: Device,
}

impl<'a> Session<'a> {
    fn prepare(
        request: &'a VaeRequest<'a>,
        config: VaeTraining,
        dataset: Dataset,
        perceptual: Option<EfficientNetLite0>,
    ) -> Result<Self> {
        let device = request.device.clone().autodiff();
        let state = VaeState::open(&request.out, &config, dataset.digest(), &device)?;
        let log = VaeLog::open(&request.out, state.step, dataset.len())?;
        let grid = Grid::new(&request.out, &dataset, config.train.grid_pictures)?;
        let stream = LoaderConfig {
            seed: config.train.seed,
            global_batch: config.train.batch,
            micro_batch: config.train.batch,
            share: Share { rank: 0, world_size: 1 },
            start_step: state.step,
            wanted: Wanted::All,
        };
        Ok(Self {
            request,
            perceptual,
            loader: Loader::new(dataset, stream)?,
            grid,
            state,
            log,
            device,
            config,
        })
    }

    fn train(&mut self, stop: &Stop) -> Result<VaeEnded> {
        let mut saved = self.state.step;
        let mut stopped = false;
        while self.state.step < self.config.train.steps && !stopped {
            self.step()?;
            let step = self.state.step;
            let train = &self.config.train;
            if train.grid_every > 0 && step.is_multiple_of(train.grid_every) {
                self.grid.draw(step, &self.state.network, &self.request.device)?;
            }
            stopped = stop.is_requested();
            if step.is_multiple_of(train.checkpoint_every) {
                self.save()?;
                saved = step;
            }
        }
        if saved < self.state.step {
            self.save()?;
        }
        let dataset = Dataset::open(&self.config.data)?;
        export::write(
            &self.request.out,
            &self.config,
            &self.state.network,
            &dataset,
            &self.request.device,
        )?;
        let finished = self.state.step >= self.config.train.steps;
        Ok(VaeEnded {
            step: self.state.step,
            last: self.log.last().cloned(),
            ending: if finished { Ending::Done } else { Ending::Stopped },
        })
    }

    fn save(&mut self) -> Result<()> {
        self.log.sync()?;
        self.state.save(&self.request.out)
    }

    /// One update from one batch.
    fn step(&mut self) -> Result<()> {
        let begun = Instant::now();
        let loaded = self.loader.next_step()?;
        let mut total: Option<Tensor<1>> = None;
        let mut sums = Terms::default();
        for batch in &loaded.micro_batches {
            let noise = noise(batch, &self.config, &self.device);
            let (loss, terms) = terms(
                &self.state.network,
                self.perceptual.as_ref(),
                batch,
                noise,
                &self.config.loss,
            )?;
            let mut gradients = FlatGradients::new(&self.state.layout, &self.state.network);
            gradients.take(&mut loss.backward());
            let gradient = gradients.into_flat(&self.device.clone().inner());
            total = Some(match total {
                Some(total) => total + gradient,
                None => gradient,
            });
            sums += terms;
        }
        let step = self.state.step + 1;
        let gradient = total.with_context(|| format!("step {step} has no samples"))?;
        let gradient = gradient / sums.usable.max(1.0);
        let norm = sum_of_squares(&gradient, 1.0).sqrt();
        ensure!(
            sums.loss.is_finite() && norm.is_finite(),
            "step {step}: loss {}, gradient norm {norm}: not finite, so nothing was updated; lower train.lr or look at the data",
            sums.loss
        );
        let train = &self.config.train;
        let lr = LrSchedule::of(train.lr, train.min_lr_ratio, train.warmup_steps, train.steps).lr(self.state.step);
        self.state
            .update(&(gradient * clip_factor(norm, train.max_grad_norm)), lr);
        let record = self.log.step(step, &sums, train.batch, [norm, lr], begun.elapsed());
        if step.is_multiple_of(train.log_every) || step == train.steps {
            self.log.append(&record)?;
            (self.request.logged)(&record);
        }
        Ok(())
    }
}
