//! What saving and reading back a state of a given size costs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use burn::tensor::{Device, Tensor, TensorData};
use lidit_dist::World;
use lidit_model::Role;
use sha2::{Digest, Sha256};

use crate::checkpoint::{Checkpoint, OptimizerPart};
use crate::checkpoint_writer::{CheckpointWriter, Saved};
use crate::layout::{Entry, FlatLayout};
use crate::manifest::{DataPosition, FORMAT_VERSION, Manifest};
use crate::optimizer::{Moments, host};
use crate::snapshot::{FlatWeights, Snapshot};

/// The state's tensors are squares of this side, but for the last.
const SIDE: usize = 1024;
/// The average's half-life.
const HALF_LIFE: u64 = 1;

/// A state of masters, two moments and one average, and training's writer for it.
pub struct SaveBench {
    folder: PathBuf,
    layout: FlatLayout,
    /// Masters, moments, average.
    vectors: [Tensor<1>; 4],
    writer: CheckpointWriter,
    world: World,
    step: u64,
}

/// What it takes to go on from a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct ReadBack {
    /// Every file read and its digest compared.
    pub verify: Duration,
    /// Masters, moments and average read again, as vectors.
    pub load: Duration,
}

impl SaveBench {
    /// A state of `parameters` random numbers a vector, to be saved in the new folder `folder`.
    ///
    /// # Errors
    /// The folder exists, or can't be made.
    pub fn new(folder: &Path, parameters: usize) -> Result<Self> {
        fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
        let world = World::solo();
        let vectors = [1, 2, 3, 4].map(|seed| random(parameters, seed));
        Ok(Self {
            folder: folder.to_owned(),
            layout: FlatLayout::from_entries(entries(parameters)),
            vectors,
            writer: CheckpointWriter::open_keeping_one(folder, &world)?,
            world,
            step: 0,
        })
    }

    /// Saves once while nothing else happens, and waits for its end. The wait is not in the stall.
    pub fn save(&mut self) -> Result<Saved> {
        let begun = Instant::now();
        self.step += 1;
        let snapshot = self.snapshot();
        self.writer.start(snapshot, begun)?;
        self.writer
            .wait(&self.world)?
            .context("the save ended without a checkpoint")
    }

    /// Reads the newest checkpoint as a run does that goes on.
    pub fn read(&self) -> Result<ReadBack> {
        let begun = Instant::now();
        let checkpoint = Checkpoint::newest_verified(&self.folder, |_, _| ())?.context("nothing is saved")?;
        let verify = begun.elapsed();
        let begun = Instant::now();
        let masters = checkpoint.masters()?;
        checkpoint.moments(0..masters.len())?;
        checkpoint.ema(HALF_LIFE)?;
        Ok(ReadBack {
            verify,
            load: begun.elapsed(),
        })
    }

    /// What SHA-256 alone takes for the state's bytes.
    pub fn hash(&self) -> Duration {
        let vectors = self.vectors.each_ref().map(host);
        let begun = Instant::now();
        for vector in &vectors {
            std::hint::black_box(Sha256::digest(bytemuck::cast_slice(vector)));
        }
        begun.elapsed()
    }

    fn snapshot(&self) -> Snapshot {
        let [masters, first, second, average] = self.vectors.each_ref().map(host);
        let moments = Moments {
            time: self.step as usize,
            first,
            second,
        };
        Snapshot {
            manifest: Manifest {
                format_version: FORMAT_VERSION,
                lidit_version: env!("CARGO_PKG_VERSION").to_owned(),
                step: self.step,
                world_size: 1,
                data: DataPosition {
                    position: 0,
                    digest: String::new(),
                    dataset: String::new(),
                },
                encoders: Vec::new(),
                vae: String::new(),
                ema_half_lives: vec![HALF_LIFE],
                layout: self.layout.entries().to_vec(),
                files: Vec::new(),
            },
            weights: Some(FlatWeights {
                masters,
                ema: vec![(HALF_LIFE, average)],
            }),
            optimizer: Some(OptimizerPart { start: 0, moments }),
        }
    }
}

impl Drop for SaveBench {
    fn drop(&mut self) {
        // It is what this bench has made; what can't be removed is seen by who made the folder around it.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn entries(parameters: usize) -> Vec<Entry> {
    let squares = parameters / (SIDE * SIDE);
    let rest = parameters - squares * SIDE * SIDE;
    let shapes = std::iter::repeat_n(vec![SIDE, SIDE], squares).chain((rest > 0).then(|| vec![rest]));
    let entry = |(i, shape)| Entry {
        name: format!("blocks.{i}.weight"),
        shape,
        offset: 0,
        group: Role::of("blocks.0.mlp.up.weight"),
    };
    shapes.enumerate().map(entry).collect()
}

fn random(len: usize, seed: u64) -> Tensor<1> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let values: Vec<f32> = std::iter::repeat_with(&mut next).take(len).collect();
    Tensor::from_data(TensorData::new(values, [len]), &Device::flex())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_timed_is_a_whole_checkpoint_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("bench");
        let parameters = SIDE * SIDE + 5;
        let mut bench = SaveBench::new(&folder, parameters).unwrap();
        let bytes = bench.save().unwrap().bytes;
        assert!(
            bytes > 16 * parameters as u64 && bytes < 17 * parameters as u64,
            "{bytes}"
        );
        bench.save().unwrap();
        bench.read().unwrap();
        let checkpoint = Checkpoint::open(&folder.join("step-2")).unwrap();
        assert_eq!(checkpoint.masters().unwrap(), host(&bench.vectors[0]));
        assert_eq!(
            checkpoint.moments(0..parameters).unwrap().second,
            host(&bench.vectors[2])
        );
        assert!(SaveBench::new(&folder, 1).is_err());
        drop(bench);
        assert!(!folder.exists());
    }
}
