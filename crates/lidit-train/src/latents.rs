//! What the network sees of pictures: themselves, or a VAE's latents.

mod normalization;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor};
use lidit_data::Bucket;
use lidit_encoders::vae::{AutoencoderConfig, Tiling};
use lidit_encoders::{AutoencoderKl, Precision};
use lidit_model::ModelConfig;
use serde::{Deserialize, Serialize};

pub use self::normalization::Normalization;
use crate::cache;

/// Channels of a picture.
pub const PIXEL_CHANNELS: usize = 3;

/// The fingerprint of [`VaeConfig::Identity`].
pub const PIXELS: &str = "identity";

/// The fingerprint of [`LatentSpace::Given`].
const GIVEN: &str = "given";

/// Pixels that a VAE encodes or decodes at once: 16 pictures of 256 x 256. Bounds memory, whatever the micro-batch.
const PIXELS_AT_ONCE: usize = 1 << 20;

/// What lies between pictures and network; the key `vae`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum VaeConfig {
    /// Nothing: the network sees pixels.
    Identity,
    /// A shift and a scale: the network sees pixels of mean 0 and variance 1.
    Normalized(Normalization),
    /// A frozen `AutoencoderKL` in diffusers' format.
    Kl(KlConfig),
}

/// The table `[vae.kl]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KlConfig {
    /// Folder with `config.json` and the weights.
    pub model: PathBuf,
    /// What it computes in.
    pub precision: Precision,
    /// Side in pixels of the overlapping tiles that larger pictures are cut into.
    pub tile: usize,
}

impl VaeConfig {
    /// Refuses numbers that can't be.
    pub(crate) fn validate(&self) -> Result<()> {
        match self {
            Self::Identity | Self::Kl(_) => Ok(()),
            Self::Normalized(by) => by.validate(),
        }
    }

    /// Pixels along one side of a latent. Reads the VAE's config and no weight.
    pub fn factor(&self) -> Result<usize> {
        match self {
            Self::Identity | Self::Normalized(_) => Ok(1),
            Self::Kl(kl) => {
                let config = AutoencoderConfig::open(&kl.model);
                Ok(config
                    .with_context(|| format!("vae.kl.model {}", kl.model.display()))?
                    .network
                    .factor())
            }
        }
    }
}

/// Pictures to what the network sees, and back.
#[derive(Debug)]
pub enum LatentSpace {
    /// Pixels themselves.
    Pixels,
    /// Pixels of mean 0 and variance 1.
    Normalized {
        /// What they are shifted and scaled by.
        by: Normalization,
        /// Says so.
        fingerprint: String,
    },
    /// Latents.
    Kl(Box<KlSpace>),
    /// Latents of so many channels that are at hand; there is nothing to make them with.
    Given {
        /// Of them.
        channels: usize,
    },
}

/// A VAE that is ready to work.
#[derive(Debug)]
pub struct KlSpace {
    vae: AutoencoderKl,
    tiling: Tiling,
    fingerprint: String,
}

impl LatentSpace {
    /// Loads the VAE of `config`, where it has one, onto `device`, and checks that `model` can work behind it.
    ///
    /// # Errors
    /// The folder holds no VAE that is understood; the key of what does not fit.
    pub fn open(config: &VaeConfig, model: &ModelConfig, device: &Device) -> Result<Self> {
        let space = match config {
            VaeConfig::Identity => Self::Pixels,
            VaeConfig::Normalized(by) => Self::Normalized {
                by: *by,
                fingerprint: by.fingerprint(),
            },
            VaeConfig::Kl(kl) => Self::Kl(Box::new(
                KlSpace::open(kl, device).with_context(|| format!("vae.kl.model {}", kl.model.display()))?,
            )),
        };
        ensure!(
            model.in_channels == space.channels(),
            "model.in_channels is {}, but {} {} channels",
            model.in_channels,
            match config {
                VaeConfig::Identity => "pictures (vae = \"identity\") have".to_owned(),
                VaeConfig::Normalized(_) => "pictures (vae.normalized) have".to_owned(),
                VaeConfig::Kl(kl) => format!("latents of {} have", kl.model.display()),
            },
            space.channels()
        );
        Ok(space)
    }

