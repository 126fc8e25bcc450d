//! What the network learns to predict, and the loss.

use burn::tensor::{FloatDType, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::config::InvalidConfig;
use crate::diffusion::Diffusion;
use crate::lidit::LiDit;
use crate::loss_weighting::LossWeighting;
use crate::noise_level::{MAX_TIME, NoiseLevel};
use crate::prompts::PromptBatch;
use crate::timestep_density::TimestepDensity;
use crate::timestep_shift::TimestepShift;

/// The table `[objective]`. With `noisy = signal * picture + noise * z`, z standard normal:
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Objective {
    /// The network predicts `z` (the paper's; DDPM, Ho et al., arXiv 2006.11239).
    Epsilon(Diffusion),
    /// The network predicts `v = signal * z - noise * picture` (Salimans and Ho, arXiv 2202.00512).
    Velocity(Diffusion),
    /// `signal = 1 - t`, `noise = t`; the network predicts `z - picture` and is told `1000 t` (Liu et al.,
    /// arXiv 2209.03003; Lipman et al., arXiv 2210.02747).
    RectifiedFlow(RectifiedFlow),
}

/// Straight paths from data to noise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RectifiedFlow {
    /// How often each t is trained.
    pub density: TimestepDensity,
    /// More noise for larger pictures.
    pub shift: TimestepShift,
    /// How much each t counts in the loss; only `uniform`.
    pub weighting: LossWeighting,
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
    /// Tokens that the network makes of each of these images; a shift may depend on it.
    pub image_tokens: usize,
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
    /// One a sample.
    pub levels: Vec<NoiseLevel>,
}

/// What a batch says of the network.
#[derive(Debug, Clone)]
pub struct Losses {
    /// What is minimised: the sum over samples of their weight, the objective's weighting and their mean squared error;
    /// `[1]`, f32. A sum, not a mean: the caller divides once by the number of usable samples of the whole global batch.
    pub sum: Tensor<1>,
    /// Mean squared error of each sample, without any weight, so that it means the same whatever the weighting; `[B]`,
    /// f32, without autodiff. Samples that must not count have one too.
    pub each: Tensor<1>,
    /// The time of each sample, 0 (clean) to 1 (noise): a thousandth of what the network was told.
    pub times: Vec<f32>,
}

impl Objective {
    /// The loss of `model`.
    pub fn loss(&self, model: &LiDit, batch: &LossBatch, prompts: &[PromptBatch]) -> Losses {
        self.loss_with(batch, |x, timesteps| model.forward(x, timesteps, prompts))
    }

    /// As [`loss`](Self::loss), for any network: `predict(input [B, C, H, W], timesteps [B])`.
    pub fn loss_with(&self, batch: &LossBatch, predict: impl FnOnce(Tensor<4>, Tensor<1>) -> Tensor<4>) -> Losses {
        let noised = self.noise(batch);
        let prediction = predict(noised.input.clone(), noised.timesteps.clone());
        self.loss_of(&noised, prediction, &batch.weights)
    }

    /// Mixes images and noise at the drawn timesteps.
    pub fn noise(&self, batch: &LossBatch) -> Noised {
        let levels = self.levels(&batch.draws, batch.image_tokens);
        self.mix(&batch.images, &batch.noise, levels)
    }

    /// Mixes `images` and `noise`, `[B, C, H, W]` both, at given times: one a sample, 0 (clean) to below 1 (noise), a
    /// thousandth of what the network is told. Density and shift have no say; a chain takes the level that the time falls
    /// into.
    pub fn noise_at(&self, images: &Tensor<4>, noise: &Tensor<4>, times: &[f64]) -> Noised {
        let levels = match self {
            Self::Epsilon(diffusion) | Self::Velocity(diffusion) => {
                let levels = diffusion.unshifted_levels();
                times.iter().map(|&time| levels[diffusion.index(time)]).collect()
            }
            Self::RectifiedFlow(_) => times.iter().map(|&time| NoiseLevel::straight(time)).collect(),
        };
        self.mix(images, noise, levels)
    }

