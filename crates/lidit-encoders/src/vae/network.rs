//! Encoder and decoder with the convolutions around the latents.

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};

use super::config::NetworkConfig;
use super::conv::Conv2d;
use super::decoder::Decoder;
use super::encoder::Encoder;

/// Bounds of the log-variance, as diffusers clamps it.
const LOGVAR: (f64, f64) = (-30.0, 20.0);

/// The network of `AutoencoderKL`, frozen or trained. Its parameters' paths are their names in diffusers' files.
#[derive(Module, Debug)]
pub struct Autoencoder {
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
}

impl Autoencoder {
    /// A network without weights.
    pub fn zeros(config: &NetworkConfig, device: &Device) -> Self {
        let pointwise = |channels| Conv2d::zeros(channels, channels, 1, device);
        Self {
            encoder: Encoder::zeros(config, device),
            decoder: Decoder::zeros(config, device),
            quant_conv: config.use_quant_conv.then(|| pointwise(2 * config.latent_channels)),
            post_quant_conv: config.use_post_quant_conv.then(|| pointwise(config.latent_channels)),
        }
    }

    /// `[B, 3, H, W]` in [-1, 1] to means and log-variances, `[B, 2 C, H / f, W / f]` in f32; see [`split_moments`].
    pub fn moments(&self, images: Tensor<4>) -> Tensor<4> {
        let mut moments = self.encoder.forward(images);
        if let Some(conv) = &self.quant_conv {
            moments = conv.forward(moments);
        }
        moments.cast(FloatDType::F32)
    }

    /// Latents, neither shifted nor scaled, `[B, C, h, w]`, to pictures, `[B, 3, h * f, w * f]` in f32, not clamped.
    pub fn decode(&self, mut latents: Tensor<4>) -> Tensor<4> {
        if let Some(conv) = &self.post_quant_conv {
            latents = conv.forward(latents);
        }
        self.decoder.forward(latents).cast(FloatDType::F32)
    }
}

/// The mean and the log-variance, which is clamped, of what [`Autoencoder::moments`] gives; each `[B, C, h, w]`.
pub fn split_moments(moments: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let channels = moments.dims()[1] / 2;
    let mean = moments.clone().narrow(1, 0, channels);
    let logvar = moments.narrow(1, channels, channels).clamp(LOGVAR.0, LOGVAR.1);
    (mean, logvar)
}
