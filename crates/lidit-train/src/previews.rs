//! Sample grids of a run: what the network draws beside the real pictures.

use anyhow::{Context, Result};
use burn::tensor::Device;
use image::RgbImage;
use lidit_data::Dataset;
use lidit_dist::World;
use lidit_model::LiDit;

use crate::conditioner::Conditioner;
use crate::config::RunConfig;
use crate::generate::{Drawing, Request};
use crate::image_grid::{GridRow, ImageGrid, Tile};
use crate::latents::LatentSpace;
use crate::layout::even_ranges;

/// Tiles side by side.
const COLUMNS: usize = 8;

/// The prompts of a run's grids, with the real picture of each where the data set has one.
pub struct Previews {
    prompts: Vec<String>,
    real: Vec<Option<RgbImage>>,
}

impl Previews {
    /// The run's `sample.prompts`; the real pictures are those whose caption is the prompt.
    pub fn new(config: &RunConfig, dataset: &Dataset) -> Result<Self> {
        let prompts = config.sample.prompts.clone();
        let real = prompts
            .iter()
            .map(|prompt| real_picture(dataset, prompt))
            .collect::<Result<_>>()?;
        Ok(Self { prompts, real })
    }

    /// Draws every prompt, each rank its share, and lays the grid out on every rank.
    pub fn draw(
        &self,
        model: &LiDit,
        conditioner: &Conditioner,
        latents: &LatentSpace,
        config: &RunConfig,
        device: &Device,
        world: &World,
    ) -> Result<RgbImage> {
        let side = config.data.image_size;
        let shares = even_ranges(self.prompts.len(), world.size());
        let own = shares[world.rank()].clone();
        let drawings: Vec<Drawing> = self.prompts[own]
            .iter()
            .map(|prompt| Drawing {
                prompt: prompt.clone(),
                seed: config.sample.seed,
                width: side,
                height: side,
            })
            .collect();
        let drawn = Request::new(model, conditioner, latents, config, device).draw(&drawings)?;
        let mut pictures = Vec::with_capacity(self.prompts.len());
        for (rank, share) in shares.iter().enumerate() {
            let mut bytes = Vec::new();
            if rank == world.rank() {
                bytes = drawn
                    .iter()
                    .flat_map(|picture| picture.as_raw().iter().copied())
                    .collect();
            }
            if world.size() > 1 {
                world.broadcast(&mut bytes, rank)?;
            }
            for raw in bytes.chunks_exact((3 * side * side) as usize).take(share.len()) {
                pictures.push(RgbImage::from_raw(side, side, raw.to_vec()).context("a picture from another rank")?);
            }
        }
        compare(&self.prompts, &pictures, &self.real)
    }
}

/// The picture of `dataset` whose caption is `prompt`, as training sees it.
pub fn real_picture(dataset: &Dataset, prompt: &str) -> Result<Option<RgbImage>> {
    let Some(id) = dataset.find_caption(prompt)? else {
        return Ok(None);
    };
    let sample = dataset.sample(id)?;
    RgbImage::from_raw(sample.size.width, sample.size.height, sample.pixels)
        .context("a picture of the data set has a ragged shape")
        .map(Some)
}

/// Drawn pictures over the real ones, in rows of eight.
pub fn compare(prompts: &[String], drawn: &[RgbImage], real: &[Option<RgbImage>]) -> Result<RgbImage> {
    let mut rows = Vec::new();
    for start in (0..prompts.len()).step_by(COLUMNS) {
        let columns = start..(start + COLUMNS).min(prompts.len());
        let tiles = |pictures: Vec<RgbImage>| {
            pictures
                .into_iter()
                .zip(&prompts[columns.clone()])
                .map(|(image, prompt)| Tile {
                    image,
                    caption: prompt.clone(),
                })
                .collect::<Vec<_>>()
        };
        rows.push(GridRow {
            heading: Some("drawn".to_owned()),
            tiles: tiles(drawn[columns.clone()].to_vec()),
        });
        if real[columns.clone()].iter().any(Option::is_some) {
            let blank =
                |picture: &RgbImage| RgbImage::from_pixel(picture.width(), picture.height(), image::Rgb([255; 3]));
            let pictures = columns
                .clone()
                .map(|i| real[i].clone().unwrap_or_else(|| blank(&drawn[i])))
                .collect();
            rows.push(GridRow {
                heading: Some("real".to_owned()),
                tiles: tiles(pictures),
            });
        }
    }
    ImageGrid { rows }.draw()
}
