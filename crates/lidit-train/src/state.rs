//! Everything that changes while a run trains.

use anyhow::{Result, ensure};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use lidit_data::{SampleOrder, Share};
use lidit_dist::World;
use lidit_model::LiDit;
use sha2::{Digest, Sha256};

use crate::checkpoint::{Checkpoint, OptimizerPart};
use crate::config::{RunConfig, Sharding};
use crate::digest::hex;
use crate::ema::Ema;
use crate::gradients::Ownership;
use crate::layout::FlatLayout;
use crate::loss_watch::LossWatch;
use crate::manifest::DataPosition;
use crate::optimizer::{FlatAdamW, host, upload};
use crate::snapshot::Snapshot;

/// The trained network, the optimizer's state of the own range, the averages, and the place in the sample stream.
pub struct TrainState {
    /// Optimizer steps made.
    pub step: u64,
    /// The network in its compute type, on an autodiff device.
    pub model: LiDit,
    /// Masters and moments of the own range.
    pub optimizer: FlatAdamW,
    /// Averages of the own range.
    pub ema: Vec<Ema>,
    /// Digest of all sample ids drawn so far.
    pub sample_digest: SampleDigest,
    /// What the losses so far were like. The run's metrics bring it back, not its checkpoints.
    pub watch: LossWatch,
}

impl TrainState {
    /// A state before the first step: `model` as it was initialised.
    pub fn new(config: &RunConfig, layout: &FlatLayout, ownership: &Ownership, model: LiDit) -> Self {
        let all = layout.values(&model);
        let masters = ownership.split(&all.clone().slice([ownership.own()]));
        let ema = config
            .train
            .ema_half_lives
            .iter()
            .map(|&half_life| Ema::new(half_life, masters.clone()))
            .collect();
        Self {
            step: 0,
            model: layout.load(&all, config.train.precision, model),
            optimizer: FlatAdamW::new(&config.train, &config.model, layout, ownership.own(), masters),
            ema,
            sample_digest: SampleDigest::default(),
            watch: LossWatch::default(),
        }
    }

    /// The state that `checkpoint` holds, whatever world size wrote it. `model` gives the shapes.
    ///
    /// # Errors
    /// The checkpoint has other parameters, encoders or data than this run.
    pub fn restore(
        checkpoint: &Checkpoint,
        config: &RunConfig,
        layout: &FlatLayout,
        ownership: &Ownership,
        model: LiDit,
    ) -> Result<Self> {
        checkpoint.check_layout(layout.entries())?;
        let device = layout.values(&model).device();
        let own = ownership.own();
        let all = checkpoint.masters()?;
        let masters = ownership.split(&upload(&all[own.clone()], &device));
        let mut optimizer = FlatAdamW::new(&config.train, &config.model, layout, own.clone(), masters);
        optimizer.restore(&checkpoint.moments(own.clone())?, &device);
        let ema = config
            .train
            .ema_half_lives
            .iter()
            .map(|&half_life| {
                let weights = upload(&checkpoint.ema(half_life)?[own.clone()], &device);
                Ok(Ema::new(half_life, ownership.split(&weights)))
            })
            .collect::<Result<_>>()?;
        let data = &checkpoint.manifest().data;
        ensure!(
            data.position == checkpoint.manifest().step * config.train.global_batch as u64,
            "checkpoint {} is at sample {}, not a multiple of train.global_batch = {}",
            checkpoint.dir().display(),
            data.position,
            config.train.global_batch
        );
        Ok(Self {
            step: checkpoint.manifest().step,
            model: layout.load(&upload(&all, &device), config.train.precision, model),
            optimizer,
            ema,
            sample_digest: SampleDigest(data.digest.clone()),
            watch: LossWatch::default(),
        })
    }

