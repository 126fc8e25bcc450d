//! Everything that changes while a run trains.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use lidit_data::{SampleOrder, Share};
use lidit_dist::World;
use lidit_model::LiDit;
use sha2::{Digest, Sha256};

use crate::buckets::packed;
use crate::checkpoint::{Checkpoint, OptimizerPart};
use crate::config::{RunConfig, Sharding};
use crate::digest::hex;
use crate::ema::Ema;
use crate::gradients::Ownership;
use crate::layout::FlatLayout;
use crate::loss_watch::LossWatch;
use crate::manifest::{DataPosition, FORMAT_VERSION, Manifest};
use crate::optimizer::{FlatAdamW, host_onto, upload};
use crate::snapshot::{FlatWeights, Snapshot};
use crate::weights::Weights;

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

    /// The network with `weights`, named with their half-life, without autodiff. A collective.
    ///
    /// # Errors
    /// The run keeps no such average.
    pub fn model_of(
        &self,
        weights: Weights,
        config: &RunConfig,
        layout: &FlatLayout,
        ownership: &Ownership,
        world: &World,
    ) -> Result<LiDit> {
        let Weights::Ema(half_life) = weights else {
            return Ok(self.model.valid());
        };
        let average = self.ema.iter().find(|ema| Some(ema.half_life()) == half_life);
        let average = average.with_context(|| format!("the run keeps no weights {weights}"))?;
        let all: Tensor<1> = ownership.gather(average.weights(), world)?;
        Ok(layout.load(&all, config.train.precision, self.model.valid()))
    }
}

/// A vector of flat space, `len` long, on rank 0 from the pieces of every rank's own range of it; `None` on the others,
/// which never hold more of it than [`GATHERED`] elements. A collective.
fn gather_at_root(own: &[Tensor<1>], len: usize, ownership: &Ownership, world: &World) -> Result<Option<Vec<f32>>> {
    let is_root = world.rank() == 0;
    let values = || {
        let mut values = Vec::with_capacity(ownership.own().len());
        for piece in own {
            host_onto(&mut values, piece);
        }
        values
    };
    if !ownership.is_split() {
        return Ok(is_root.then(values));
    }
    let ranges = ranges_of_all(&ownership.own(), world)?;
    let own = values();
    let mut all = is_root.then(|| vec![0.0; len]);
    // A part of every range at a time: all links are busy.
    let part = (GATHERED / world.size()).max(1);
    let longest = ranges.iter().map(Range::len).max().unwrap_or(0);
    for start in (0..longest).step_by(part) {
        let places = packed(ranges.iter().map(|range| range.len().saturating_sub(start).min(part)));
        let mut parts = vec![0.0; places.last().map_or(0, |last| last.end)];
        let mine = places[world.rank()].clone();
        if !mine.is_empty() {
            parts[mine.clone()].copy_from_slice(&own[start..start + mine.len()]);
        }
        world.all_gather(&mut parts, &places)?;
        let Some(all) = &mut all else { continue };
        for (range, place) in ranges.iter().zip(places).filter(|(_, place)| !place.is_empty()) {
            let from = range.start + start;
            all[from..from + place.len()].copy_from_slice(&parts[place]);
        }
    }
    Ok(all)
}

/// What every rank owns. A collective.
fn ranges_of_all(own: &Range<usize>, world: &World) -> Result<Vec<Range<usize>>> {
    let mut ends = vec![0.0; 2 * world.size()];
    (ends[2 * world.rank()], ends[2 * world.rank() + 1]) = (own.start as f64, own.end as f64);
    world.sum_f64(&mut ends)?;
    let ranges = ends.as_chunks::<2>().0.iter();
    Ok(ranges.map(|[start, end]| *start as usize..*end as usize).collect())
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
