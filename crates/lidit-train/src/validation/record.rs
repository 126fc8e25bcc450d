//! An evaluation on the disk: `validation/step-N.json`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Deserializer, Serialize};

use super::ValidationSet;
use super::identity::ValidationIdentity;
use super::prompt_gain::PromptGain;
use crate::atomic::write_atomically;
use crate::jsonl::null_is_nan;
use crate::run_dir::RunDir;
use crate::step_files::steps_in;

/// The version of `validation/step-N.json`. Version 1 has no `prompt_gain` and is read, too.
const FORMAT_VERSION: u32 = 2;

/// A network's losses on the validation triples. A number that is not finite is `null` in the file and NaN again when read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationRecord {
    /// `FORMAT_VERSION` of this file, or an earlier one that is read.
    pub format_version: u32,
    /// Steps done by the weights.
    pub step: u64,
    /// `raw` or `ema:HALF_LIFE`.
    pub weights: String,
    /// [`ValidationIdentity::digest`]: records of equal digests compare triple by triple.
    pub digest: String,
    /// What the triples are.
    pub identity: ValidationIdentity,
    /// Mean over all triples of their mean squared error, without any weighting.
    #[serde(deserialize_with = "null_is_nan")]
    pub val_loss: f64,
    /// Its standard error, clustered by sample.
    #[serde(deserialize_with = "null_is_nan")]
    pub se: f64,
    /// The same at each time, over samples.
    pub levels: Vec<LevelLoss>,
    /// The samples' row numbers in the held-out set.
    pub ids: Vec<u64>,
    /// Of each sample, its loss at each time: `[samples][levels]`.
    #[serde(deserialize_with = "nulls_are_nan")]
    pub losses: Vec<Vec<f32>>,
    /// By how much the prompts lower them; `null` where that was not asked for.
    pub prompt_gain: Option<PromptGain>,
}

/// A mean over samples at one time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelLoss {
    /// 0 (clean) to 1 (noise).
    pub time: f64,
    /// Over samples.
    #[serde(deserialize_with = "null_is_nan")]
    pub mean: f64,
    /// Standard error of the mean.
    #[serde(deserialize_with = "null_is_nan")]
    pub se: f64,
}

impl ValidationRecord {
    /// Sums up the `losses` of `ids`, `[samples][levels]`, at the times of `set`.
    pub(super) fn new(
        identity: ValidationIdentity,
        set: &ValidationSet,
        ids: Vec<u64>,
        losses: Vec<Vec<f32>>,
    ) -> Result<Self> {
        let (val_loss, se) = over_samples(&losses);
        Ok(Self {
            format_version: FORMAT_VERSION,
            step: 0,
            weights: String::new(),
            digest: identity.digest()?,
            identity,
            val_loss,
            se,
            levels: at_levels(&set.times(), &losses),
            ids,
            losses,
            prompt_gain: None,
        })
    }

    /// With the losses of the same triples `without` prompts, `[samples][levels]`.
    #[must_use]
    pub(super) fn beside(self, without: &[Vec<f32>]) -> Self {
        let times: Vec<f64> = self.levels.iter().map(|level| level.time).collect();
        Self {
            prompt_gain: Some(PromptGain::of(&times, without, &self.losses)),
            ..self
        }
    }

    /// Of the weights after `step` steps that `weights` names exactly.
    #[must_use]
    pub fn of(self, step: u64, weights: String) -> Self {
        Self { step, weights, ..self }
    }

    /// Writes `validation/step-N.json`, whole or not at all.
    pub fn write(&self, run: &RunDir) -> Result<()> {
        let folder = run.validation();
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        self.write_to(&run.validation_of(self.step))
    }

    /// Writes the file `path`, whole or not at all.
    pub fn write_to(&self, path: &Path) -> Result<()> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        write_atomically(path, &bytes)
    }

    /// The record of `step`; `None` where that step was not evaluated.
    ///
    /// # Errors
    /// The file can't be read, or has another format version.
    pub fn read(run: &RunDir, step: u64) -> Result<Option<Self>> {
        let path = run.validation_of(step);
        if !path.exists() {
            return Ok(None);
        }
        Self::open(&path).map(Some)
    }

    /// The record of the last step of `run` that was evaluated.
    ///
    /// # Errors
    /// There is none, or it can't be read.
    pub fn newest_of(run: &RunDir) -> Result<Self> {
        let newest = steps_in(&run.validation())?.pop();
        let step = newest.with_context(|| {
            format!(
                "{} has no validation loss: train it with a [validation] table in its config, or lidit eval it",
                run.root().display()
            )
        })?;
        Self::open(&run.validation_of(step))
    }

    /// Of each sample, its mean loss over times.
    pub fn sample_losses(&self) -> Vec<f64> {
        self.losses.iter().map(|levels| over_levels(levels)).collect()
    }

    /// Of each sample, its mean gain over times; empty where gains were not asked for.
    pub fn sample_gains(&self) -> Vec<f64> {
        let gains = self.prompt_gain.iter().flat_map(|gain| &gain.gains);
        gains.map(|levels| over_levels(levels)).collect()
    }

    /// Reads the file `path`.
    ///
    /// # Errors
    /// It can't be read, or has another format version.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let record: Self = serde_json::from_slice(&bytes).with_context(|| format!("parsing {}", path.display()))?;
        ensure!(
            (1..=FORMAT_VERSION).contains(&record.format_version),
            "{} has format_version {}, this program reads 1 to {FORMAT_VERSION}: judge the run again with lidit eval",
            path.display(),
            record.format_version
        );
        Ok(record)
    }
}