    /// Pixels along one side of a latent.
    pub fn factor(&self) -> usize {
        match self {
            Self::Pixels | Self::Normalized { .. } | Self::Given { .. } => 1,
            Self::Kl(kl) => kl.vae.factor(),
        }
    }

    /// Channels that the network sees.
    pub fn channels(&self) -> usize {
        match self {
            Self::Pixels | Self::Normalized { .. } => PIXEL_CHANNELS,
            Self::Kl(kl) => kl.vae.latent_channels(),
            Self::Given { channels } => *channels,
        }
    }

    /// What identifies the latents: `identity` for pixels, what normalizes them, or the VAE's fingerprint.
    pub fn fingerprint(&self) -> &str {
        match self {
            Self::Pixels => PIXELS,
            Self::Normalized { fingerprint, .. } => fingerprint,
            Self::Kl(kl) => &kl.fingerprint,
            Self::Given { .. } => GIVEN,
        }
    }

    /// Height and width of what the network sees of a picture.
    pub fn grid(&self, size: Bucket) -> [usize; 2] {
        [size.height, size.width].map(|side| side as usize / self.factor())
    }

    /// Refuses pictures that don't divide into the network's tokens.
    pub fn check_size(&self, size: Bucket, patch_size: usize) -> Result<()> {
        let token = self.factor() * patch_size;
        let fits = |side: u32| (side as usize).is_multiple_of(token);
        ensure!(
            fits(size.width) && fits(size.height),
            "model.patch_size is {patch_size} (and the VAE's factor {}): tokens {token} pixels wide do not divide the data's \
             bucket of {} x {} pixels; take another data.image_size, or data.buckets = false",
            self.factor(),
            size.width,
            size.height
        );
        Ok(())
    }

    /// `[B, 3, H, W]` in [-1, 1] to `[B, C, H / f, W / f]`, without autodiff. Of a VAE the posterior's mean, shifted and
    /// scaled.
    pub fn encode(&self, pictures: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Pixels | Self::Given { .. } => pictures,
            Self::Normalized { by, .. } => by.apply(pictures),
            Self::Kl(kl) => {
                let [_, _, height, width] = pictures.dims();
                in_parts(pictures, height * width, |part| kl.vae.encode_tiled(part, kl.tiling))
            }
        }
    }

    /// `[B, C, h, w]` to `[B, 3, h * f, w * f]`, about [-1, 1] and not clamped, without autodiff.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Pixels | Self::Given { .. } => latents,
            Self::Normalized { by, .. } => by.undo(latents),
            Self::Kl(kl) => {
                let [_, _, height, width] = latents.dims();
                let factor = self.factor();
                in_parts(latents, height * width * factor * factor, |part| {
                    kl.vae.decode_tiled(part, kl.tiling)
                })
            }
        }
    }
}

impl KlSpace {
    fn open(config: &KlConfig, device: &Device) -> Result<Self> {
        let vae = AutoencoderKl::load(&config.model, config.precision, &device.clone().without_autodiff())?;
        let tiling = vae.tiling(config.tile).context("vae.kl.tile")?;
        let fingerprint = vae.fingerprint(Some(&digests()?))?;
        Ok(Self {
            vae,
            tiling,
            fingerprint,
        })
    }
}

/// Where digests of large weights are remembered.
fn digests() -> Result<PathBuf> {
    Ok(cache::dir()?.join("digests"))
}

/// `work` on as many pictures of `pixels` each as are worked on at once.
fn in_parts(all: Tensor<4>, pixels: usize, work: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    let at_once = (PIXELS_AT_ONCE / pixels.max(1)).max(1);
    let parts = all.split(at_once, 0).into_iter().map(work).collect();
    Tensor::cat(parts, 0)
}
