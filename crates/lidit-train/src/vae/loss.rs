//! What an autoencoder is trained for.

use std::ops::AddAssign;

use anyhow::{Context, Result};
use burn::tensor::{Device, Tensor, TensorData};
use lidit_data::{MicroBatch, SampleRng, Stream};
use lidit_encoders::EfficientNetLite0;
use lidit_encoders::vae::{Autoencoder, split_moments};

use super::config::{LossConfig, Reconstruction, VaeTraining};

/// Sums over the usable samples of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// The weighted sum of the terms.
    pub loss: f64,
    /// L1 or L2, mean over a picture's values.
    pub reconstruction: f64,
    /// Mean over a picture's latents.
    pub kl: f64,
    /// As [`EfficientNetLite0::distance`].
    pub perceptual: f64,
    /// Squared differences of values in [-1, 1], clamped, mean over a picture's values.
    pub squared_error: f64,
    /// Samples.
    pub usable: f64,
}

impl AddAssign for Terms {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.reconstruction += other.reconstruction;
        self.kl += other.kl;
        self.perceptual += other.perceptual;
        self.squared_error += other.squared_error;
        self.usable += other.usable;
    }
}

/// Standard normal numbers for the batch's latents, `[B, C, H / f, W / f]`: each sample's own in each epoch.
pub fn noise(batch: &MicroBatch, config: &VaeTraining, device: &Device) -> Tensor<4> {
    let network = &config.network;
    let (width, height) = (batch.size.width as usize, batch.size.height as usize);
    let shape = [
        network.latent_channels,
        height / network.factor(),
        width / network.factor(),
    ];
    let mut values = vec![0.0; batch.ids.len() * shape.iter().product::<usize>()];
    for (i, out) in values.chunks_exact_mut(shape.iter().product()).enumerate() {
        SampleRng::new(config.train.seed, batch.epochs[i], batch.ids[i], Stream::Noise).fill_normal(out);
    }
    Tensor::from_data(
        TensorData::new(values, [batch.ids.len(), shape[0], shape[1], shape[2]]),
        device,
    )
}

/// The sum of the batch's losses, to go backward from, and what it is made of.
///
/// With `mean, logvar` the posterior of a picture `x` and `y` the picture decoded from `mean + exp(logvar / 2) noise`:
/// `reconstruction(x, y) + kl * KL + perceptual * distance(x, y)`, where
/// `KL = mean of (mean^2 + exp(logvar) - 1 - logvar) / 2` over latents (Kingma and Welling 2013, arXiv:1312.6114, appendix B).
pub fn terms(
    network: &Autoencoder,
    perceptual: Option<&EfficientNetLite0>,
    batch: &MicroBatch,
    noise: Tensor<4>,
    weights: &LossConfig,
) -> Result<(Tensor<1>, Terms)> {
    let device = noise.device();
    let (width, height) = (batch.size.width as usize, batch.size.height as usize);
    let count = batch.ids.len();
    let images = Tensor::<4>::from_data(
        TensorData::new(batch.pixels.clone(), [count, 3, height, width]),
        &device,
    );
    let usable = Tensor::<1>::from_data(TensorData::new(batch.weights.clone(), [count]), &device);

    let (mean, logvar) = split_moments(network.moments(images.clone()));
    let latents = mean.clone() + (logvar.clone() * 0.5).exp() * noise; // [B, C, h, w]
    let decoded = network.decode(latents); // [B, 3, H, W]

    let difference = decoded.clone() - images.clone();
    let reconstruction = per_sample(match weights.reconstruction {
        Reconstruction::L1 => difference.abs(),
        Reconstruction::L2 => difference.clone() * difference,
    }); // [B]
    let kl = per_sample((mean.clone() * mean + logvar.clone().exp() - 1.0 - logvar) * 0.5); // [B]
    let clamped = decoded.clone().detach().clamp(-1.0, 1.0) - images.clone();
    let squared_error = per_sample(clamped.clone() * clamped); // [B]
    let mut loss = reconstruction.clone() + kl.clone() * weights.kl; // [B]
    let mut perceived = Tensor::zeros([count], &device);
    if let Some(network) = perceptual {
        perceived = network.distance(decoded, images); // [B]
        loss = loss + perceived.clone() * weights.perceptual;
    }
    let loss = (loss * usable.clone()).sum();
    let sums = [reconstruction, kl, perceived, squared_error].map(|term| (term.detach() * usable.clone()).sum());
    let sums = Tensor::cat([vec![loss.clone().detach()], sums.to_vec()].concat(), 0);
    let sums = sums
        .try_into_data()
        .context("reading the loss")?
        .iter::<f64>()
        .collect::<Vec<_>>();
    let [total, reconstruction, kl, perceptual, squared_error] = sums[..] else {
        anyhow::bail!("the loss has {} terms", sums.len());
    };
    let terms = Terms {
        loss: total,
        reconstruction,
        kl,
        perceptual,
        squared_error,
        usable: batch.weights.iter().map(|&weight| f64::from(weight)).sum(),
    };
    Ok((loss, terms))
}

