//! Prompts to pictures.

use anyhow::Result;
use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use lidit_data::{Bucket, SampleRng, Stream};
use lidit_model::{LiDit, Objective};

use crate::conditioner::Conditioner;
use crate::config::{RunConfig, SampleConfig};
use crate::latents::LatentSpace;

/// Pictures drawn at once.
const CHUNK: usize = 16;

/// What to draw and how.
pub struct Request<'a> {
    /// The trained network, on a device without autodiff.
    pub model: &'a LiDit,
    /// The frozen encoders it was trained with.
    pub conditioner: &'a Conditioner,
    /// What lies between network and pictures.
    pub latents: &'a LatentSpace,
    /// What the network predicts.
    pub objective: &'a Objective,
    /// Sampler, steps, guidance, seed.
    pub sample: &'a SampleConfig,
    /// Side of the pictures in pixels.
    pub image_size: usize,
    /// Where the network lies.
    pub device: &'a Device,
}

impl<'a> Request<'a> {
    /// A request with the settings of `config`.
    pub fn new(
        model: &'a LiDit,
        conditioner: &'a Conditioner,
        latents: &'a LatentSpace,
        config: &'a RunConfig,
        device: &'a Device,
    ) -> Self {
        Self {
            model,
            conditioner,
            latents,
            objective: &config.objective,
            sample: &config.sample,
            image_size: config.data.image_size as usize,
            device,
        }
    }

    /// One picture a prompt. Picture `i` depends on (seed, `first + i`, its prompt) alone, up to rounding.
    /// `on_picture` hears how many are done.
    pub fn draw(&self, prompts: &[String], first: usize, mut on_picture: impl FnMut(usize)) -> Result<Vec<RgbImage>> {
        let mut pictures = Vec::with_capacity(prompts.len());
        for chunk in prompts.chunks(CHUNK) {
            pictures.extend(self.draw_chunk(chunk, first + pictures.len())?);
            on_picture(pictures.len());
        }
        Ok(pictures)
    }

    fn draw_chunk(&self, prompts: &[String], first: usize) -> Result<Vec<RgbImage>> {
        let texts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        let conditioned = self.conditioner.condition(&texts)?;
        let unconditioned = self.conditioner.condition(&vec![""; texts.len()])?;
        let pixels = self.sample.sampler.sample(
            self.model,
            self.objective,
            self.noise(first, texts.len()),
            &conditioned.batches,
            &unconditioned.batches,
            |_| {},
        );
        Ok(to_pictures(&self.latents.decode(pixels)))
    }

    fn noise(&self, first: usize, count: usize) -> Tensor<4> {
        let [height, width] = self.latents.grid(Bucket::square(self.image_size as u32));
        let channels = self.latents.channels();
        let mut noise = vec![0.0f32; count * channels * height * width];
        for (i, out) in noise.chunks_exact_mut(channels * height * width).enumerate() {
            SampleRng::new(self.sample.seed, 0, (first + i) as u64, Stream::Generation).fill_normal(out);
        }
        Tensor::from_data(TensorData::new(noise, [count, channels, height, width]), self.device)
    }
}

/// `[B, 3, H, W]` in [-1, 1] to pictures, clamped.
pub fn to_pictures(pixels: &Tensor<4>) -> Vec<RgbImage> {
    let [batch, _, height, width] = pixels.dims();
    let values: Vec<f32> = pixels.to_data().iter::<f32>().collect();
    let plane = height * width;
    (0..batch)
        .map(|i| {
            RgbImage::from_fn(width as u32, height as u32, |x, y| {
                let at = i * 3 * plane + y as usize * width + x as usize;
                image::Rgb([0, 1, 2].map(|channel| to_byte(values[at + channel * plane])))
            })
        })
        .collect()
}

fn to_byte(value: f32) -> u8 {
    ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_keep_their_place_and_are_clamped() {
        // One 1x2 picture: left pixel (-1, 0, 1), right pixel (5, -5, 1).
        let values = vec![-1.0f32, 5.0, 0.0, -5.0, 1.0, 1.0];
        let pixels = Tensor::from_data(TensorData::new(values, [1, 3, 1, 2]), &Device::flex());
        let picture = to_pictures(&pixels).remove(0);
        assert_eq!(picture.get_pixel(0, 0).0, [0, 128, 255]);
        assert_eq!(picture.get_pixel(1, 0).0, [255, 0, 255]);
    }
}
