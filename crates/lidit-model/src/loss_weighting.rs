//! How much each time counts in the loss.

use serde::{Deserialize, Serialize};

use crate::config::InvalidConfig;

/// How much each time counts in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LossWeighting {
    /// All alike.
    Uniform,
    /// Min-SNR (arXiv 2303.09556): the loss of the clean picture, weighted `min(SNR, gamma)`. In terms of what is
    /// predicted that is `min(SNR, gamma) / SNR` for noise and `min(SNR, gamma) / (SNR + 1)` for velocity.
    MinSnr {
        /// The paper's choice is 5.
        gamma: f64,
    },
}

impl LossWeighting {
    /// The factor of the squared error of predicted noise.
    pub(crate) fn of_epsilon(self, snr: f64) -> f64 {
        match self {
            Self::Uniform => 1.0,
            Self::MinSnr { gamma } => (gamma / snr).min(1.0),
        }
    }

    /// The factor of the squared error of predicted velocity. Without any signal it is 0: a picture cannot be guessed.
    pub(crate) fn of_velocity(self, snr: f64) -> f64 {
        match self {
            Self::Uniform => 1.0,
            Self::MinSnr { gamma } => snr.min(gamma) / (snr + 1.0),
        }
    }

    pub(crate) fn validate(self) -> Result<(), InvalidConfig> {
        match self {
            Self::MinSnr { gamma } if !(gamma.is_finite() && gamma > 0.0) => {
                let reason = format!("min_snr.gamma is {gamma}: it must be above 0, the paper's choice is 5");
                Err(InvalidConfig::new("objective.weighting", reason))
            }
            _ => Ok(()),
        }
    }
}