    /// The state on the host, ready to be written. A collective: every rank calls it.
    pub fn snapshot(
        &self,
        config: &RunConfig,
        layout: &FlatLayout,
        ownership: &Ownership,
        identity: &Identity,
        world: &World,
    ) -> Result<Snapshot> {
        let masters = host(&ownership.gather(self.optimizer.masters(), world)?);
        let ema = self
            .ema
            .iter()
            .map(|ema| Ok((ema.half_life(), host(&ownership.gather(ema.weights(), world)?))))
            .collect::<Result<_>>()?;
        let writes = world.rank() == 0 || config.train.sharding == Sharding::Zero1;
        Ok(Snapshot {
            step: self.step,
            data: DataPosition {
                position: self.step * config.train.global_batch as u64,
                digest: self.sample_digest.0.clone(),
                dataset: identity.dataset.clone(),
            },
            encoders: identity.encoders.clone(),
            vae: identity.vae.clone(),
            layout: layout.entries().to_vec(),
            masters,
            ema,
            optimizer: writes.then(|| OptimizerPart {
                start: self.optimizer.own().start,
                moments: self.optimizer.moments(),
            }),
        })
    }

    /// The network with its longest-lived average (or its raw weights without one), for drawing. A collective.
    pub fn averaged_model(
        &self,
        config: &RunConfig,
        layout: &FlatLayout,
        ownership: &Ownership,
        world: &World,
    ) -> Result<LiDit> {
        let own = self
            .ema
            .iter()
            .max_by_key(|ema| ema.half_life())
            .map_or(self.optimizer.masters(), Ema::weights);
        let all: Tensor<1> = ownership.gather(own, world)?;
        Ok(layout.load(&all, config.train.precision, self.model.valid()))
    }
}

/// What a checkpoint must agree with to be continued or sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Digest of the data set.
    pub dataset: String,
    /// Fingerprints of the frozen encoders.
    pub encoders: Vec<String>,
    /// Fingerprint of the VAE; `identity` for pixels.
    pub vae: String,
}

impl Identity {
    /// Refuses a checkpoint made with other encoders or another VAE.
    pub fn check_frozen(&self, checkpoint: &Checkpoint) -> Result<()> {
        let stored = &checkpoint.manifest().encoders;
        for (i, (ours, theirs)) in self.encoders.iter().zip(stored).enumerate() {
            ensure!(
                ours == theirs,
                "encoders.llm.{i} has fingerprint {ours}, checkpoint {} was trained with {theirs}: use the same model file, template, layer and precision",
                checkpoint.dir().display()
            );
        }
        ensure!(
            self.encoders.len() == stored.len(),
            "the config has {} encoders, checkpoint {} was trained with {}",
            self.encoders.len(),
            checkpoint.dir().display(),
            stored.len()
        );
        let vae = &checkpoint.manifest().vae;
        ensure!(
            *vae == self.vae,
            "vae has fingerprint {}, checkpoint {} was trained with {vae}: use the same VAE in the same precision",
            self.vae,
            checkpoint.dir().display()
        );
        Ok(())
    }

    /// Refuses a checkpoint made with other encoders or other data.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<()> {
        self.check_frozen(checkpoint)?;
        let stored = &checkpoint.manifest().data.dataset;
        ensure!(
            *stored == self.dataset,
            "the data set has digest {}, checkpoint {} was trained on {stored}: point data.path at the same shards",
            self.dataset,
            checkpoint.dir().display()
        );
        Ok(())
    }
}

/// A running SHA-256 over all sample ids of the stream, chained step by step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleDigest(String);

impl Default for SampleDigest {
    fn default() -> Self {
        Self(hex(&[0; 32]))
    }
}

impl SampleDigest {
    /// In hex, as checkpoints hold it.
    pub fn as_hex(&self) -> &str {
        &self.0
    }

    /// Takes in the whole global batch of `step`, whatever share of it this rank trains.
    pub fn extend(&mut self, order: &SampleOrder, step: u64) {
        let mut hasher = Sha256::new();
        hasher.update(self.0.as_bytes());
        for draw in order.draws(step, &Share::ALL) {
            hasher.update(draw.epoch.to_le_bytes());
            hasher.update(draw.id.to_le_bytes());
        }
        self.0 = hex(&hasher.finalize());
    }
}

/// A trained network from a checkpoint, for drawing: no autodiff, no optimizer.
pub fn load_for_drawing(flat: &[f32], layout: &FlatLayout, config: &RunConfig, model: LiDit, device: &Device) -> LiDit {
    layout.load(&upload(flat, device), config.train.precision, model)
}
