//! Pictures of reconstructions: what went in above what came out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use lidit_data::{Dataset, Sample};
use lidit_encoders::vae::{Autoencoder, split_moments};

use crate::generate::to_pictures;
use crate::image_grid::{GridRow, ImageGrid, Tile};

/// Pictures in a row.
const COLUMNS: usize = 8;

/// The pictures that are shown again and again.
pub struct Grid {
    folder: PathBuf,
    samples: Vec<Sample>,
}

impl Grid {
    /// `count` pictures spread evenly over the data set.
    pub fn new(out: &Path, dataset: &Dataset, count: u64) -> Result<Self> {
        let samples = dataset
            .samples(&dataset.subset().spread(count))?
            .into_iter()
            .filter_map(Result::ok);
        Ok(Self {
            folder: out.join("samples"),
            samples: samples.collect(),
        })
    }

    /// Writes `samples/step-N.png`.
    pub fn draw(&self, step: u64, network: &Autoencoder, device: &Device) -> Result<()> {
        let network = network.valid();
        let mut rows = Vec::new();
        for samples in self.samples.chunks(COLUMNS) {
            let mut real = Vec::new();
            let mut decoded = Vec::new();
            for sample in samples {
                let pixels = pixels(sample, device);
                real.extend(to_pictures(&pixels));
                let (mean, _) = split_moments(network.moments(pixels));
                decoded.extend(to_pictures(&network.decode(mean)));
            }
            rows.push(row("real", real));
            rows.push(row("reconstructed", decoded));
        }
        let path = self.folder.join(format!("step-{step}.png"));
        std::fs::create_dir_all(&self.folder).with_context(|| format!("making {}", self.folder.display()))?;
        let picture = ImageGrid { rows }.draw()?;
        picture
            .save(&path)
            .with_context(|| format!("writing {}", path.display()))
    }
}

fn row(heading: &str, pictures: Vec<RgbImage>) -> GridRow {
    let tiles = pictures.into_iter().map(|image| Tile {
        image,
        caption: String::new(),
    });
    GridRow {
        heading: Some(heading.to_owned()),
        tiles: tiles.collect(),
    }
}

/// A sample as `[1, 3, H, W]` in [-1, 1].
pub fn pixels(sample: &Sample, device: &Device) -> Tensor<4> {
    let mut values = vec![0.0; sample.pixels.len()];
    sample.write_chw(&mut values);
    let (width, height) = (sample.size.width as usize, sample.size.height as usize);
    Tensor::from_data(TensorData::new(values, [1, 3, height, width]), device)
}
