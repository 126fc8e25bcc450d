//! Classifier-free guidance.

use burn::tensor::Tensor;

use crate::config::InvalidConfig;
use crate::noise_level::MAX_TIME;
use crate::sampler::Sampler;

impl Sampler {
    /// Whether the network is asked for the empty caption too, at `time` (0..1000).
    pub fn is_guided_at(&self, time: f64) -> bool {
        let [from, to] = self.guidance_interval;
        (self.guidance - 1.0).abs() >= f64::EPSILON && (from..=to).contains(&(time / MAX_TIME))
    }

    /// `empty + guidance (prompted - empty)` (Ho and Salimans, arXiv 2207.12598), then a share `guidance_rescale` of it
    /// with each image's standard deviation brought back to that of `prompted`. All `[B, C, H, W]`.
    pub fn guide(&self, prompted: Tensor<4>, empty: Tensor<4>) -> Tensor<4> {
        let guided = empty.clone() + (prompted.clone() - empty).mul_scalar(self.guidance);
        if self.guidance_rescale == 0.0 {
            return guided;
        }
        // A network that says the same everywhere has no contrast to restore.
        let ratio = deviation(prompted) / deviation(guided.clone()).clamp_min(f32::MIN_POSITIVE); // [B, 1, 1, 1]
        let rescaled = guided.clone() * ratio;
        rescaled.mul_scalar(self.guidance_rescale) + guided.mul_scalar(1.0 - self.guidance_rescale)
    }

    pub(crate) fn validate_guidance(&self) -> Result<(), InvalidConfig> {
        if !self.guidance.is_finite() || self.guidance < 0.0 {
            let reason = format!("{} is not a scale, use 0 or more", self.guidance);
            return Err(InvalidConfig::new("sampler.guidance", reason));
        }
        let [from, to] = self.guidance_interval;
        if !(0.0 <= from && from <= to && to <= 1.0) {
            let reason = format!("need 0 <= from <= to <= 1, got {from} and {to}; [0.0, 1.0] is everywhere");
            return Err(InvalidConfig::new("sampler.guidance_interval", reason));
        }
        if !(0.0..=1.0).contains(&self.guidance_rescale) {
            let reason = format!("{} must be between 0 and 1", self.guidance_rescale);
            return Err(InvalidConfig::new("sampler.guidance_rescale", reason));
        }
        Ok(())
    }
}

/// The standard deviation of each image, `[B, 1, 1, 1]`.
fn deviation(x: Tensor<4>) -> Tensor<4> {
    let [b, ..] = x.dims();
    x.reshape([b as isize, -1]).var(1).sqrt().reshape([b, 1, 1, 1])
}
