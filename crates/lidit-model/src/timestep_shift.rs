//! More noise for larger pictures.

use serde::{Deserialize, Serialize};

use crate::config::InvalidConfig;

/// Moves every time towards noise by one factor s, in training and in sampling: signal over noise is divided by s.
///
/// Averaging k x k pixels divides the noise by k, so a picture k times as wide and high needs s = k for the same
/// difficulty. For straight paths this is `t' = s t / (1 + (s - 1) t)` (Stable Diffusion 3, arXiv 2403.03206, section
/// 5.3.2); for the other objectives `log SNR' = log SNR - 2 log s` ("simple diffusion", arXiv 2301.11093, section 3.1).
/// They are the same: on a straight path, SNR is `((1 - t) / t)^2`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TimestepShift {
    /// Times as they are drawn.
    None,
    /// The same for every size.
    Constant {
        /// s; above 1 is noisier.
        factor: f64,
    },
    /// By the picture's size: `s = sqrt(image tokens / reference_tokens)`.
    Resolution {
        /// Image tokens of the size that needs no shift.
        reference_tokens: usize,
    },
}

impl TimestepShift {
    /// The factor s for pictures of `image_tokens`; none where nothing is shifted.
    pub(crate) fn factor(self, image_tokens: usize) -> Option<f64> {
        match self {
            Self::None => None,
            Self::Constant { factor } => Some(factor),
            Self::Resolution { reference_tokens } => Some((image_tokens as f64 / reference_tokens as f64).sqrt()),
        }
    }

    /// The time of a straight path that is drawn as `t`.
    pub(crate) fn of_straight(self, t: f64, image_tokens: usize) -> f64 {
        match self.factor(image_tokens) {
            None => t,
            Some(s) => s * t / (1.0 + (s - 1.0) * t),
        }
    }

    pub(crate) fn validate(self) -> Result<(), InvalidConfig> {
        match self {
            Self::Constant { factor } if !(factor.is_finite() && factor > 0.0) => {
                let reason = format!("constant.factor is {factor}: it must be above 0, 1 shifts nothing");
                Err(InvalidConfig::new("objective.shift", reason))
            }
            Self::Resolution { reference_tokens: 0 } => {
                let reason = "resolution.reference_tokens is 0: name the image tokens of the size that needs no shift";
                Err(InvalidConfig::new("objective.shift", reason))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_times_the_tokens_is_a_factor_of_two() {
        let shift = TimestepShift::Resolution { reference_tokens: 256 };
        assert_eq!(shift.factor(1024), Some(2.0));
        // Stable Diffusion 3's figure: at s = 2 the middle moves to two thirds; both ends stay.
        for (t, shifted) in [(0.0, 0.0), (0.5, 2.0 / 3.0), (1.0, 1.0)] {
            assert!((shift.of_straight(t, 1024) - shifted).abs() < 1e-12);
        }
        assert_eq!(shift.factor(256), Some(1.0));
        assert_eq!(TimestepShift::None.factor(1024), None);
    }
}
