//! What the network learns to predict, and the loss.

use burn::tensor::{FloatDType, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::config::InvalidConfig;
use crate::lidit::LiDit;
use crate::prompts::PromptBatch;

/// The table `[objective]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Objective {
    /// The paper's: DDPM, the network predicts the noise.
    Epsilon(Epsilon),
    /// Straight paths from data to noise; the network predicts their velocity.
    RectifiedFlow(RectifiedFlow),
}

/// DDPM with a linear schedule (the schedule is open; these are DDPM's own: 1000, 1e-4, 0.02).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epsilon {
    /// Number of noise levels.
    pub num_timesteps: usize,
    /// Variance added by the first step.
    pub beta_start: f64,
    /// Variance added by the last step.
    pub beta_end: f64,
}

/// `x_t = (1 - t) x_0 + t noise`, velocity `noise - x_0`; the network gets `1000 t`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RectifiedFlow {
    /// How often each t is trained.
    pub density: TimestepDensity,
}

/// How often each time t in (0, 1) is trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TimestepDensity {
    /// All alike.
    Uniform,
    /// `t = sigmoid(mean + std * z)`, z standard normal (Stable Diffusion 3's, with 0 and 1).
    LogitNormal {
        /// Larger: noisier.
        mean: f64,
        /// Larger: more of both ends.
        std: f64,
    },
}

/// A batch of clean images and all the randomness that its loss needs.
#[derive(Debug, Clone)]
pub struct LossBatch {
    /// `[B, C, H, W]`, clean.
    pub images: Tensor<4>,
    /// `[B, C, H, W]`, standard normal.
    pub noise: Tensor<4>,
    /// Two uniforms in [0, 1) a sample, for its timestep.
    pub draws: Vec<[f32; 2]>,
    /// One a sample; 0 for a sample that must not count.
    pub weights: Vec<f32>,
}

/// The noisy input of one training step and what the network should say to it.
#[derive(Debug, Clone)]
pub struct Noised {
    /// `[B, C, H, W]`.
    pub input: Tensor<4>,
    /// `[B]`, 0..1000.
    pub timesteps: Tensor<1>,
    /// `[B, C, H, W]`.
    pub target: Tensor<4>,
}

impl Objective {
    /// The sum over samples of weight times mean squared error: one element, f32.
    ///
    /// A sum, not a mean: the caller divides once by the number of usable samples of the whole global batch.
    pub fn loss(&self, model: &LiDit, batch: &LossBatch, prompts: &[PromptBatch]) -> Tensor<1> {
        self.loss_with(batch, |x, timesteps| model.forward(x, timesteps, prompts))
    }

    /// As [`loss`](Self::loss), for any network.
    pub fn loss_with(&self, batch: &LossBatch, predict: impl FnOnce(Tensor<4>, Tensor<1>) -> Tensor<4>) -> Tensor<1> {
        let noised = self.noise(batch);
        let prediction = predict(noised.input.clone(), noised.timesteps.clone());
        Self::loss_of(&noised, prediction, &batch.weights)
    }

    /// As [`loss`](Self::loss), of a prediction `[B, C, H, W]` for `noised`; one weight a sample.
    pub fn loss_of(noised: &Noised, prediction: Tensor<4>, weights: &[f32]) -> Tensor<1> {
        let [b, ..] = prediction.dims();
        let weights = Tensor::<1>::from_floats(weights, &prediction.device()).reshape([b, 1]);
        let error = prediction.cast(FloatDType::F32) - noised.target.clone();
        let squares = (error.clone() * error).reshape([b as isize, -1]); // [B, C * H * W]
        (squares.mean_dim(1) * weights).sum()
    }

