//! `lidit vae decode`: latents to pictures, or to a tensor.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lidit_train::to_pictures;
use serde_json::json;

use super::ModelArgs;
use super::tensor::Stack;
use crate::outcome::Outcome;

/// Arguments of `lidit vae decode`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A file with `latents [B, C, h, w]`, as `lidit vae encode` writes it.
    #[arg(long, value_name = "FILE.safetensors")]
    latents: PathBuf,
    /// A folder for one PNG each, or a file for `decoded [B, 3, h * f, w * f]` in f32, which is not clamped.
    #[arg(long, value_name = "DIR or FILE.safetensors")]
    out: PathBuf,
}

/// Decodes the latents one by one.
pub fn run(args: &Args) -> Result<Outcome> {
    let model = args.model.load()?;
    let latents = Stack::read(&args.latents, "latents")?;
    let [count, channels, ..] = latents.shape;
    let wanted = model.autoencoder.latent_channels();
    ensure!(
        channels == wanted,
        "{}: `latents` has {channels} channels, the autoencoder in {} has {wanted}: use the one that encoded them",
        args.latents.display(),
        args.model.model.display()
    );
    let mut pictures = Vec::with_capacity(count);
    for latent in latents.tensors(&model.device) {
        pictures.push(match model.tiling {
            Some(tiling) => model.autoencoder.decode_tiled(latent, tiling),
            None => model.autoencoder.decode(latent),
        });
        eprintln!("decoded {}/{count} pictures", pictures.len());
    }
    if args.out.extension().is_some_and(|ending| ending == "safetensors") {
        Stack::gather(pictures)?.write(&args.out, "decoded")?;
        return Ok(Outcome::done(
            format!("{count} pictures in {}", args.out.display()),
            json!({ "latents": latents.shape, "out": args.out }),
        ));
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
    let mut images = Vec::with_capacity(count);
    for picture in &pictures {
        images.push(write_png(&args.out, images.len(), picture)?);
    }
    Ok(Outcome::done(
        format!("{count} pictures in {}", args.out.display()),
        json!({ "latents": latents.shape, "images": images }),
    ))
}

fn write_png(folder: &Path, index: usize, picture: &burn::tensor::Tensor<4>) -> Result<PathBuf> {
    let path = folder.join(format!("{index:04}.png"));
    for picture in to_pictures(picture) {
        picture
            .save(&path)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(path)
}
