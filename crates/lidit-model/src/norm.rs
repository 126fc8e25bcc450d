//! Normalisations over the last axis, always in f32.

use burn::module::{Module, Param};
use burn::tensor::{Device, FloatDType, Tensor};

use crate::linear::lazy_zeros;

/// Added under every root of this crate's norms (open; `HunyuanVideo`'s value).
pub(crate) const EPSILON: f32 = 1e-6;

/// Largest feature of a token of unit RMS that [`clipped_rms_norm`] lets pass; one in 370 of a normal token's is larger.
const MAX_FEATURE: f32 = 3.0;

/// `x / rms(x) * gain` over the last axis, with a learned gain that stays f32.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[features]`, one at the start.
    pub gain: Param<Tensor<1>>,
}

impl RmsNorm {
    /// A norm over `num_features`; the gain is set to one by [`initialize`](crate::initialize()).
    pub fn zeros(num_features: usize, device: &Device) -> Self {
        Self {
            gain: lazy_zeros([num_features], device),
        }
    }

    /// Normalises the last axis of `[.., features]`; the result is f32.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        lidit_kernels::rms_norm(x.cast(FloatDType::F32), self.gain.val(), EPSILON)
    }
}

/// `x / sqrt(mean(x^2) + 1e-6)` over the last axis, in f32.
pub fn rms_norm<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let x = x.cast(FloatDType::F32);
    let mean_square = (x.clone() * x.clone()).mean_dim(D - 1); // [.., 1]
    x * mean_square.add_scalar(EPSILON).sqrt().recip()
}

/// [`rms_norm`] of `x`, each feature clipped to [`MAX_FEATURE`], and [`rms_norm`] again, in f32.
pub fn clipped_rms_norm<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    rms_norm(rms_norm(x).clamp(-MAX_FEATURE, MAX_FEATURE))
}

/// `(x - mean(x)) / sqrt(var(x) + 1e-6)` over the last axis, in f32, without gain and offset: modulation brings both.
pub fn layer_norm<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    lidit_kernels::layer_norm(x.cast(FloatDType::F32), EPSILON)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_have_unit_scale_whatever_the_input() {
        let x = Tensor::<2>::from_floats([[1e4, -3e4, 2e4, 5e4], [1e-2, 3e-2, -2e-2, 0.0]], &Device::flex());
        for y in [rms_norm(x.clone()), layer_norm(x)] {
            let mean_square: Vec<f32> = (y.clone() * y)
                .mean_dim(1)
                .into_data()
                .try_into_vec()
                .unwrap_or_default();
            assert!(mean_square.iter().all(|m| (m - 1.0).abs() < 1e-2), "{mean_square:?}");
        }
    }

    #[test]
    fn one_massive_feature_no_longer_drowns_the_others() {
        // RMS 100 / sqrt(16) = 25: the massive feature becomes 4 and is clipped to 3, the others stay near 0.04.
        let mut token = [1.0_f32; 16];
        token[3] = -100.0;
        let x = Tensor::<2>::from_floats([token], &Device::flex());
        let y: Vec<f32> = clipped_rms_norm(x).into_data().try_into_vec().unwrap();
        let rms = ((15.0 * 1.0 + 1e4) / 16.0_f32).sqrt();
        let small = 1.0 / rms;
        let clipped_rms = ((15.0 * small * small + 9.0) / 16.0).sqrt();
        for (i, y) in y.iter().enumerate() {
            let expected = if i == 3 {
                -3.0 / clipped_rms
            } else {
                small / clipped_rms
            };
            assert!(
                (y - expected).abs() <= 1e-5 * expected.abs(),
                "feature {i}: {y}, not {expected}"
            );
        }
    }
}