/// Mean over samples of each sample's mean over levels, and its standard error: a sample's levels share picture and caption,
/// so they are no independent draws.
pub(super) fn over_samples(losses: &[Vec<f32>]) -> (f64, f64) {
    mean_and_se(losses.iter().map(|levels| over_levels(levels)))
}

fn over_levels(levels: &[f32]) -> f64 {
    levels.iter().map(|&loss| f64::from(loss)).sum::<f64>() / levels.len() as f64
}

/// The same at each level alone.
pub(super) fn at_levels(times: &[f64], losses: &[Vec<f32>]) -> Vec<LevelLoss> {
    let levels = times.iter().enumerate();
    levels
        .map(|(level, &time)| {
            let (mean, se) = mean_and_se(losses.iter().map(|levels| f64::from(levels[level])));
            LevelLoss { time, mean, se }
        })
        .collect()
}

/// `mean` and `sqrt(sum (x - mean)^2 / (n - 1) / n)`.
fn mean_and_se(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    let squares: f64 = values.map(|value| (value - mean) * (value - mean)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

/// Triple by triple, `a` less `b`.
pub(super) fn less(a: &[Vec<f32>], b: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let rows = a.iter().zip(b);
    rows.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a - b).collect())
        .collect()
}

/// Removes the records after step `done`: an attempt that goes on from there evaluates these steps again.
pub(crate) fn cut_back(run: &RunDir, done: u64) -> Result<()> {
    for step in steps_in(&run.validation())?.into_iter().filter(|&step| step > done) {
        let path = run.validation_of(step);
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

pub(super) fn nulls_are_nan<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<f32>>, D::Error> {
    let rows: Vec<Vec<Option<f32>>> = Deserialize::deserialize(from)?;
    let row = |row: Vec<Option<f32>>| row.into_iter().map(|loss| loss.unwrap_or(f32::NAN)).collect();
    Ok(rows.into_iter().map(row).collect())
}

#[cfg(test)]
impl ValidationRecord {
    /// A record of two times after `step` steps.
    pub(crate) fn example(step: u64, losses: &[[f32; 2]]) -> Self {
        let set = ValidationSet {
            data: "held-out".into(),
            samples: losses.len() as u64,
            levels: 2,
            seed: 0,
            prompt_gain: false,
            features: None,
        };
        let identity = ValidationIdentity {
            data: "d".into(),
            image_column: "image".into(),
            caption_column: "caption".into(),
            image_size: 16,
            buckets: true,
            samples: set.samples,
            levels: 2,
            seed: 0,
            objective: serde_json::json!({ "kind": "rectified_flow" }),
            vae: "identity".into(),
        };
        let ids = (0..losses.len() as u64).collect();
        let losses = losses.iter().map(|levels| levels.to_vec()).collect();
        let record = Self::new(identity, &set, ids, losses);
        record.unwrap_or_else(|error| panic!("{error}")).of(step, "raw".into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_sample_s_levels_are_one_draw_of_the_mean() {
        let record = ValidationRecord::example(3, &[[1.0, 3.0], [2.0, 6.0], [3.0, 9.0]]);
        // Means of samples: 2, 4, 6. Their variance is 4, and 4 / 3 that of their mean.
        assert!((record.val_loss - 4.0).abs() < 1e-12);
        assert!((record.se - (4.0f64 / 3.0).sqrt()).abs() < 1e-12);
        let [first, second] = record.levels[..] else {
            panic!("two levels")
        };
        assert_eq!((first.time, second.time), (0.25, 0.75));
        assert!((first.mean - 2.0).abs() < 1e-12 && (second.mean - 6.0).abs() < 1e-12);
        assert!((first.se - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((second.se - 3.0f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn records_come_back_and_those_after_the_resumed_step_go() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path()).unwrap();
        assert!(
            ValidationRecord::newest_of(&run)
                .unwrap_err()
                .to_string()
                .contains("[validation]")
        );
        cut_back(&run, 0).unwrap();
        let record = |step| ValidationRecord::example(step, &[[0.1, 0.2], [0.3, f32::NAN]]);
        for step in [5, 10, 15] {
            record(step).write(&run).unwrap();
        }
        let read = ValidationRecord::read(&run, 10).unwrap().unwrap();
        assert_eq!((read.step, read.losses[0].clone()), (10, vec![0.1, 0.2]));
        assert!(read.losses[1][1].is_nan() && read.val_loss.is_nan() && read.levels[0].se.is_finite());
        cut_back(&run, 10).unwrap();
        assert_eq!(ValidationRecord::newest_of(&run).unwrap().step, 10);
        assert!(ValidationRecord::read(&run, 15).unwrap().is_none());
        let text = fs::read_to_string(run.validation_of(5)).unwrap();
        fs::write(
            run.validation_of(5),
            text.replace("\"format_version\":2", "\"format_version\":1")
                .replace(",\"prompt_gain\":null", ""),
        )
        .unwrap();
        let first = ValidationRecord::read(&run, 5).unwrap().unwrap();
        assert_eq!((first.format_version, first.prompt_gain), (1, None));
        fs::write(
            run.validation_of(5),
            text.replace("\"format_version\":2", "\"format_version\":9"),
        )
        .unwrap();
        let message = ValidationRecord::read(&run, 5).unwrap_err().to_string();
        assert!(message.contains("format_version 9"), "{message}");
    }
}
