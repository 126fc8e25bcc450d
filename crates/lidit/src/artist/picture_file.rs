//! A drawn picture on the disk, with what it was drawn by.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result};
use image::RgbImage;
use lidit_model::Sampler;
use lidit_train::Drawing;

/// What the files of all pictures of a command share.
pub struct PictureFile<'a> {
    /// Rule, steps, guidance.
    pub sampler: &'a Sampler,
    /// `raw` or `ema:HALF_LIFE`.
    pub weights: String,
    /// Optimizer steps of the run that drew.
    pub step: u64,
}

impl PictureFile<'_> {
    /// Writes a PNG whose text chunks say how to draw it again, and what `more` says of it.
    pub fn write(
        &self,
        path: &Path,
        drawing: &Drawing,
        picture: &RgbImage,
        more: &[(&'static str, String)],
    ) -> Result<()> {
        self.try_write(path, drawing, picture, more)
            .with_context(|| format!("writing {}", path.display()))
    }

    fn try_write(
        &self,
        path: &Path,
        drawing: &Drawing,
        picture: &RgbImage,
        more: &[(&'static str, String)],
    ) -> Result<()> {
        let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), picture.width(), picture.height());
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        for (key, text) in self.texts(drawing).into_iter().chain(more.iter().cloned()) {
            // tEXt holds Latin-1 only.
            if text.chars().all(|c| u32::from(c) < 256) {
                encoder.add_text_chunk(key.to_owned(), text)?;
            } else {
                encoder.add_itxt_chunk(key.to_owned(), text)?;
            }
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(picture.as_raw())?;
        writer.finish()?;
        Ok(())
    }

    fn texts(&self, drawing: &Drawing) -> Vec<(&'static str, String)> {
        let sampler = self.sampler;
        let [from, to] = sampler.guidance_interval;
        vec![
            ("Software", format!("lidit {}", env!("CARGO_PKG_VERSION"))),
            ("prompt", drawing.prompt.clone()),
            ("seed", drawing.seed.to_string()),
            ("size", format!("{}x{}", drawing.width, drawing.height)),
            ("sampler", sampler.kind.name().to_owned()),
            ("steps", sampler.steps.to_string()),
            ("guidance", sampler.guidance.to_string()),
            ("guidance_interval", format!("{from},{to}")),
            ("guidance_rescale", sampler.guidance_rescale.to_string()),
            ("weights", self.weights.clone()),
            ("step", self.step.to_string()),
        ]
    }
}
