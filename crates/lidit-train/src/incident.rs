//! A step whose numbers can't be trusted, with all that is needed to go through it again: `incidents/step-N.json`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::Tensor;
use lidit_data::MicroBatch;
use lidit_dist::World;
use lidit_kernels::sum_of_squares;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::atomic::write_atomically;
use crate::config::Precision;
use crate::digest::hex;
use crate::history::Arithmetic;
use crate::jsonl::null_is_nan;
use crate::loss_watch::IncidentKind;
use crate::optimizer::host;
use crate::run_dir::RunDir;
use crate::step_files::steps_in;

/// The version of `incidents/step-N.json`.
pub const FORMAT_VERSION: u32 = 1;

/// `incidents/step-N.json`. A number that is not finite is `null` in the file and NaN again when read.
///
/// Noise, timestep, caption and dropout of a sample are keyed by (`seed`, its epoch, its id), so these are all that a
/// replay needs besides the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incident {
    /// Always `FORMAT_VERSION` of this file.
    pub format_version: u32,
    /// Steps done, this one included.
    pub step: u64,
    /// Why.
    pub kind: IncidentKind,
    /// The attempt at the run that saw it.
    pub attempt: u32,
    /// The binary's version.
    pub version: String,
    /// Steps done by the newest checkpoint at that time; 0 for none.
    pub checkpoint: u64,
    /// Processes.
    pub world_size: usize,
    /// `train.seed`.
    pub seed: u64,
    /// `train.precision`.
    pub precision: Precision,
    /// What may differ from attempt to attempt and rounds sums otherwise.
    pub arithmetic: Arithmetic,
    /// Mean loss over the global batch's usable samples.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// L2 norm of the mean gradient before clipping.
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    /// The rate of the step.
    pub lr: f64,
    /// Usable samples of the global batch.
    pub usable: usize,
    /// Of a spike: standard deviations above the running mean.
    pub zscore: Option<f64>,
    /// What every rank had in its hands, in rank order.
    pub ranks: Vec<RankReport>,
}

/// One rank's part of an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankReport {
    /// Which.
    pub rank: usize,
    /// Its machine.
    pub host: String,
    /// What `--device` said.
    pub device: String,
    /// Its micro-batches, in the order in which their gradients were summed.
    pub micro_batches: Vec<MicroBatchReport>,
}

/// A micro-batch, and what forward and backward made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MicroBatchReport {
    /// Sample ids.
    pub ids: Vec<u64>,
    /// Their epochs.
    pub epochs: Vec<u64>,
    /// Sum of the samples' losses.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// L2 norm of the gradient of that sum.
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    /// SHA-256 of that gradient's bits: flat, f32, little endian.
    pub gradient: String,
}

impl MicroBatchReport {
    /// What forward and backward made of `batch`: the sum of its losses and the gradient of that sum, `[len]`.
    pub fn of(batch: &MicroBatch, loss: f64, gradient: &Tensor<1>) -> Self {
        Self {
            ids: batch.ids.clone(),
            epochs: batch.epochs.clone(),
            loss,
            grad_norm: sum_of_squares(gradient, 1.0).sqrt(),
            gradient: hex(&Sha256::digest(bytemuck::cast_slice::<f32, u8>(&host(gradient)))),
        }
    }

    /// Whether loss and gradient are.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

impl RankReport {
    /// Every rank's report, in rank order. A collective: every rank calls it with its own.
    pub fn gather(&self, world: &World) -> Result<Vec<Self>> {
        (0..world.size())
            .map(|rank| {
                let mut bytes = serde_json::to_vec(self)?;
                world.broadcast(&mut bytes, rank)?;
                serde_json::from_slice(&bytes).with_context(|| format!("the report of rank {rank}"))
            })
            .collect()
    }
}

impl Incident {
    /// Writes `incidents/step-N.json`, whole or not at all.
    pub fn write(&self, run: &RunDir) -> Result<()> {
        let folder = run.incidents();
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        write_atomically(&run.incident(self.step), &serde_json::to_vec_pretty(self)?)
    }

    /// The incident of `step`; `None` where the lineage has none.
    ///
    /// # Errors
    /// The file can't be read, or has another format version.
    pub fn read(run: &RunDir, step: u64) -> Result<Option<Self>> {
        let path = run.incident(step);
        if !path.exists() {
            return Ok(None);
        }
        Self::open(&path).map(Some)
    }

