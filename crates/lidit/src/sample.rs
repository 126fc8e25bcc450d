//! `lidit sample`: pictures from prompts with a trained run.

mod drawings;
mod picture_file;
mod progress;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lidit_data::Dataset;
use lidit_model::{LiDit, Sampler, SamplerKind};
use lidit_train::{
    Checkpoint, Conditioner, Drawing, FlatLayout, Identity, LatentSpace, Request, RunConfig, RunDir, Weights, batches,
    compare, load_for_drawing, real_picture,
};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde_json::json;

use self::drawings::DrawingArgs;
use self::picture_file::Settings;
use self::progress::Progress;
use crate::device::DeviceArg;
use crate::fetch;
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

/// What replaces the run's own `sample.sampler`.
#[derive(clap::Args, Default)]
pub struct SamplerArgs {
    /// ddpm, ddim, `dpm_solver_pp_2m` or euler; must suit the run's objective [default: the run's].
    #[arg(long, value_name = "KIND", value_parser = parse_kind)]
    pub sampler: Option<SamplerKind>,
    /// Steps from noise to picture [default: the run's].
    #[arg(long)]
    pub steps: Option<usize>,
    /// Guidance scale; 1 is none [default: the run's].
    #[arg(long)]
    pub guidance: Option<f64>,
    /// Times, 0 (clean) to 1 (noise), between which guidance is used [default: the run's].
    #[arg(long, value_name = "FROM,TO", value_parser = parse_interval)]
    pub guidance_interval: Option<[f64; 2]>,
    /// How far guided predictions are scaled back to the contrast of unguided ones, 0 to 1 [default: the run's].
    #[arg(long)]
    pub guidance_rescale: Option<f64>,
}

fn parse_kind(text: &str) -> Result<SamplerKind, serde::de::value::Error> {
    SamplerKind::deserialize(text.into_deserializer())
}

fn parse_interval(text: &str) -> Result<[f64; 2], String> {
    let parsed = text
        .split_once(',')
        .and_then(|(from, to)| Some([from.trim().parse().ok()?, to.trim().parse().ok()?]));
    parsed.ok_or_else(|| "two numbers are needed, like 0.2,0.8".to_owned())
}

/// Draws one PNG for each prompt and seed, and a grid that shows the real pictures beside those that the run's data set
/// has.
pub fn run(args: &Args) -> Result<Outcome> {
    let run_dir = RunDir::find(&args.run)?;
    let mut config = RunConfig::load(&run_dir.config(), &[])?;
    args.sampler.apply(&mut config.sample.sampler);
    config.validate()?;
    let drawings = args.drawings.read(&config)?;
    let artist = Artist::load(args, &run_dir, config)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("creating {}", args.out.display()))?;

    let total = drawings.len();
    let images = artist.draw(args, &drawings)?;
    let grid = args.out.join("grid.png");
    write_grid(&grid, &artist.config, &drawings, &images)?;
    let text = format!("{total} pictures and {}", grid.display());
    let step = artist.checkpoint.manifest().step;
    Ok(Outcome::done(
        text,
        json!({ "images": images, "grid": grid, "step": step }),
    ))
}

/// A run's network and encoders, ready to draw.
struct Artist {
    config: RunConfig,
    checkpoint: Checkpoint,
    conditioner: Conditioner,
    latents: LatentSpace,
    model: LiDit,
    device: burn::tensor::Device,
}

impl Artist {
    fn load(args: &Args, run_dir: &RunDir, config: RunConfig) -> Result<Self> {
        let checkpoint = Checkpoint::newest_of(run_dir)?;
        let device = args.device.open(0)?;
        let conditioner = Conditioner::load(&config.encoders, &device, &fetch::resolve_model)?;
        let latents = LatentSpace::open(&config.vae, &config.model, &device)?;
        let identity = Identity {
            dataset: String::new(),
            encoders: conditioner.fingerprints()?,
            vae: latents.fingerprint().to_owned(),
        };
        identity.check_frozen(&checkpoint)?;
        let model = LiDit::zeros(&config.model, &conditioner.conditioning(&config.encoders), &device);
        let layout = FlatLayout::of(&model);
        checkpoint.check_layout(layout.entries())?;
        let model = load_for_drawing(&checkpoint.weights(args.weights)?, &layout, &config, model, &device);
        Ok(Self {
            config,
            checkpoint,
            conditioner,
            latents,
            model,
            device,
        })
    }

    /// Draws all and writes each as soon as it is drawn; returns the files, in the order of the drawings.
    fn draw(&self, args: &Args, drawings: &[Drawing]) -> Result<Vec<PathBuf>> {
        let request = Request::new(
            &self.model,
            &self.conditioner,
            &self.latents,
            &self.config,
            &self.device,
        );
        let settings = Settings {
            sampler: &self.config.sample.sampler,
            weights: self.weights_name(args.weights),
            step: self.checkpoint.manifest().step,
        };
        let files: Vec<PathBuf> = (0..drawings.len())
            .map(|i| args.out.join(format!("{i:04}.png")))
            .collect();
        let progress = Progress::new(drawings.len(), self.config.sample.sampler.steps);
        for batch in batches(drawings, args.batch as usize) {
            let together: Vec<&Drawing> = batch.iter().map(|&i| &drawings[i]).collect();
            let pictures = request.draw_batch(&together, |_| progress.step(together.len()))?;
            for ((i, drawing), picture) in batch.into_iter().zip(together).zip(pictures) {
                settings.write(&files[i], drawing, &picture)?;
            }
        }
        progress.clear();
        Ok(files)
    }

    /// `raw` or `ema:HALF_LIFE`, never just `ema`.
    fn weights_name(&self, weights: Weights) -> String {
        let longest = self.checkpoint.manifest().ema_half_lives.iter().max().copied();
        match weights {
            Weights::Raw => "raw".to_owned(),
            Weights::Ema(half_life) => half_life
                .or(longest)
                .map_or("ema".to_owned(), |half_life| format!("ema:{half_life}")),
        }
    }
}

impl SamplerArgs {
    fn apply(&self, sampler: &mut Sampler) {
        sampler.kind = self.sampler.unwrap_or(sampler.kind);
        sampler.steps = self.steps.unwrap_or(sampler.steps);
        sampler.guidance = self.guidance.unwrap_or(sampler.guidance);
        sampler.guidance_interval = self.guidance_interval.unwrap_or(sampler.guidance_interval);
        sampler.guidance_rescale = self.guidance_rescale.unwrap_or(sampler.guidance_rescale);
    }
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
