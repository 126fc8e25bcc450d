//! `lidit sample`: pictures from prompts with a trained run.

mod drawings;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lidit_data::Dataset;
use lidit_train::{Checkpoint, Drawing, RunConfig, RunDir, Weights, compare, real_picture};
use serde_json::json;

use self::drawings::DrawingArgs;
use crate::artist::{Artist, SamplerArgs};
use crate::device::DeviceArg;
use crate::outcome::Outcome;

/// Pictures that grid.png shows at most.
const GRID: usize = 64;

/// Arguments of `lidit sample`.
#[derive(clap::Args)]
pub struct Args {
    /// The run directory.
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// `raw`, `ema` or `ema:HALF_LIFE` (in samples); `ema` is the one with the longest half-life.
    #[arg(long, default_value = "ema")]
    pub weights: Weights,
    #[command(flatten)]
    pub drawings: DrawingArgs,
    #[command(flatten)]
    pub sampler: SamplerArgs,
    /// Pictures drawn at once; changes memory and speed, and results by rounding only.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// Where the pictures (0000.png, 0001.png, ..) and grid.png go.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu")]
    pub device: DeviceArg,
}

/// Draws one PNG for each prompt and seed, and a grid that shows the real pictures beside those that the run's data set
/// has.
pub fn run(args: &Args) -> Result<Outcome> {
    let run_dir = RunDir::find(&args.run)?;
    let mut config = RunConfig::load(&run_dir.config(), &[])?;
    args.sampler.apply(&mut config.sample.sampler);
    config.validate()?;
    let drawings = args.drawings.read(&config)?;
    let artist = Artist::load(
        config,
        Checkpoint::newest_of(&run_dir)?,
        args.weights,
        None,
        args.device,
    )?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("creating {}", args.out.display()))?;

    let total = drawings.len();
    let images: Vec<PathBuf> = (0..total).map(|i| args.out.join(format!("{i:04}.png"))).collect();
    let file = artist.picture_file();
    artist.draw(&drawings, args.batch as usize, |i, picture| {
        file.write(&images[i], &drawings[i], &picture, &[])
    })?;
    let grid = args.out.join("grid.png");
    write_grid(&grid, &artist.config, &drawings, &images)?;
    let text = format!("{total} pictures and {}", grid.display());
    Ok(Outcome::done(
        text,
        json!({ "images": images, "grid": grid, "step": artist.step() }),
    ))
}

/// The first pictures over the real ones of their prompts.
fn write_grid(grid: &Path, config: &RunConfig, drawings: &[Drawing], images: &[PathBuf]) -> Result<()> {
    let shown = drawings.len().min(GRID);
    if shown < drawings.len() {
        eprintln!("note: grid.png shows the first {shown} of {} pictures", drawings.len());
    }
    let prompts: Vec<String> = drawings[..shown].iter().map(|drawing| drawing.prompt.clone()).collect();
    let mut pictures = Vec::with_capacity(shown);
    for path in &images[..shown] {
        let picture = image::open(path).with_context(|| format!("reading {}", path.display()))?;
        pictures.push(picture.into_rgb8());
    }
    compare(&prompts, &pictures, &real_pictures(config, &prompts)?)?
        .save(grid)
        .with_context(|| format!("writing {}", grid.display()))
}

/// The real picture of each prompt that is a caption of the run's data set; none where the shards are not at hand.
fn real_pictures(config: &RunConfig, prompts: &[String]) -> Result<Vec<Option<image::RgbImage>>> {
    let dataset = match Dataset::open(&config.data) {
        Ok(dataset) => dataset,
        Err(error) => {
            eprintln!("note: no real pictures in the grid: {error}");
            return Ok(vec![None; prompts.len()]);
        }
    };
    // Looking for a caption reads all captions: once for a prompt with many seeds.
    let mut known: Vec<(&str, Option<image::RgbImage>)> = Vec::new();
    for prompt in prompts {
        if !known.iter().any(|(text, _)| text == prompt) {
            known.push((prompt, real_picture(&dataset, prompt)?));
        }
    }
    let of = |prompt: &String| {
        known
            .iter()
            .find(|(text, _)| text == prompt)
            .and_then(|(_, real)| real.clone())
    };
    Ok(prompts.iter().map(of).collect())
}

/// Draws the prompts of a run's own config into `out`, with its own settings.
pub fn own_prompts(run: &Path, out: PathBuf, device: DeviceArg) -> Result<Outcome> {
    self::run(&Args {
        run: run.to_owned(),
        weights: Weights::Ema(None),
        drawings: DrawingArgs::default(),
        sampler: SamplerArgs::default(),
        batch: 16,
        out,
        device,
    })
}
