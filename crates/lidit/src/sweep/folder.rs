//! A sweep's folder: its runs, the files they were started with, and what they were planned to be.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lidit_train::{Stop, write_atomically};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::eval::EvalConfig;

/// Between two looks at whether a lock is free.
const WAIT: Duration = Duration::from_millis(100);
/// Version of `points.json`.
const FORMAT_VERSION: u32 = 2;

/// Where a sweep is kept.
#[derive(Clone, Debug)]
pub struct SweepFolder {
    root: PathBuf,
    sweep: String,
}

/// `NAME.points.json`: what the sweep's file made of its runs, readable without data or language models.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Points {
    format_version: u32,
    /// Where the sweep's file lay.
    pub sweep: PathBuf,
    /// What finished runs are put through.
    pub evaluate: Option<PlannedEvaluation>,
    /// FLOPs of encoding what the runs share, once.
    pub features_flops: f64,
    /// In the order of the grid.
    pub grid: Vec<PlannedPoint>,
}

/// The evaluation of a sweep's finished runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedEvaluation {
    /// Its file.
    pub path: PathBuf,
    /// What that file says.
    pub config: EvalConfig,
}

/// One run of the sweep as it was planned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedPoint {
    /// Its folder below `runs/`.
    pub name: String,
    /// The value's name on each axis.
    pub axes: BTreeMap<String, String>,
    /// Trainable parameters, N.
    pub params: u64,
    /// Of them, refiners.
    pub refiner_params: u64,
    /// To train on one image.
    pub flops_per_image: f64,
    /// Image tokens of a picture.
    pub image_tokens: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Samples a step.
    pub global_batch: u64,
    /// Peak rate.
    pub lr: f64,
    /// Samples that it sees.
    pub samples_seen: u64,
    /// Unique samples, U.
    pub unique_samples: u64,
    /// `C_model` of the run, FLOPs.
    pub c_model: f64,
    /// `C_encoder` of the run, FLOPs, without the shared features.
    pub c_encoder: f64,
    /// Of one device.
    pub memory_bytes: u64,
}

impl Points {
    /// What the sweep's file at `sweep` made of its runs.
    pub fn new(
        sweep: &Path,
        evaluate: Option<PlannedEvaluation>,
        features_flops: f64,
        grid: Vec<PlannedPoint>,
    ) -> Result<Self> {
        Ok(Self {
            format_version: FORMAT_VERSION,
            sweep: std::path::absolute(sweep)?,
            evaluate,
            features_flops,
            grid,
        })
    }
}

impl SweepFolder {
    /// The folder `root`, which may not exist yet, for the sweep called `sweep`. Sweeps that share a folder share the runs
    /// that they have in common.
    pub fn at(root: PathBuf, sweep: String) -> Self {
        Self { root, sweep }
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A run's directory.
    pub fn run(&self, name: &str) -> PathBuf {
        self.root.join("runs").join(name)
    }

    /// What `lidit train` is given for a run.
    pub fn config(&self, name: &str) -> PathBuf {
        self.root.join("configs").join(format!("{name}.toml"))
    }

    /// What a run's processes print.
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// Features that runs share.
    pub fn features(&self, key: &str) -> PathBuf {
        self.root.join("features").join(key)
    }

    /// Makes the folders.
    pub fn create(&self) -> Result<()> {
        for folder in ["runs", "configs", "logs", "features", "locks"] {
            let path = self.root.join(folder);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        Ok(())
    }

    fn points_file(&self) -> PathBuf {
        self.root.join(format!("{}.points.json", self.sweep))
    }

    /// Writes the points.
    pub fn write_points(&self, points: &Points) -> Result<()> {
        write_atomically(&self.points_file(), &serde_json::to_vec_pretty(points)?)
    }

    /// Reads the points.
    ///
    /// # Errors
    /// The sweep has never been run.
    pub fn points(&self) -> Result<Points> {
        let path = self.points_file();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(
                "there is no {}: sweep {} was never run there; run lidit sweep run, or name the sweep's folder with --dir",
                path.display(),
                self.sweep
            ),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let within = || format!("reading {}", path.display());
        let value: Value = serde_json::from_slice(&bytes).with_context(within)?;
        ensure!(
            value["format_version"] == FORMAT_VERSION,
            "{} has format_version {}, this lidit reads {FORMAT_VERSION}: lidit sweep run writes it anew",
            path.display(),
            value["format_version"]
        );
        let points: Points = serde_json::from_value(value).with_context(within)?;
        Ok(points)
    }

    /// Waits until `name` is held against other processes; `on_wait` hears once that another one has it. `None` when
    /// somebody asked to stop.
    pub fn lock(&self, name: &str, stop: &Stop, on_wait: impl FnOnce()) -> Result<Option<File>> {
        let mut on_wait = Some(on_wait);
        while !stop.is_requested() {
            if let Some(lock) = self.try_lock(name)? {
                return Ok(Some(lock));
            }
            if let Some(on_wait) = on_wait.take() {
                on_wait();
            }
            thread::sleep(WAIT);
        }
        Ok(None)
    }

    /// Holds `name` against other processes on this sweep until the file is dropped; `None` while another one has it.
    pub fn try_lock(&self, name: &str) -> Result<Option<File>> {
        let path = self.root.join("locks").join(name);
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            // Some cluster file systems have no locks; the scheduler is then what keeps two jobs apart.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(Some(file)),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
        }
    }
}
