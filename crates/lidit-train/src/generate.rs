//! Prompts to pictures.

use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use lidit_data::{Bucket, SampleRng, Stream};
use lidit_model::{LiDit, ModelConfig, Objective, Sampler, Start};

use crate::conditioner::Conditioner;
use crate::config::RunConfig;
use crate::latents::LatentSpace;

/// Pictures that a training run draws at once.
pub const BATCH: usize = 16;

/// One picture to draw. It depends on these and on the request alone, up to rounding: not on what is drawn beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawing {
    /// What it shows.
    pub prompt: String,
    /// Seeds its noise: the start, and what some samplers add on the way.
    pub seed: u64,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}

impl Drawing {
    fn size(&self) -> Bucket {
        Bucket {
            width: self.width,
            height: self.height,
        }
    }
}

/// Who draws and how.
pub struct Request<'a> {
    /// The trained network, on a device without autodiff.
    pub model: &'a LiDit,
    /// The frozen encoders it was trained with.
    pub conditioner: &'a Conditioner,
    /// What lies between network and pictures.
    pub latents: &'a LatentSpace,
    /// What the network predicts.
    pub objective: &'a Objective,
    /// Rule, steps, guidance.
    pub sampler: &'a Sampler,
    /// The network's shape.
    pub shape: &'a ModelConfig,
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
            sampler: &config.sample.sampler,
            shape: &config.model,
            device,
        }
    }

    /// One picture a drawing, in the order of the drawings.
    ///
    /// # Errors
    /// A prompt can't be encoded.
    pub fn draw(&self, drawings: &[Drawing]) -> Result<Vec<RgbImage>> {
        let mut pictures = vec![RgbImage::default(); drawings.len()];
        for batch in batches(drawings, BATCH) {
            let together: Vec<&Drawing> = batch.iter().map(|&i| &drawings[i]).collect();
            for (i, picture) in batch.into_iter().zip(self.draw_batch(&together, |_| {})?) {
                pictures[i] = picture;
            }
        }
        Ok(pictures)
    }

    /// Draws pictures of one size at once. `on_step` hears the number of steps done.
    ///
    /// # Errors
    /// A prompt can't be encoded.
    pub fn draw_batch(&self, drawings: &[&Drawing], on_step: impl FnMut(usize)) -> Result<Vec<RgbImage>> {
        let prompts: Vec<&str> = drawings.iter().map(|drawing| drawing.prompt.as_str()).collect();
        let conditioned = self.conditioner.condition(&prompts)?;
        let unconditioned = self.conditioner.condition(&vec![""; prompts.len()])?;
        let noise = self.noise(drawings, 0);
        let [_, _, rows, columns] = noise.dims();
        let start = Start {
            noise,
            image_tokens: rows * columns / (self.shape.patch_size * self.shape.patch_size),
            fresh: &|step| self.noise(drawings, step as u64 + 1),
        };
        let drawn = self.sampler.sample(
            self.model,
            self.objective,
            &start,
            &conditioned.batches,
            &unconditioned.batches,
            on_step,
        );
        Ok(to_pictures(&self.latents.decode(drawn)))
    }

    /// Noise for pictures of one size, `[B, C, H, W]`: draw 0 is what they start from, draw i + 1 what step i adds.
    fn noise(&self, drawings: &[&Drawing], draw: u64) -> Tensor<4> {
        let size = drawings.first().map_or(Bucket::square(0), |drawing| drawing.size());
        let ([rows, columns], channels) = (self.latents.grid(size), self.latents.channels());
        let mut noise = vec![0.0f32; drawings.len() * channels * rows * columns];
        for (drawing, out) in drawings.iter().zip(noise.chunks_exact_mut(channels * rows * columns)) {
            SampleRng::new(drawing.seed, draw, 0, Stream::Generation).fill_normal(out);
        }
        let shape = [drawings.len(), channels, rows, columns];
        Tensor::from_data(TensorData::new(noise, shape), self.device)
    }
}

/// Refuses a size that does not divide into tokens of `side` by `side` pixels.
///
/// # Errors
/// Names a size that is legal.
pub fn check_size(side: u32, width: u32, height: u32) -> Result<()> {
    let nearest = |length: u32| nearest_length(f64::from(length), side);
    ensure!(
        width > 0 && height > 0 && width.is_multiple_of(side) && height.is_multiple_of(side),
        "size {width}x{height}: both sides must be multiples of {side}, the pixels of a token (model.patch_size, times the \
         VAE's factor); {}x{} is near",
        nearest(width),
        nearest(height)
    );
    Ok(())
}

/// Width and height of the ratio `across` to `down` with about `area` pixels, in multiples of a token's `side`.
pub fn size_of_aspect(side: u32, area: f64, across: u32, down: u32) -> (u32, u32) {
    let ratio = (f64::from(across) / f64::from(down)).sqrt();
    (
        nearest_length(area.sqrt() * ratio, side),
        nearest_length(area.sqrt() / ratio, side),
    )
}

fn nearest_length(length: f64, side: u32) -> u32 {
    ((length / f64::from(side)).round() as u32).max(1) * side
}

/// Which drawings to draw together: indices of one size, at most `most` at once, in the order of their first.
pub fn batches(drawings: &[Drawing], most: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for (i, drawing) in drawings.iter().enumerate() {
        let size = |other: usize| (drawings[other].width, drawings[other].height);
        let open = batches
            .iter_mut()
            .rev()
            .find(|batch| size(batch[0]) == (drawing.width, drawing.height));
        match open {
            Some(batch) if batch.len() < most => batch.push(i),
            _ => batches.push(vec![i]),
        }
    }
    batches
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

    fn drawing(width: u32, height: u32) -> Drawing {
        Drawing {
            prompt: String::new(),
            seed: 0,
            width,
            height,
        }
    }

    #[test]
    fn an_aspect_keeps_the_area_in_whole_tokens() {
        for (image_size, across, down, side, size) in [
            (256, 1, 1, 16, (256, 256)),
            (256, 16, 9, 16, (336, 192)),
            (256, 1, 4, 16, (128, 512)),
            (16, 100, 1, 4, (160, 4)),
        ] {
            assert_eq!(
                size_of_aspect(side, f64::from(image_size * image_size), across, down),
                size
            );
            assert!(check_size(side, size.0, size.1).is_ok());
        }
        assert!(check_size(16, 0, 16).is_err());
    }

    #[test]
    fn a_batch_has_one_size() {
        let drawings = [(8, 8), (8, 4), (8, 8), (8, 8), (8, 8), (8, 4)].map(|(width, height)| drawing(width, height));
        assert_eq!(batches(&drawings, 3), [vec![0, 2, 3], vec![1, 5], vec![4]]);
        assert_eq!(batches(&[], 3), Vec::<Vec<usize>>::new());
    }

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