    fn open(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let incident: Self = serde_json::from_slice(&bytes).with_context(|| format!("parsing {}", path.display()))?;
        ensure!(
            incident.format_version == FORMAT_VERSION,
            "{} has format_version {}, this program reads {FORMAT_VERSION}",
            path.display(),
            incident.format_version
        );
        Ok(incident)
    }
}

/// Takes the incidents after step `done` out of the lineage, as metrics are cut back: an attempt that goes on from there
/// comes by these steps again. They are kept as evidence in `incidents/attempt-A/`, A being the attempt that saw them.
pub fn cut_back(run: &RunDir, done: u64) -> Result<()> {
    for step in steps(run)?.into_iter().filter(|&step| step > done) {
        let path = run.incident(step);
        let seen_by = run
            .incidents()
            .join(format!("attempt-{}", Incident::open(&path)?.attempt));
        let move_there = || -> std::io::Result<()> {
            fs::create_dir_all(&seen_by)?;
            fs::rename(&path, seen_by.join(path.file_name().unwrap_or_default()))
        };
        move_there().with_context(|| format!("moving {} to {}", path.display(), seen_by.display()))?;
    }
    Ok(())
}

/// The steps of the lineage that have an incident, in order.
pub fn steps(run: &RunDir) -> Result<Vec<u64>> {
    steps_in(&run.incidents())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use burn::tensor::Device;
    use lidit_data::Bucket;

    use super::*;
    use crate::config::Sharding;
    use crate::optimizer::upload;

    fn micro_batch(gradient: &[f32]) -> MicroBatchReport {
        let batch = MicroBatch {
            epochs: vec![0, 2],
            ids: vec![7, 3],
            positions: vec![0, 1],
            pixels: Vec::new(),
            captions: vec![String::new(), String::new()],
            weights: vec![1.0, 1.0],
            size: Bucket { width: 8, height: 8 },
        };
        MicroBatchReport::of(&batch, 0.5, &upload(gradient, &Device::flex()))
    }

    fn incident(step: u64, attempt: u32) -> Incident {
        Incident {
            format_version: FORMAT_VERSION,
            step,
            kind: IncidentKind::NonFinite,
            attempt,
            version: "0.1.0".into(),
            checkpoint: 0,
            world_size: 1,
            seed: 5,
            precision: Precision::F32,
            arithmetic: Arithmetic {
                micro_batch: 2,
                recompute_blocks: 0,
                sharding: Sharding::None,
                threads: vec![1],
            },
            loss: f64::NAN,
            grad_norm: f64::INFINITY,
            lr: 1e-3,
            usable: 2,
            zscore: None,
            ranks: vec![RankReport {
                rank: 0,
                host: "here".into(),
                device: "cpu".into(),
                micro_batches: vec![micro_batch(&[3.0, 4.0])],
            }],
        }
    }

    #[test]
    fn a_digest_tells_bits_apart_that_compare_equal() {
        let plus = micro_batch(&[0.0, 4.0]);
        let minus = micro_batch(&[-0.0, 4.0]);
        assert_eq!(plus.grad_norm.to_bits(), minus.grad_norm.to_bits());
        assert_ne!(plus.gradient, minus.gradient);
        assert_eq!(plus, micro_batch(&[0.0, 4.0]));
        assert!((micro_batch(&[3.0, 4.0]).grad_norm - 5.0).abs() < 1e-12);
        assert!(!micro_batch(&[f32::NAN, 4.0]).is_finite());
    }

    #[test]
    fn the_file_is_json_whatever_the_numbers_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path()).unwrap();
        assert_eq!(Incident::read(&run, 4).unwrap(), None);
        incident(4, 1).write(&run).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&fs::read(run.incident(4)).unwrap()).unwrap();
        assert!(value["loss"].is_null() && value["grad_norm"].is_null(), "{value}");
        assert_eq!(value["kind"], "non_finite");
        let read = Incident::read(&run, 4).unwrap().unwrap();
        assert!(read.loss.is_nan() && read.grad_norm.is_nan());
        assert_eq!(read.ranks, incident(4, 1).ranks);
    }

    #[test]
    fn incidents_after_the_resumed_step_leave_the_lineage_and_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path()).unwrap();
        cut_back(&run, 0).unwrap();
        for (step, attempt) in [(2, 1), (11, 1), (12, 1)] {
            incident(step, attempt).write(&run).unwrap();
        }
        cut_back(&run, 10).unwrap();
        assert_eq!(steps(&run).unwrap(), [2]);
        incident(12, 2).write(&run).unwrap();
        cut_back(&run, 10).unwrap();
        assert_eq!(steps(&run).unwrap(), [2]);
        for kept in [
            "attempt-1/step-11.json",
            "attempt-1/step-12.json",
            "attempt-2/step-12.json",
        ] {
            assert!(run.incidents().join(kept).is_file(), "{kept}");
        }
    }
}
