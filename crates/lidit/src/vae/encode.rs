//! `lidit vae encode`: pictures to latents, in one safetensors file.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use lidit_data::read_picture;
use serde_json::json;

use super::ModelArgs;
use super::tensor::Stack;
use crate::outcome::Outcome;

/// Arguments of `lidit vae encode`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Pictures of one size: PNG, JPEG, WebP or GIF files, or safetensors files with `image [B, 3, H, W]` in [-1, 1].
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    images: Vec<PathBuf>,
    /// The file to write: `latents [B, C, H / f, W / f]` in f32, the posterior's means, shifted and scaled.
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
}

/// Encodes the pictures one by one and writes one file.
pub fn run(args: &Args) -> Result<Outcome> {
    let model = args.model.load()?;
    let stack = read(&args.images, model.autoencoder.factor())?;
    let count = stack.shape[0];
    let mut latents = Vec::with_capacity(count);
    for image in stack.tensors(&model.device) {
        latents.push(match model.tiling {
            Some(tiling) => model.autoencoder.encode_tiled(image, tiling),
            None => model.autoencoder.encode(image),
        });
        eprintln!("encoded {}/{count} pictures", latents.len());
    }
    let latents = Stack::gather(latents)?;
    latents.write(&args.out, "latents")?;
    let [_, c, h, w] = latents.shape;
    Ok(Outcome::done(
        format!(
            "{count} pictures as latents of {c} x {h} x {w} in {}",
            args.out.display()
        ),
        json!({ "latents": latents.shape, "out": args.out }),
    ))
}

/// All pictures as one stack.
fn read(paths: &[PathBuf], factor: usize) -> Result<Stack> {
    let mut all = Stack {
        shape: [0; 4],
        values: Vec::new(),
    };
    for path in paths {
        let Stack { shape, values } = read_one(path)?;
        let [count, channels, height, width] = shape;
        ensure!(
            channels == 3,
            "{}: `image` has {channels} channels, not 3",
            path.display()
        );
        ensure!(
            height % factor == 0 && width % factor == 0,
            "{}: {width} x {height} pixels: both sides must be multiples of {factor}, the autoencoder's downsampling factor; crop or resize it",
            path.display()
        );
        let [before, _, first_height, first_width] = all.shape;
        ensure!(
            before == 0 || [first_height, first_width] == [height, width],
            "pictures of two sizes: {} has {first_width} x {first_height} pixels, {} has {width} x {height}; encode each size by itself",
            paths[0].display(),
            path.display()
        );
        all.shape = [before + count, 3, height, width];
        all.values.extend(values);
    }
    Ok(all)
}

fn read_one(path: &Path) -> Result<Stack> {
    if path.extension().is_some_and(|ending| ending == "safetensors") {
        return Stack::read(path, "image");
    }
    let picture = read_picture(path)?;
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let channel = |channel| {
        picture
            .pixels()
            .map(move |pixel| f32::from(pixel[channel]) / 127.5 - 1.0)
    };
    Ok(Stack {
        shape: [1, 3, height, width],
        values: (0..3).flat_map(channel).collect(),
    })
}
