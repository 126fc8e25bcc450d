//! The validation loss: held-out pictures at fixed times with fixed noise, the same for every run.
//!
//! `docs/evaluation.md` defines it.

mod held_out;
mod identity;
mod paired;
mod prompt_gain;
mod record;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use lidit_data::DataConfig;
use serde::{Deserialize, Serialize};

pub use self::held_out::{HeldOut, Judged};
pub use self::identity::ValidationIdentity;
pub use self::paired::{GainDifference, Paired};
pub use self::prompt_gain::PromptGain;
pub(crate) use self::record::cut_back;
pub use self::record::{LevelLoss, ValidationRecord};
use crate::config::{EncodersConfig, RunConfig, TrainConfig, empty_is_none};
use crate::weights::Weights;

/// The table `[validation]` of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationConfig {
    /// As `data.path`: pictures that the run does not train on, with columns and size of the run's own.
    pub data: PathBuf,
    /// Samples of it, at least 2: a seeded part in which smaller parts are nested.
    pub samples: u64,
    /// Equidistant times at which each sample is judged, `(k + 0.5) / levels`.
    pub levels: usize,
    /// Chooses the part, and seeds the noise.
    pub seed: u64,
    /// Steps between evaluations; 0 for none but the last step's, which is always evaluated. Changes no result.
    pub every: u64,
    /// Whose loss it is.
    pub weights: Weights,
    /// Judges each triple with the empty caption, too, and says by how much the loss is above that with its own; twice the
    /// work. The empty caption is known to networks that were trained with `train.caption_dropout`.
    #[serde(default)]
    pub prompt_gain: bool,
    /// Folder of features that `lidit cache --validation` wrote. A run with `encoders.features` needs it.
    #[serde(default, deserialize_with = "empty_is_none", skip_serializing_if = "Option::is_none")]
    pub features: Option<PathBuf>,
}

/// Which triples of sample, time and noise: [`ValidationConfig`] without when and whose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationSet {
    /// As [`ValidationConfig::data`].
    pub data: PathBuf,
    /// As [`ValidationConfig::samples`].
    pub samples: u64,
    /// As [`ValidationConfig::levels`].
    pub levels: usize,
    /// As [`ValidationConfig::seed`].
    pub seed: u64,
    /// As [`ValidationConfig::prompt_gain`].
    #[serde(default)]
    pub prompt_gain: bool,
    /// As [`ValidationConfig::features`].
    #[serde(default, deserialize_with = "empty_is_none", skip_serializing_if = "Option::is_none")]
    pub features: Option<PathBuf>,
}

impl ValidationConfig {
    /// Which triples.
    pub fn set(&self) -> ValidationSet {
        ValidationSet {
            data: self.data.clone(),
            samples: self.samples,
            levels: self.levels,
            seed: self.seed,
            prompt_gain: self.prompt_gain,
            features: self.features.clone(),
        }
    }

    /// Refuses what can't be evaluated, each by its key.
    pub(crate) fn validate(&self, train: &TrainConfig, encoders: &EncodersConfig) -> Result<()> {
        self.set().validate()?;
        let half_lives = &train.ema_half_lives;
        ensure!(
            self.weights.among(half_lives).is_some(),
            "validation.weights is {}, but train.ema_half_lives is {half_lives:?}",
            self.weights
        );
        ensure!(
            encoders.features.is_none() || self.features.is_some(),
            "validation.features is missing: with encoders.features a run loads no language model; write the validation \
             set's with lidit cache CONFIG --validation --out DIR"
        );
        Ok(())
    }

    /// Whether step `step` of a run of `steps` is evaluated.
    pub(crate) fn is_due(&self, step: u64, steps: u64) -> bool {
        step == steps || (self.every > 0 && step.is_multiple_of(self.every))
    }
}

impl ValidationSet {
    /// Refuses numbers that make no set, each by its key.
    pub fn validate(&self) -> Result<()> {
        ensure!(
            self.samples >= 2,
            "validation.samples is {}: it takes 2 for a standard error",
            self.samples
        );
        ensure!(
            (1..=1000).contains(&self.levels),
            "validation.levels is {}: it must be from 1 to 1000",
            self.levels
        );
        Ok(())
    }

    /// The times, 0 (clean) to 1 (noise).
    pub(crate) fn times(&self) -> Vec<f64> {
        let levels = self.levels as f64;
        (0..self.levels).map(|level| (level as f64 + 0.5) / levels).collect()
    }

    /// The held-out samples as a data set, by the columns and the size of a run's own.
    fn data(&self, run: &DataConfig) -> DataConfig {
        DataConfig {
            path: Some(self.data.clone()),
            sources: Vec::new(),
            max_samples: Some(self.samples),
            subset_seed: self.seed,
            ..run.clone()
        }
    }

    /// `run` with the held-out samples in the place of its data, and nothing to draw: whose features are the validation
    /// set's.
    pub fn in_place_of_data(&self, run: &RunConfig) -> RunConfig {
        let mut config = run.clone();
        config.data = self.data(&run.data);
        config.validation = None;
        config.train.sample_every = 0;
        config.sample.prompts.clear();
        config
    }
}

#[cfg(test)]
mod tests;
