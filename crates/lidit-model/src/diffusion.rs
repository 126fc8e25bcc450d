//! The noise levels of DDPM's chain.

use serde::{Deserialize, Serialize};

use crate::config::InvalidConfig;
use crate::loss_weighting::LossWeighting;
use crate::noise_level::{MAX_TIME, NoiseLevel};
use crate::timestep_density::TimestepDensity;
use crate::timestep_shift::TimestepShift;

/// DDPM's chain of noise levels (Ho et al., arXiv 2006.11239): level t keeps `alpha_bar_t = prod_{i <= t} (1 - beta_i)`
/// of the picture's variance, so `signal = sqrt(alpha_bar)` and `noise = sqrt(1 - alpha_bar)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diffusion {
    /// Number of noise levels.
    pub num_timesteps: usize,
    /// The variances added from level to level.
    pub schedule: BetaSchedule,
    /// Rescale so that the last level is noise alone (Lin et al., arXiv 2305.08891, algorithm 1).
    pub zero_terminal_snr: bool,
    /// How often each level is trained.
    pub density: TimestepDensity,
    /// More noise for larger pictures.
    pub shift: TimestepShift,
    /// How much each level counts in the loss.
    pub weighting: LossWeighting,
}

/// The variance `beta_i` added by step i of T, i from 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BetaSchedule {
    /// Even steps from `beta_start` to `beta_end` (DDPM's own are 1e-4 and 0.02).
    Linear {
        /// Variance added by the first step.
        beta_start: f64,
        /// Variance added by the last step.
        beta_end: f64,
    },
    /// Even steps of the square root (latent diffusion's, with 0.00085 and 0.012).
    ScaledLinear {
        /// Variance added by the first step.
        beta_start: f64,
        /// Variance added by the last step.
        beta_end: f64,
    },
    /// `1 - f((i + 1) / T) / f(i / T)`, at most 0.999, with `f(t) = cos^2((t + 0.008) / 1.008 * pi / 2)` (Nichol and
    /// Dhariwal, arXiv 2102.09672; diffusers' `squaredcos_cap_v2`).
    Cosine {},
}

impl Diffusion {
    /// The share of the picture's variance left at each level, most first: `[num_timesteps]`.
    pub fn alpha_bars(&self) -> Vec<f64> {
        let mut left = 1.0;
        let bars: Vec<f64> = (0..self.num_timesteps)
            .map(|i| {
                left *= 1.0 - self.schedule.beta(i, self.num_timesteps);
                left
            })
            .collect();
        if self.zero_terminal_snr {
            with_zero_terminal(&bars)
        } else {
            bars
        }
    }

    /// The levels for pictures of `image_tokens`, least noise first: `[num_timesteps]`. A table for many pictures: it
    /// costs `num_timesteps` products.
    ///
    /// A shift moves the levels and tells the network what they now are: the time at which the unshifted chain has
    /// that much noise, interpolated in the angle `atan(noise / signal)`. So a time means the same level at every size,
    /// as it does on straight paths. Levels beyond the chain's ends are told its ends.
    pub(crate) fn levels(&self, image_tokens: usize) -> Vec<NoiseLevel> {
        self.levels_of(&self.alpha_bars(), image_tokens)
    }

    /// The levels of the chain itself, whatever its shift, least noise first: `[num_timesteps]`.
    pub(crate) fn unshifted_levels(&self) -> Vec<NoiseLevel> {
        let levels = self.alpha_bars().into_iter().enumerate();
        levels.map(|(t, bar)| self.level(bar, t as f64)).collect()
    }

    /// As [`levels`](Self::levels), for a chain that keeps some signal at its end: a log-SNR must be finite. 2^-24 is
    /// what diffusers' DPM-Solver keeps.
    pub(crate) fn levels_with_signal(&self, image_tokens: usize) -> Vec<NoiseLevel> {
        let mut bars = self.alpha_bars();
        if let (true, Some(last)) = (self.zero_terminal_snr, bars.last_mut()) {
            *last = 2f64.powi(-24);
        }
        self.levels_of(&bars, image_tokens)
    }