    /// Mixes images and noise at the drawn timesteps.
    pub fn noise(&self, batch: &LossBatch) -> Noised {
        let device = batch.images.device();
        let b = batch.draws.len();
        let column = |values: Vec<f32>| Tensor::<4>::from_data(TensorData::new(values, [b, 1, 1, 1]), &device);
        let mixes: Vec<Mix> = batch.draws.iter().map(|&draw| self.mix(draw)).collect();
        let signal = column(mixes.iter().map(|mix| mix.signal as f32).collect());
        let noise = column(mixes.iter().map(|mix| mix.noise as f32).collect());
        let timesteps: Vec<f32> = mixes.iter().map(|mix| mix.timestep as f32).collect();
        let target = match self {
            Self::Epsilon(_) => batch.noise.clone(),
            Self::RectifiedFlow(_) => batch.noise.clone() - batch.images.clone(),
        };
        Noised {
            input: batch.images.clone() * signal + batch.noise.clone() * noise,
            timesteps: Tensor::from_floats(timesteps.as_slice(), &device),
            target,
        }
    }

    fn mix(&self, draw: [f32; 2]) -> Mix {
        match self {
            Self::Epsilon(epsilon) => {
                let t = ((f64::from(draw[0]) * epsilon.num_timesteps as f64) as usize).min(epsilon.num_timesteps - 1);
                let alpha_bar = epsilon.alpha_bar(t);
                Mix {
                    signal: alpha_bar.sqrt(),
                    noise: (1.0 - alpha_bar).sqrt(),
                    timestep: epsilon.model_time(t),
                }
            }
            Self::RectifiedFlow(flow) => {
                let t = flow.density.time(draw);
                Mix {
                    signal: 1.0 - t,
                    noise: t,
                    timestep: 1000.0 * t,
                }
            }
        }
    }

    /// Refuses numbers that make no schedule; the error names the key.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        match self {
            Self::Epsilon(epsilon) => epsilon.validate(),
            Self::RectifiedFlow(flow) => flow.density.validate(),
        }
    }
}

/// `input = signal * image + noise * noise`.
struct Mix {
    signal: f64,
    noise: f64,
    timestep: f64,
}

impl Epsilon {
    /// The share of the image's variance left after steps 0..=t: the product of `1 - beta_i`.
    pub fn alpha_bar(&self, t: usize) -> f64 {
        (0..=t).map(|i| 1.0 - self.beta(i)).product()
    }

    fn beta(&self, i: usize) -> f64 {
        self.beta_start + (self.beta_end - self.beta_start) * i as f64 / (self.num_timesteps - 1) as f64
    }

    /// What the network is told: t on the scale 0..1000.
    pub(crate) fn model_time(&self, t: usize) -> f64 {
        t as f64 * 1000.0 / self.num_timesteps as f64
    }

    fn validate(&self) -> Result<(), InvalidConfig> {
        if self.num_timesteps < 2 {
            let reason = format!("{} is too few, use at least 2", self.num_timesteps);
            return Err(InvalidConfig::new("objective.num_timesteps", reason));
        }
        if !(0.0 < self.beta_start && self.beta_start <= self.beta_end && self.beta_end < 1.0) {
            let reason = format!(
                "need 0 < beta_start <= beta_end < 1, got {} and {}",
                self.beta_start, self.beta_end
            );
            return Err(InvalidConfig::new("objective.beta_start", reason));
        }
        Ok(())
    }
}

