//! `lidit sample`: pictures from prompts with a trained run.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lidit_data::Dataset;
use lidit_model::LiDit;
use lidit_train::{
    Checkpoint, Conditioner, FlatLayout, Identity, LatentSpace, Request, RunConfig, RunDir, Weights, compare,
    load_for_drawing, real_picture,
};
use serde_json::json;

use crate::device::DeviceArg;
use crate::fetch;
use crate::outcome::Outcome;

/// Arguments of `lidit sample`.
#[derive(clap::Args)]
pub struct Args {
    /// The run directory.
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// `raw`, `ema` or `ema:HALF_LIFE` (in samples); `ema` is the one with the longest half-life.
    #[arg(long, default_value = "ema")]
    pub weights: Weights,
    /// What to draw; may be repeated [default: the run's own sample.prompts].
    #[arg(long = "prompt", value_name = "TEXT")]
    pub prompts: Vec<String>,
    /// Where the pictures and grid.png go.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Seeds the starting noise [default: the run's].
    #[arg(long)]
    pub seed: Option<u64>,
    /// Network evaluations a picture [default: the run's].
    #[arg(long)]
    pub steps: Option<usize>,
    /// Guidance scale; 1 is none [default: the run's].
    #[arg(long)]
    pub guidance: Option<f64>,
    /// cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu")]
    pub device: DeviceArg,
}

/// Draws one PNG a prompt, and a grid that shows the real pictures beside those that the run's data set has.
pub fn run(args: &Args) -> Result<Outcome> {
    let run_dir = RunDir::find(&args.run)?;
    let config = settings(args, &run_dir)?;
    let prompts = &config.sample.prompts;
    ensure!(
        !prompts.is_empty(),
        "nothing to draw: name a --prompt, the run's config has no sample.prompts"
    );
    let checkpoint = newest(&run_dir)?;
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
    std::fs::create_dir_all(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
    let total = prompts.len();
    let pictures = Request::new(&model, &conditioner, &latents, &config, &device)
        .draw(prompts, 0, |done| eprintln!("drew {done}/{total} pictures"))?;

    let mut images = Vec::new();
    for (i, picture) in pictures.iter().enumerate() {
        let path = args.out.join(format!("{i:04}.png"));
        picture
            .save(&path)
            .with_context(|| format!("writing {}", path.display()))?;
        images.push(path);
    }
    let grid = args.out.join("grid.png");
    compare(prompts, &pictures, &real_pictures(&config)?)?
        .save(&grid)
        .with_context(|| format!("writing {}", grid.display()))?;
    let text = format!("{total} pictures and {}", grid.display());
    let step = checkpoint.manifest().step;
    Ok(Outcome::done(
        text,
        json!({ "images": images, "grid": grid, "step": step }),
    ))
}

/// The run's config with the command line's prompts and settings.
fn settings(args: &Args, run_dir: &RunDir) -> Result<RunConfig> {
    let mut config = RunConfig::load(&run_dir.config(), &[])?;
    if !args.prompts.is_empty() {
        config.sample.prompts.clone_from(&args.prompts);
    }
    config.sample.seed = args.seed.unwrap_or(config.sample.seed);
    config.sample.sampler.steps = args.steps.unwrap_or(config.sample.sampler.steps);
    config.sample.sampler.guidance = args.guidance.unwrap_or(config.sample.sampler.guidance);
    config.validate()?;
    Ok(config)
}

fn newest(run_dir: &RunDir) -> Result<Checkpoint> {
    Checkpoint::newest_verified(&run_dir.checkpoints(), |step, error| {
        eprintln!("warning: skipping the checkpoint of step {step}: {error:#}");
    })?
    .with_context(|| {
        format!(
            "{} has no checkpoint that verifies: train it first",
            run_dir.root().display()
        )
    })
}

/// The real picture of each prompt that is a caption of the run's data set; none where the shards are not at hand.
fn real_pictures(config: &RunConfig) -> Result<Vec<Option<image::RgbImage>>> {
    match Dataset::open(&config.data) {
        Ok(dataset) => config
            .sample
            .prompts
            .iter()
            .map(|prompt| real_picture(&dataset, prompt))
            .collect(),
        Err(error) => {
            eprintln!("note: no real pictures in the grid: {error}");
            Ok(vec![None; config.sample.prompts.len()])
        }
    }
}
