//! What the report knows of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the report knows of a run. What a run does not have stays empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportRun {
    /// Its name in the sweep.
    pub name: String,
    /// How far it is.
    pub status: RunStatus,
    /// Its place on the sweep's axes, as `model -> nano`. Runs that differ in `seed` only are one group.
    pub axes: BTreeMap<String, String>,
    /// Trainable parameters.
    pub n: Option<f64>,
    /// Image tokens seen.
    pub d: Option<f64>,
    /// `C_model` in FLOPs.
    pub c: Option<f64>,
    /// `C_encoder` in FLOPs.
    pub c_encoder: Option<f64>,
    /// `C_total` in FLOPs.
    pub c_total: Option<f64>,
    /// Validation loss.
    pub loss: Option<f64>,
    /// Its standard error.
    pub se: Option<f64>,
    /// The loss sample by sample.
    pub held_out: Option<HeldOutLosses>,
    /// By how much prompts lower the validation loss.
    pub prompt_gain: Option<f64>,
    /// Its standard error.
    pub prompt_gain_se: Option<f64>,
    /// That gain sample by sample.
    pub held_out_gains: Option<HeldOutLosses>,
    /// Unique samples.
    pub u: Option<f64>,
    /// The run's seed.
    pub seed: Option<u64>,
    /// Scores between 0 and 1 by category.
    pub scores: BTreeMap<String, Score>,
    /// Scores of prompts' parts by their position: first quarter to last.
    pub quartiles: Vec<Score>,
    /// Training loss on the way.
    pub curve: Vec<CurveSample>,
    /// Drawn pictures.
    pub pictures: Vec<Picture>,
    /// Wall time.
    pub seconds: Option<f64>,
    /// Devices used, for GPU-hours.
    pub devices: Option<f64>,
    /// Useful step time over wall time, between 0 and 1.
    pub goodput: Option<f64>,
    /// What it cost, in the report's currency.
    pub cost: Option<f64>,
    /// The resolved config, flat: `train.lr -> 0.0003`.
    pub config: BTreeMap<String, String>,
}

/// Validation losses of held-out samples, or what is made of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldOutLosses {
    /// Which samples, times and noise: runs with the same digest compare sample by sample.
    pub digest: String,
    /// Of each sample, the mean over times.
    pub losses: Vec<f64>,
}

impl HeldOutLosses {
    /// How much larger these losses are than `base`, and the standard error of that over samples; `None` where they are of
    /// other samples.
    pub fn above(&self, base: &Self) -> Option<(f64, f64)> {
        let n = self.losses.len();
        if self.digest != base.digest || n != base.losses.len() || n < 2 {
            return None;
        }
        let differences = || self.losses.iter().zip(&base.losses).map(|(own, base)| own - base);
        let mean = differences().sum::<f64>() / n as f64;
        let squares: f64 = differences().map(|difference| (difference - mean).powi(2)).sum();
        Some((mean, (squares / (n - 1) as f64 / n as f64).sqrt()))
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunStatus {
    /// Not started.
    #[default]
    Planned,
    /// Started, not finished.
    Unfinished,
    /// Failed.
    Failed,
    /// Finished.
    Finished,
}

impl RunStatus {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Unfinished => "unfinished",
            Self::Failed => "failed",
            Self::Finished => "finished",
        }
    }
}

/// A share of facts that hold, with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The share.
    pub mean: f64,
    /// The interval's lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// Facts judged.
    pub n: u64,
    /// What guessing would score.
    pub chance: Option<f64>,
}

/// The training loss at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurveSample {
    /// `C_model` so far, in FLOPs.
    pub c: f64,
    /// The loss there, smoothed as the sender likes.
    pub loss: f64,
}

/// A drawn picture with its verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// The PNG file's bytes.
    pub png: Vec<u8>,
    /// What was asked for.
    pub prompt: String,
    /// What the judge says.
    pub verdict: String,
    /// Whether all facts hold, if judged.
    pub right: Option<bool>,
}

impl ReportRun {
    /// Devices times hours.
    pub fn device_hours(&self) -> Option<f64> {
        Some(self.seconds? * self.devices.unwrap_or(1.0) / 3600.0)
    }

    /// The mean over categories.
    pub fn mean_score(&self) -> Option<f64> {
        let count = self.scores.len() as f64;
        (count > 0.0).then(|| self.scores.values().map(|score| score.mean).sum::<f64>() / count)
    }
}