impl TimestepDensity {
    /// The time of two uniforms in [0, 1).
    fn time(self, draw: [f32; 2]) -> f64 {
        let [a, b] = draw.map(f64::from);
        match self {
            Self::Uniform => a,
            Self::LogitNormal { mean, std } => {
                let z = (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos();
                1.0 / (1.0 + (-(mean + std * z)).exp())
            }
        }
    }

    fn validate(self) -> Result<(), InvalidConfig> {
        match self {
            Self::LogitNormal { mean, std } if !(mean.is_finite() && std.is_finite() && std > 0.0) => {
                let reason = format!("logit_normal needs a finite mean and std > 0, got {mean} and {std}");
                Err(InvalidConfig::new("objective.density", reason))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;

    pub(crate) fn epsilon() -> Objective {
        Objective::Epsilon(Epsilon {
            num_timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
        })
    }

    fn flow(density: TimestepDensity) -> Objective {
        Objective::RectifiedFlow(RectifiedFlow { density })
    }

    #[test]
    fn objectives_match_pytorch() {
        let golden = Golden::open("objective");
        let batch = LossBatch {
            images: golden.tensor("in.images"),
            noise: golden.tensor("in.noise"),
            draws: golden
                .values("in.draws")
                .chunks(2)
                .map(|pair| [pair[0], pair[1]])
                .collect(),
            weights: golden.values("in.weights"),
        };
        let logit_normal = TimestepDensity::LogitNormal { mean: -0.2, std: 1.5 };
        for (name, objective) in [
            ("epsilon", epsilon()),
            ("uniform", flow(TimestepDensity::Uniform)),
            ("logit_normal", flow(logit_normal)),
        ] {
            let noised = objective.noise(&batch);
            golden.check(&format!("out.{name}.t"), noised.timesteps, 1e-5);
            golden.check(&format!("out.{name}.x"), noised.input, 1e-5);
            let loss = objective.loss_with(&batch, |x, t| {
                x.mul_scalar(0.5) + t.reshape([4, 1, 1, 1]).mul_scalar(0.002).sub_scalar(0.3)
            });
            golden.check(&format!("out.{name}.loss"), loss, 1e-5);
        }
    }

    #[test]
    fn extreme_draws_stay_finite_and_in_range() {
        let below_one = 1.0 - f32::EPSILON / 2.0;
        let logit_normal = TimestepDensity::LogitNormal { mean: 0.0, std: 1.0 };
        for objective in [epsilon(), flow(TimestepDensity::Uniform), flow(logit_normal)] {
            for draw in [[0.0, 0.0], [below_one, below_one], [below_one, 0.0], [0.0, 0.5]] {
                let mix = objective.mix(draw);
                assert!((0.0..=1000.0).contains(&mix.timestep), "{draw:?}: {}", mix.timestep);
                assert!(mix.signal.is_finite() && mix.noise.is_finite());
            }
        }
    }

    #[test]
    fn objectives_read_from_a_config_and_refuse_misspelt_keys() {
        let read = |text: &str| serde_json::from_str::<Objective>(text).map_err(|error| error.to_string());
        assert_eq!(
            read(r#"{"kind": "rectified_flow", "density": "uniform"}"#),
            Ok(flow(TimestepDensity::Uniform))
        );
        let text = r#"{"kind": "rectified_flow", "density": {"logit_normal": {"mean": 0.0, "std": 1.0}}}"#;
        assert_eq!(
            read(text),
            Ok(flow(TimestepDensity::LogitNormal { mean: 0.0, std: 1.0 }))
        );
        let text = r#"{"kind": "epsilon", "num_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}"#;
        assert_eq!(read(text), Ok(epsilon()));
        assert!(read(r#"{"kind": "rectified_flow", "density": "uniform", "densty": 1}"#).is_err());
        assert!(read(r#"{"kind": "rectified_flow", "density": {"logit_normal": {"mean": 0, "sd": 1}}}"#).is_err());
        assert!(read(r#"{"kind": "flow", "density": "uniform"}"#).is_err());
    }

    #[test]
    fn numbers_that_make_no_schedule_are_refused_with_the_key() {
        let key = |objective: Objective| objective.validate().err().map(|error| error.key);
        let schedule = |num_timesteps, beta_start, beta_end| {
            Objective::Epsilon(Epsilon {
                num_timesteps,
                beta_start,
                beta_end,
            })
        };
        assert_eq!(key(epsilon()), None);
        assert_eq!(key(schedule(1, 1e-4, 0.02)), Some("objective.num_timesteps"));
        assert_eq!(key(schedule(1000, 0.02, 1e-4)), Some("objective.beta_start"));
        let flat = TimestepDensity::LogitNormal { mean: 0.0, std: 0.0 };
        assert_eq!(key(flow(flat)), Some("objective.density"));
    }
}
