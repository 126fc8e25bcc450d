//! A frozen variational autoencoder in diffusers' format: pictures to latents and back.
//!
//! `AutoencoderKL` (Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G), as diffusers stores it: a folder
//! with `config.json` and `diffusion_pytorch_model.safetensors`. [`Autoencoder`] is the network, which can also be
//! trained; [`AutoencoderKl`] adds the scale and shift that diffusion models see latents in.

mod attention;
mod config;
mod conv;
mod decoder;
mod encoder;
mod group_norm;
mod mid_block;
mod network;
mod res_block;
mod save;
mod tiling;
mod weights;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use sha2::{Digest, Sha256};

pub use config::{AutoencoderConfig, NetworkConfig};
pub use network::{Autoencoder, split_moments};
pub use save::WEIGHTS_FILE;
pub use tiling::Tiling;

use crate::config_json::ConfigJson;
use crate::tensor_files::TensorFiles;
use crate::weights_digest::{hex, weights_digest};
use crate::{EncoderError, Precision};

/// What diffusers calls the weights before their ending.
const STEM: &str = "diffusion_pytorch_model";

/// A frozen autoencoder with its weights.
#[derive(Debug)]
pub struct AutoencoderKl {
    config: AutoencoderConfig,
    network: Autoencoder,
    /// The files that hold the weights.
    files: Vec<PathBuf>,
    precision: Precision,
}

impl AutoencoderKl {
    /// Reads a folder in diffusers' layout, or the `vae` folder of a whole pipeline. Convolutions and products are
    /// computed in `precision`, norms and everything between in f32.
    ///
    /// # Errors
    /// Names the file and the first key or tensor that is missing, unknown or of another shape.
    pub fn load(folder: &Path, precision: Precision, device: &Device) -> Result<Self, EncoderError> {
        let folder = autoencoder_folder(folder);
        let config = AutoencoderConfig::read(&ConfigJson::open(&folder)?)?;
        let files = TensorFiles::open(&folder, STEM)?;
        let network = weights::load(Autoencoder::zeros(&config.network, device), &files, precision, device)?;
        Ok(Self {
            config,
            network,
            files: files.paths().collect(),
            precision,
        })
    }

    /// What the network is made of.
    pub fn config(&self) -> &AutoencoderConfig {
        &self.config
    }

    /// Pixels per latent along one side.
    pub fn factor(&self) -> usize {
        self.config.network.factor()
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        self.config.network.latent_channels
    }

    /// `[B, 3, H, W]` in [-1, 1] to `[B, C, H / f, W / f]`: the posterior's mean, shifted and scaled as diffusion models
    /// see it, `(mean - shift_factor) * scaling_factor`. `H` and `W` are multiples of [`factor`](Self::factor).
    pub fn encode(&self, images: Tensor<4>) -> Tensor<4> {
        self.scaled(self.moments(images).0)
    }

    /// The posterior's mean and log-variance, both `[B, C, H / f, W / f]`, neither shifted nor scaled.
    pub fn moments(&self, images: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        split_moments(self.network.moments(images))
    }

    /// Latents as [`encode`](Self::encode) gives them, `[B, C, h, w]`, to `[B, 3, h * f, w * f]`, not clamped.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        self.network.decode(self.unscaled(latents))
    }

    /// Tiles of `tile` by `tile` pixels that overlap by a quarter, as diffusers cuts them.
    ///
    /// # Errors
    /// When `tile` is not a multiple of four times [`factor`](Self::factor).
    pub fn tiling(&self, tile: usize) -> Result<Tiling, EncoderError> {
        Tiling::new(tile, self.factor())
    }

    /// [`encode`](Self::encode), a tile at a time; the same bits where the picture fits into one tile.
    pub fn encode_tiled(&self, images: Tensor<4>, tiling: Tiling) -> Tensor<4> {
        let moments = tiling.encode(images, |tile| self.network.moments(tile));
        self.scaled(split_moments(moments).0)
    }

    /// [`decode`](Self::decode), a tile at a time; the same bits where the picture fits into one tile.
    pub fn decode_tiled(&self, latents: Tensor<4>, tiling: Tiling) -> Tensor<4> {
        tiling.decode(self.unscaled(latents), |tile| self.network.decode(tile))
    }

    /// SHA-256 over everything that determines the latents: weights, config, precision. In `digests`, a folder, the
    /// digests of weight files are remembered by path, size and time.
    pub fn fingerprint(&self, digests: Option<&Path>) -> Result<String, EncoderError> {
        let parts = [
            "lidit autoencoder 1".to_owned(),
            weights_digest(&self.files, digests)?,
            self.config.canonical(),
            format!("{:?}", self.precision),
        ];
        let mut hash = Sha256::new();
        for part in parts {
            // Preceded by its length, so that no two lists of parts read the same.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        Ok(hex(&hash.finalize()))
    }

    fn scaled(&self, mean: Tensor<4>) -> Tensor<4> {
        (mean - self.config.shift_factor) * self.config.scaling_factor
    }

    fn unscaled(&self, latents: Tensor<4>) -> Tensor<4> {
        latents / self.config.scaling_factor + self.config.shift_factor
    }
}

/// A pipeline's folder has its autoencoder in `vae`.
fn autoencoder_folder(folder: &Path) -> PathBuf {
    let inner = folder.join("vae");
    if !folder.join("config.json").exists() && inner.join("config.json").exists() {
        inner
    } else {
        folder.to_owned()
    }
}
