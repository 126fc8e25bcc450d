//! Group norm over channels and positions, always in f32.

use burn::module::{Module, Param};
use burn::tensor::{Device, FloatDType, Tensor};

use super::conv::lazy_zeros;

/// Added to the variance, in all norms of `AutoencoderKL`.
const EPSILON: f32 = 1e-6;

/// Each group of channels of a picture to mean 0 and variance 1, then a gain and an offset for each channel, which stay
/// f32 (Wu and He 2018, arXiv:1803.08494).
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[channels]`: the gain.
    pub weight: Param<Tensor<1>>,
    /// `[channels]`: the offset.
    pub bias: Param<Tensor<1>>,
    num_groups: usize,
}

impl GroupNorm {
    /// A norm without weights.
    pub fn zeros(num_groups: usize, num_channels: usize, device: &Device) -> Self {
        Self {
            weight: lazy_zeros([num_channels], device),
            bias: lazy_zeros([num_channels], device),
            num_groups,
        }
    }

    /// `[B, C, H, W]` to the same, in f32.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, c, h, w] = x.dims();
        let grouped = x
            .cast(FloatDType::F32)
            .reshape([b, self.num_groups, c / self.num_groups * h * w]);
        let centred = grouped.clone() - grouped.mean_dim(2); // [B, G, C / G * H * W]
        let variance = (centred.clone() * centred.clone()).mean_dim(2); // [B, G, 1]
        let unit = centred * variance.add_scalar(EPSILON).sqrt().recip();
        let channels = [1, c, 1, 1];
        unit.reshape([b, c, h, w]) * self.weight.val().reshape(channels) + self.bias.val().reshape(channels)
    }
}
