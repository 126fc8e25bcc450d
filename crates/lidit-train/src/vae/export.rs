//! The trained autoencoder as a folder in diffusers' format.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use burn::tensor::Device;
use lidit_data::Dataset;
use lidit_encoders::vae::{Autoencoder, AutoencoderConfig, WEIGHTS_FILE, split_moments};

use super::config::VaeTraining;
use super::grid::pixels;
use crate::atomic::write_atomically;

/// Pictures that are read at once.
const CHUNK: usize = 64;

/// Writes `config.json` and the weights. The latents of `train.scale_pictures` training pictures, spread evenly, get
/// mean 0 and standard deviation 1 by `shift_factor` and `scaling_factor`.
pub fn write(
    out: &Path,
    config: &VaeTraining,
    network: &Autoencoder,
    dataset: &Dataset,
    device: &Device,
) -> Result<()> {
    let network = network.valid();
    let (mean, deviation) = statistics(&network, dataset, config.train.scale_pictures, device)?;
    ensure!(
        mean.is_finite() && deviation > 0.0 && deviation.is_finite(),
        "the latents have mean {mean} and standard deviation {deviation}: train longer, or with a smaller loss.kl"
    );
    let autoencoder = AutoencoderConfig {
        network: config.network.clone(),
        scaling_factor: 1.0 / deviation,
        shift_factor: mean,
    };
    let json = autoencoder.to_json(config.data.image_size as usize);
    write_atomically(&out.join(WEIGHTS_FILE), &network.to_safetensors()?)?;
    write_atomically(&out.join("config.json"), json.as_bytes())
}

/// Mean and standard deviation of all values of the latents' means.
fn statistics(network: &Autoencoder, dataset: &Dataset, count: u64, device: &Device) -> Result<(f64, f64)> {
    let ids = dataset.subset().spread(count);
    let (mut number, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for ids in ids.chunks(CHUNK) {
        for sample in dataset.samples(ids)?.iter().flatten() {
            let (mean, _) = split_moments(network.moments(pixels(sample, device)));
            let data = mean.try_into_data().context("reading latents")?;
            for value in data.iter::<f64>() {
                number += 1.0;
                sum += value;
                squares += value * value;
            }
        }
    }
    ensure!(number > 0.0, "no picture of the data set can be used");
    let mean = sum / number;
    Ok((mean, (squares / number - mean * mean).max(0.0).sqrt()))
}