/// The mean over everything but the batch: `[B, C, H, W]` to `[B]`.
fn per_sample(x: Tensor<4>) -> Tensor<1> {
    let [batch, c, h, w] = x.dims();
    x.reshape([batch, c * h * w]).mean_dim(1).reshape([batch])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use burn::module::Module;
    use lidit_data::Bucket;

    use super::*;
    use crate::vae::state::VaeState;

    fn config() -> VaeTraining {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/vae/debug.toml");
        crate::config_file::ConfigFile::read(path.as_ref())
            .unwrap()
            .typed(&[])
            .unwrap()
    }

    fn batch(ids: &[u64], weights: &[f32]) -> MicroBatch {
        let picture = |id: u64| (0..3 * 64).map(move |i| ((i * 7 + id as usize * 31) as f32 * 0.1).sin());
        MicroBatch {
            epochs: vec![0; ids.len()],
            ids: ids.to_vec(),
            positions: ids.to_vec(),
            pixels: ids.iter().flat_map(|&id| picture(id)).collect(),
            captions: vec![String::new(); ids.len()],
            weights: weights.to_vec(),
            size: Bucket { width: 8, height: 8 },
        }
    }

    fn terms_of(ids: &[u64], weights: &[f32], config: &VaeTraining) -> Terms {
        let device = Device::flex().autodiff();
        let folder = tempfile::tempdir().unwrap();
        let state = VaeState::open(folder.path(), config, "", &device).unwrap();
        let batch = batch(ids, weights);
        let noise = noise(&batch, config, &device);
        terms(&state.network, None, &batch, noise, &config.loss).unwrap().1
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-5 * b.abs().max(1e-3)
    }

    #[test]
    fn a_batch_is_the_sum_of_its_usable_samples() {
        let config = config();
        let mut sum = terms_of(&[3], &[1.0], &config);
        sum += terms_of(&[5], &[1.0], &config);
        let together = terms_of(&[3, 4, 5], &[1.0, 0.0, 1.0], &config);
        assert!(
            near(together.loss, sum.loss) && near(together.kl, sum.kl),
            "{together:?}, {sum:?}"
        );
        assert!(near(together.squared_error, sum.squared_error) && near(together.usable, 2.0));
    }

    #[test]
    fn the_loss_is_the_weighted_sum_of_its_terms() {
        let mut config = config();
        config.loss.kl = 0.5;
        for reconstruction in [Reconstruction::L1, Reconstruction::L2] {
            config.loss.reconstruction = reconstruction;
            let terms = terms_of(&[3], &[1.0], &config);
            assert!(near(terms.loss, terms.reconstruction + 0.5 * terms.kl), "{terms:?}");
            assert!(terms.kl > 0.0);
        }
    }

    /// Against the definitions, value by value, on the host.
    #[test]
    fn terms_follow_their_formulas() {
        let config = config();
        let device = Device::flex().autodiff();
        let folder = tempfile::tempdir().unwrap();
        let network = VaeState::open(folder.path(), &config, "", &device)
            .unwrap()
            .network
            .valid();
        let batch = batch(&[3], &[1.0]);
        let device = Device::flex();
        let host = |tensor: Tensor<4>| tensor.into_data().try_into_vec::<f32>().unwrap();
        let images = Tensor::<4>::from_data(TensorData::new(batch.pixels.clone(), [1, 3, 8, 8]), &device);
        let (mean, logvar) = split_moments(network.moments(images));
        let drawn = noise(&batch, &config, &device);
        let decoded = host(network.decode(mean.clone() + (logvar.clone() / 2.0).exp() * drawn));
        let average = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        let pairs = decoded.iter().zip(&batch.pixels);
        let l1 = average(pairs.map(|(y, x)| f64::from((y - x).abs())).collect());
        let moments = host(mean).into_iter().zip(host(logvar));
        let divergence = |(m, l): (f32, f32)| f64::from((m * m + l.exp() - 1.0 - l) / 2.0);
        let kl = average(moments.map(divergence).collect());
        let terms = terms_of(&[3], &[1.0], &config);
        assert!(
            near(terms.reconstruction, l1) && near(terms.kl, kl),
            "{terms:?}, {l1}, {kl}"
        );
    }
}
