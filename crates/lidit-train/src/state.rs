//! Everything that changes while a run trains.

use std::ops::Range;

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
use crate::layout::{FlatLayout, even_ranges};
use crate::manifest::{DataPosition, FORMAT_VERSION, Manifest};
use crate::optimizer::{FlatAdamW, host, upload};
use crate::snapshot::{FlatWeights, Snapshot};

/// Elements of a vector of flat space that are gathered at once.
const GATHERED: usize = 1 << 24;

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
}

impl TrainState {
    /// A state before the first step: `model` as it was initialised.
    pub fn new(config: &RunConfig, layout: &FlatLayout, ownership: &Ownership, model: LiDit) -> Self {
        let all = layout.values(&model);
        let masters = all.clone().slice([ownership.own()]);
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
        let masters = upload(&all[own.clone()], &device);
        let mut optimizer = FlatAdamW::new(&config.train, &config.model, layout, own.clone(), masters);
        optimizer.restore(&checkpoint.moments(own.clone())?, &device);
        let ema = config
            .train
            .ema_half_lives
            .iter()
            .map(|&half_life| {
                Ok(Ema::new(
                    half_life,
                    upload(&checkpoint.ema(half_life)?[own.clone()], &device),
                ))
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
        })
    }

    /// This rank's part of the state on the host, ready to be written. A collective: every rank calls it.
    pub fn snapshot(
        &self,
        config: &RunConfig,
        layout: &FlatLayout,
        ownership: &Ownership,
        identity: &Identity,
        world: &World,
    ) -> Result<Snapshot> {
        let at_root = |own| gather_at_root(own, layout.len(), ownership, world);
        let masters = at_root(self.optimizer.masters())?;
        let ema = self
            .ema
            .iter()
            .map(|ema| Ok((ema.half_life(), at_root(ema.weights())?)));
        let ema = ema.collect::<Result<Vec<_>>>()?;
        let weights = masters.map(|masters| FlatWeights {
            masters,
            ema: ema
                .into_iter()
                .filter_map(|(half_life, average)| Some((half_life, average?)))
                .collect(),
        });
        let writes = world.rank() == 0 || config.train.sharding == Sharding::Zero1;
        let optimizer = writes.then(|| OptimizerPart {
            start: self.optimizer.own().start,
            moments: self.optimizer.moments(),
        });
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            lidit_version: env!("CARGO_PKG_VERSION").to_owned(),
            step: self.step,
            world_size: world.size(),
            data: DataPosition {
                position: self.step * config.train.global_batch as u64,
                digest: self.sample_digest.0.clone(),
                dataset: identity.dataset.clone(),
            },
            encoders: identity.encoders.clone(),
            vae: identity.vae.clone(),
            ema_half_lives: config.train.ema_half_lives.clone(),
            layout: layout.entries().to_vec(),
            files: Vec::new(),
        };
        Ok(Snapshot {
            manifest,
            weights,
            optimizer,
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

/// A vector of flat space, `len` long, on rank 0 from every rank's own range of it; `None` on the others, which never
/// hold more of it than [`GATHERED`] elements. A collective.
fn gather_at_root(own: &Tensor<1>, len: usize, ownership: &Ownership, world: &World) -> Result<Option<Vec<f32>>> {
    let is_root = world.rank() == 0;
    if !ownership.is_split() {
        return Ok(is_root.then(|| host(own)));
    }
    let ranges = even_ranges(len, world.size());
    let own = host(own);
    let mut all = is_root.then(|| vec![0.0; len]);
    // A piece of every range at a time: all links are busy.
    let piece = (GATHERED / world.size()).max(1);
    let longest = ranges.iter().map(Range::len).max().unwrap_or(0);
    for start in (0..longest).step_by(piece) {
        let mut end = 0;
        let places: Vec<Range<usize>> = ranges
            .iter()
            .map(|range| {
                let begin = end;
                end += range.len().saturating_sub(start).min(piece);
                begin..end
            })
            .collect();
        let mut pieces = vec![0.0; end];
        let mine = places[world.rank()].clone();
        pieces[mine.clone()].copy_from_slice(&own[start.min(own.len())..][..mine.len()]);
        world.all_gather(&mut pieces, &places)?;
        if let Some(all) = &mut all {
            for (range, place) in ranges.iter().zip(places) {
                all[range.start + start.min(range.len())..][..place.len()].copy_from_slice(&pieces[place]);
            }
        }
    }
    Ok(all)
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