    fn levels_of(&self, bars: &[f64], image_tokens: usize) -> Vec<NoiseLevel> {
        let Some(s) = self.shift.factor(image_tokens) else {
            let levels = bars.iter().enumerate();
            return levels.map(|(t, &bar)| self.level(bar, t as f64)).collect();
        };
        let angles: Vec<f64> = bars.iter().map(|&bar| angle(bar)).collect();
        bars.iter()
            .map(|&bar| bar / (bar + s * s * (1.0 - bar)))
            .map(|bar| self.level(bar, position(&angles, angle(bar))))
            .collect()
    }

    /// The level that keeps `alpha_bar` of the picture's variance and is told as the chain's `t`-th.
    fn level(&self, alpha_bar: f64, t: f64) -> NoiseLevel {
        NoiseLevel {
            signal: alpha_bar.sqrt(),
            noise: (1.0 - alpha_bar).sqrt(),
            time: t * MAX_TIME / self.num_timesteps as f64,
        }
    }

    /// The level of a time in [0, 1), among `num_timesteps`.
    pub(crate) fn index(&self, t: f64) -> usize {
        ((t * self.num_timesteps as f64) as usize).min(self.num_timesteps - 1)
    }

    pub(crate) fn validate(&self) -> Result<(), InvalidConfig> {
        if self.num_timesteps < 2 {
            let reason = format!("{} is too few, use at least 2", self.num_timesteps);
            return Err(InvalidConfig::new("objective.num_timesteps", reason));
        }
        self.schedule.validate()?;
        self.density.validate()?;
        self.shift.validate()?;
        if self.zero_terminal_snr && self.weighting != LossWeighting::Uniform {
            return Err(InvalidConfig::new(
                "objective.weighting",
                "min_snr gives the last level of zero_terminal_snr no weight, and every picture starts there; use \
                 `uniform`, or objective.zero_terminal_snr = false",
            ));
        }
        self.weighting.validate()
    }
}

impl BetaSchedule {
    fn beta(self, i: usize, count: usize) -> f64 {
        let even = |start: f64, end: f64| start + (end - start) * i as f64 / (count - 1) as f64;
        match self {
            Self::Linear { beta_start, beta_end } => even(beta_start, beta_end),
            Self::ScaledLinear { beta_start, beta_end } => even(beta_start.sqrt(), beta_end.sqrt()).powi(2),
            Self::Cosine {} => {
                let f = |i: usize| {
                    let t = i as f64 / count as f64;
                    ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2)
                };
                (1.0 - f(i + 1) / f(i)).min(0.999)
            }
        }
    }

    fn validate(self) -> Result<(), InvalidConfig> {
        match self {
            Self::Linear { beta_start, beta_end } | Self::ScaledLinear { beta_start, beta_end }
                if !(0.0 < beta_start && beta_start <= beta_end && beta_end < 1.0) =>
            {
                let reason = format!("need 0 < beta_start <= beta_end < 1, got {beta_start} and {beta_end}");
                Err(InvalidConfig::new("objective.schedule", reason))
            }
            _ => Ok(()),
        }
    }
}

/// Shifts and scales `sqrt(alpha_bar)` so that the last is 0 and the first stays.
fn with_zero_terminal(bars: &[f64]) -> Vec<f64> {
    let (first, last) = (bars[0].sqrt(), bars[bars.len() - 1].sqrt());
    let rescaled = |bar: f64| (bar.sqrt() - last) * first / (first - last);
    bars.iter().map(|&bar| rescaled(bar).powi(2)).collect()
}

/// `atan(noise / signal)`: 0 for a clean picture, finite for noise alone.
fn angle(alpha_bar: f64) -> f64 {
    (1.0 - alpha_bar).sqrt().atan2(alpha_bar.sqrt())
}

/// Where `wanted` lies among increasing `angles`, as an index with fraction; the nearest end outside of them.
fn position(angles: &[f64], wanted: f64) -> f64 {
    let above = angles.partition_point(|&angle| angle < wanted);
    if above == 0 || above == angles.len() {
        return above.min(angles.len() - 1) as f64;
    }
    let (low, high) = (angles[above - 1], angles[above]);
    (above - 1) as f64 + (wanted - low) / (high - low)
}
