//! How often each time is trained.

use serde::{Deserialize, Serialize};

use crate::config::InvalidConfig;

/// How often each time t in (0, 1) is trained; 0 is the clean picture. The shift comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TimestepDensity {
    /// All alike.
    Uniform,
    /// `t = sigmoid(mean + std * z)`, z standard normal (Stable Diffusion 3's, arXiv 2403.03206, with 0 and 1).
    LogitNormal {
        /// Larger: noisier.
        mean: f64,
        /// Larger: more of both ends.
        std: f64,
    },
}

impl TimestepDensity {
    /// The time of two uniforms in [0, 1).
    pub(crate) fn time(self, draw: [f32; 2]) -> f64 {
        let [a, b] = draw.map(f64::from);
        match self {
            Self::Uniform => a,
            Self::LogitNormal { mean, std } => {
                let z = (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos();
                1.0 / (1.0 + (-(mean + std * z)).exp())
            }
        }
    }

    pub(crate) fn validate(self) -> Result<(), InvalidConfig> {
        match self {
            Self::LogitNormal { mean, std } if !(mean.is_finite() && std.is_finite() && std > 0.0) => {
                let reason = format!("logit_normal needs a finite mean and std > 0, got {mean} and {std}");
                Err(InvalidConfig::new("objective.density", reason))
            }
            _ => Ok(()),
        }
    }
}