    fn mix(&self, images: &Tensor<4>, z: &Tensor<4>, levels: Vec<NoiseLevel>) -> Noised {
        let device = images.device();
        let column = |of: fn(&NoiseLevel) -> f64| {
            let values: Vec<f32> = levels.iter().map(|level| of(level) as f32).collect();
            Tensor::<4>::from_data(TensorData::new(values, [levels.len(), 1, 1, 1]), &device)
        };
        let (signal, noise) = (column(|level| level.signal), column(|level| level.noise));
        let timesteps: Vec<f32> = levels.iter().map(|level| level.time as f32).collect();
        let target = match self {
            Self::Epsilon(_) => z.clone(),
            Self::Velocity(_) => z.clone() * signal.clone() - images.clone() * noise.clone(),
            Self::RectifiedFlow(_) => z.clone() - images.clone(),
        };
        Noised {
            input: images.clone() * signal + z.clone() * noise,
            timesteps: Tensor::from_floats(timesteps.as_slice(), &device),
            target,
            levels,
        }
    }

    /// The loss of a prediction `[B, C, H, W]` for `noised`, with the batch's `weights`.
    pub fn loss_of(&self, noised: &Noised, prediction: Tensor<4>, weights: &[f32]) -> Losses {
        let b = noised.levels.len();
        let weights: Vec<f32> = weights
            .iter()
            .zip(&noised.levels)
            .map(|(weight, level)| weight * self.weight(level) as f32)
            .collect();
        let weights = Tensor::<1>::from_floats(weights.as_slice(), &prediction.device()).reshape([b, 1]);
        let error = prediction.cast(FloatDType::F32) - noised.target.clone();
        let squares = (error.clone() * error).reshape([b as isize, -1]); // [B, C * H * W]
        let each = squares.mean_dim(1); // [B, 1]
        Losses {
            sum: (each.clone() * weights).sum(),
            each: each.inner().reshape([b]), // [B]
            times: noised
                .levels
                .iter()
                .map(|level| (level.time / MAX_TIME) as f32)
                .collect(),
        }
    }

    /// The levels of some draws.
    fn levels(&self, draws: &[[f32; 2]], image_tokens: usize) -> Vec<NoiseLevel> {
        match self {
            Self::Epsilon(diffusion) | Self::Velocity(diffusion) => {
                let levels = diffusion.levels(image_tokens);
                let of = |&draw: &[f32; 2]| levels[diffusion.index(diffusion.density.time(draw))];
                draws.iter().map(of).collect()
            }
            Self::RectifiedFlow(flow) => {
                let time = |&draw: &[f32; 2]| flow.density.time(draw);
                draws.iter().map(|draw| flow.level(time(draw), image_tokens)).collect()
            }
        }
    }

    /// How much a sample at `level` counts.
    fn weight(&self, level: &NoiseLevel) -> f64 {
        match self {
            Self::Epsilon(diffusion) => diffusion.weighting.of_epsilon(level.snr()),
            Self::Velocity(diffusion) => diffusion.weighting.of_velocity(level.snr()),
            Self::RectifiedFlow(_) => 1.0,
        }
    }

    /// Refuses numbers that make no schedule and switches that cannot work; the error names the key.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        match self {
            Self::Epsilon(diffusion) if diffusion.zero_terminal_snr => Err(InvalidConfig::new(
                "objective.zero_terminal_snr",
                "at the last level there is no signal, so predicting its noise teaches nothing and no picture follows \
                 from it; use objective.kind = `velocity`, or false",
            )),
            Self::Epsilon(diffusion) | Self::Velocity(diffusion) => diffusion.validate(),
            Self::RectifiedFlow(flow) => flow.validate(),
        }
    }
}

impl RectifiedFlow {
    /// The level of a time in 0..=1 before the shift.
    pub(crate) fn level(&self, t: f64, image_tokens: usize) -> NoiseLevel {
        NoiseLevel::straight(self.shift.of_straight(t, image_tokens))
    }

    fn validate(&self) -> Result<(), InvalidConfig> {
        if self.weighting != LossWeighting::Uniform {
            return Err(InvalidConfig::new(
                "objective.weighting",
                "min_snr is defined for `epsilon` and `velocity`; a straight path is weighted by objective.density, so \
                 use `uniform`",
            ));
        }
        self.density.validate()?;
        self.shift.validate()
    }
}

#[cfg(test)]
pub(crate) mod tests;
