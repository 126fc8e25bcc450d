//! Pixels of mean 0 and variance 1.

use anyhow::{Result, ensure};
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::PIXEL_CHANNELS;

/// The table `[vae.normalized]`: of the training pictures' channels red, green and blue, each in [-1, 1].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// Their means.
    pub mean: [f32; PIXEL_CHANNELS],
    /// Their standard deviations.
    pub std: [f32; PIXEL_CHANNELS],
}

impl Normalization {
    /// Pixels less the mean, over the standard deviation.
    pub(super) fn apply(&self, pictures: Tensor<4>) -> Tensor<4> {
        let (mean, std) = (channels(self.mean, &pictures), channels(self.std, &pictures));
        (pictures - mean) / std
    }

    /// What [`apply`](Self::apply) was given.
    pub(super) fn undo(&self, normalized: Tensor<4>) -> Tensor<4> {
        let (mean, std) = (channels(self.mean, &normalized), channels(self.std, &normalized));
        normalized * std + mean
    }

    /// Two normalizations of the same numbers have the same one.
    pub(super) fn fingerprint(&self) -> String {
        format!("pixels less {:?} over {:?}", self.mean, self.std)
    }

    /// Refuses what can't be undone.
    pub(super) fn validate(&self) -> Result<()> {
        let all = self.mean.iter().chain(&self.std);
        ensure!(
            all.clone().all(|value| value.is_finite()) && self.std.iter().all(|std| *std > 0.0),
            "vae.normalized: mean and std are numbers, and std is above 0"
        );
        Ok(())
    }
}

/// `[1, C, 1, 1]` beside `like`.
fn channels(values: [f32; PIXEL_CHANNELS], like: &Tensor<4>) -> Tensor<4> {
    let values = TensorData::new(values.to_vec(), [1, PIXEL_CHANNELS, 1, 1]);
    Tensor::from_data(values, &like.device())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use burn::tensor::{Device, Tolerance};

    use super::super::{LatentSpace, PIXELS};
    use super::*;
    use crate::config::RunConfig;

    fn config(sets: &[String]) -> Result<RunConfig> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/run/debug.toml");
        RunConfig::load(Path::new(path), sets)
    }

    #[test]
    fn normalized_pixels_are_shifted_and_scaled_by_channel_and_come_back() {
        let device = Device::flex();
        let set = "vae.normalized={mean=[0.5, 0.0, -0.5], std=[0.5, 2.0, 0.25]}".to_owned();
        let config = config(&[set]).unwrap();
        let space = LatentSpace::open(&config.vae, &config.model, &device).unwrap();
        let pictures = Tensor::<4>::from_data([[[[1.0, 0.0]], [[1.0, -1.0]], [[0.0, -0.5]]]], &device);
        let seen = space.encode(pictures.clone());
        let expected = Tensor::<4>::from_data([[[[1.0, -1.0]], [[0.5, -0.5]], [[2.0, 0.0]]]], &device);
        seen.to_data()
            .assert_approx_eq::<f32>(&expected.to_data(), Tolerance::absolute(1e-6));
        space
            .decode(seen)
            .to_data()
            .assert_approx_eq::<f32>(&pictures.to_data(), Tolerance::absolute(1e-6));
        assert_ne!(space.fingerprint(), PIXELS);
    }

    #[test]
    fn a_normalization_that_can_not_be_undone_is_refused() {
        for std in [0.0, -1.0, f32::NAN] {
            let set = format!("vae.normalized={{mean=[0.0, 0.0, 0.0], std=[1.0, {std:?}, 1.0]}}").replace("NaN", "nan");
            let error = format!("{:#}", config(&[set]).unwrap_err());
            assert!(error.contains("vae.normalized"), "{error}");
        }
    }
}
