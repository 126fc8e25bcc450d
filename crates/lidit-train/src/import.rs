//! An export as the beginning of a run.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use lidit_data::Dataset;
use lidit_dist::World;
use lidit_model::{Conditioning, LiDit};

use crate::checkpoint_writer::CheckpointWriter;
use crate::config::RunConfig;
use crate::export::Export;
use crate::features::{EncoderIdentity, FeatureStore};
use crate::gradients::Ownership;
use crate::latents::LatentSpace;
use crate::layout::FlatLayout;
use crate::run_dir::RunDir;
use crate::start::{Carry, StartConfig};
use crate::state::Identity;

/// Which export to begin which run with.
pub struct ImportRequest<'a> {
    /// The export's folder.
    pub from: &'a Path,
    /// The run's config.
    pub config: RunConfig,
    /// The run directory; missing or empty.
    pub run_dir: &'a Path,
    /// What is not carried over ([`CarryOver::fresh`](crate::CarryOver::fresh)).
    pub fresh: Vec<String>,
    /// Turns a language model's name or path into its file.
    pub locate: &'a dyn Fn(&str) -> Result<PathBuf>,
}

/// What an import did.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Parameters whose values are the export's.
    pub carried: usize,
    /// Paths of the parameters that were initialised anew.
    pub fresh: Vec<String>,
}

impl ImportRequest<'_> {
    /// Makes the run directory of a run that starts from the export, with the checkpoint that it has before its first
    /// step: `lidit train --resume` goes on from it and `lidit sample` draws with it. No language model is loaded.
    ///
    /// # Errors
    /// The export is damaged, or its weights mean something else than the config's; nothing is written then.
    pub fn run(self) -> Result<Imported> {
        let mut config = self.config;
        ensure!(
            config.start.is_none(),
            "the config begins with the weights of start.run already: train it as it is, or take [start] out of it"
        );
        let start = StartConfig {
            run: Some(std::path::absolute(self.from)?),
            weights: Export::open(self.from)?.config().weights.parse()?,
            optimizer: Carry::Restart,
            fresh: self.fresh,
        };
        let dataset = Dataset::open(&config.data)?;
        let device = Device::flex();
        let latents = LatentSpace::open(&config.vae, &config.model, &device)?;
        let (conditioning, encoders) = encoders(&config, &dataset, &latents, self.locate)?;
        let identity = Identity {
            dataset: dataset.digest().to_owned(),
            encoders,
            vae: latents.fingerprint().to_owned(),
        };
        let device = device.autodiff();
        let model = LiDit::init(&config.model, &conditioning, config.train.seed, &device);
        let layout = FlatLayout::of(&model);
        let carried = start.weights(&config, &identity, &layout, &model)?;
        let world = World::solo();
        let ownership = Ownership::new(&config.train, &layout, world.rank(), world.size());
        let state = start.state_of(&carried, &config, &layout, &ownership, model)?;

        config.start = Some(start);
        let run = RunDir::create(self.run_dir)?;
        run.write_config(&config.to_toml()?)?;
        let snapshot = state.snapshot(&config, &layout, &ownership, &identity, &world)?;
        let mut writer = CheckpointWriter::open(&run.checkpoints(), &config.train, &world)?;
        writer.start(snapshot, Instant::now())?;
        writer.finish(&world)?;
        Ok(Imported {
            carried: carried.carried,
            fresh: carried.fresh,
        })
    }
}

/// What the network knows of the config's encoders, and their fingerprints.
fn encoders(
    config: &RunConfig,
    dataset: &Dataset,
    latents: &LatentSpace,
    locate: &dyn Fn(&str) -> Result<PathBuf>,
) -> Result<(Conditioning, Vec<String>)> {
    let encoders = &config.encoders;
    let (context_dims, fingerprints) = if let Some(folder) = &encoders.features {
        let store = FeatureStore::open(folder, config, dataset, latents, locate).context("encoders.features")?;
        (store.dims(), store.fingerprints())
    } else {
        let read = encoders.llm.iter().enumerate().map(|(i, llm)| {
            let path = locate(&llm.model).with_context(|| format!("encoders.llm.{i}.model"))?;
            EncoderIdentity::read(encoders, llm, &path).with_context(|| format!("reading encoders.llm.{i}"))
        });
        let read = read.collect::<Result<Vec<_>>>()?;
        read.into_iter()
            .map(|encoder| (encoder.dim, encoder.fingerprint))
            .unzip()
    };
    let conditioning = Conditioning {
        context_dims,
        input_norm: encoders.input_norm,
        pooling: encoders.pooling,
    };
    Ok((conditioning, fingerprints))
}
