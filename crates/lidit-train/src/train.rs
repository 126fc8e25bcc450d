//! The training run, from an empty or interrupted run directory to its result.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use lidit_data::Dataset;
use lidit_dist::World;

use crate::checkpoint::Checkpoint;
use crate::conditioner::Conditioner;
use crate::config::{Remember, RunConfig};
use crate::config_file::ConfigFile;
use crate::dashboard::View;
use crate::features::FeatureStore;
use crate::history::{self, Event};
use crate::latents::LatentSpace;
use crate::recorder::Recorder;
use crate::resolve::{Start, resolve};
use crate::run_dir::RunDir;
use crate::session::Session;
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
pub(crate) fn newest_checkpoint(
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
