//! `lidit eval CONFIG --run D`: how good a trained run is.

mod compare;
mod config;
mod evaluation;
mod scenes;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use lidit_data::Dataset;
use lidit_dist::World;
use lidit_train::{Checkpoint, HeldOut, Judged, RunConfig, RunDir, ValidationRecord, ValidationSet, Weights};

pub use self::config::{EvalConfig, ScenesConfig};
pub use self::evaluation::Evaluation;
use self::evaluation::Subject;
pub use self::scenes::ScenesScores;
use self::scenes::ScenesTest;
use crate::artist::Artist;
use crate::device::DeviceArg;
use crate::fetch;
use crate::outcome::Outcome;

/// Arguments of `lidit eval`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    evaluation: Option<EvaluationArgs>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Say how much the validation losses of two runs differ, and how sure that is.
    Compare(compare::Args),
}

/// What is evaluated, by which config.
#[derive(clap::Args)]
struct EvaluationArgs {
    /// The evaluation's config, as configs/eval/scenes-32.toml.
    config: PathBuf,
    /// The run directory; its newest whole checkpoint is evaluated.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// `raw`, `ema` or `ema:HALF_LIFE` (in samples) [default: the config's].
    #[arg(long)]
    weights: Option<Weights>,
    /// Change one key: `--set scenes.prompts=8`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Where eval.json, grid.png and the pictures go [default: RUN/eval/NAME, NAME being the config's].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Evaluate again, even if the same weights were evaluated by the same config.
    #[arg(long)]
    force: bool,
    /// cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu")]
    device: DeviceArg,
}

/// Dispatches.
pub fn run(args: &Args) -> Result<Outcome> {
    match (&args.command, &args.evaluation) {
        (Some(Command::Compare(args)), _) => compare::run(args),
        (None, Some(args)) => evaluate(args),
        (None, None) => anyhow::bail!("name the evaluation's config"),
    }
}

/// Where a run's evaluation by the config file `config` goes.
pub fn folder(run: &RunDir, config: &Path) -> PathBuf {
    run.root().join("eval").join(config.file_stem().unwrap_or_default())
}

/// A run's evaluation by the config file at `path`; `None` where there is none, or it was by another `config` than that file
/// is now.
pub fn finished(run: &RunDir, path: &Path, config: &EvalConfig) -> Result<Option<Evaluation>> {
    let half_lives = RunConfig::load(&run.config(), &[])?.train.ema_half_lives;
    let Some(weights) = config.weights.among(&half_lives) else {
        return Ok(None);
    };
    let config = EvalConfig {
        weights,
        ..config.clone()
    };
    let evaluation = Evaluation::read(&folder(run, path))?;
    Ok(evaluation.filter(|evaluation| evaluation.is_by(&config)))
}

/// Evaluates the run's newest checkpoint, unless that is done.
fn evaluate(args: &EvaluationArgs) -> Result<Outcome> {
    let begun = Instant::now();
    let run_dir = RunDir::find(&args.run)?;
    let mut config = EvalConfig::load(&args.config, &args.sets)?;
    let mut run = RunConfig::load(&run_dir.config(), &[])?;
    config.sampler.apply(&mut run.sample.sampler);
    run.validate()?;
    let test = config.scenes.as_ref().map(|scenes| ScenesTest::new(scenes, &run));
    let test = test.transpose().context("[scenes]")?;
    let checkpoint = Checkpoint::newest_of(&run_dir)?;
    config.weights = checkpoint.named(args.weights.unwrap_or(config.weights))?;
    let subject = Subject::of(&checkpoint, config.weights)?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None => folder(&run_dir, &args.config),
    };
    if !args.force
        && let Some(done) = Evaluation::read(&out)?.filter(|done| done.is_of(&subject, &config))
    {
        eprintln!(
            "step {} was evaluated by this config before: --force evaluates it again",
            subject.step
        );
        return Ok(done.outcome(&out));
    }
    let mut artist = {
        let prompts = prompts(&config, test.as_ref());
        Artist::load(run, checkpoint, config.weights, prompts.as_deref(), args.device)?
    };
    let held_out = config.validation.as_ref().map(|set| open(set, &artist)).transpose()?;
    Evaluation::clear(&out)?;
    let validation = match held_out {
        Some(held_out) => Some(validate(held_out, config.batch, &mut artist, &out)?),
        None => None,
    };
    let scenes = match &test {
        Some(test) => Some(test.judge(config.batch, &mut artist, &out)?),
        None => None,
    };
    let done = Evaluation::new(
        subject,
        config,
        artist.encoded_by,
        validation.as_ref(),
        scenes,
        begun.elapsed(),
    );
    done.write(&out)?;
    Ok(done.outcome(&out))
}

/// All that the evaluation will ask the encoders for; `None` where that includes captions that only they know.
fn prompts(config: &EvalConfig, test: Option<&ScenesTest>) -> Option<Vec<String>> {
    let all_known = config.validation.as_ref().is_none_or(|set| set.features.is_some());
    all_known.then(|| test.map_or_else(Vec::new, ScenesTest::prompts))
}

/// The samples of `set`, which the run must not have seen.
fn open(set: &ValidationSet, artist: &Artist) -> Result<HeldOut> {
    let (config, device) = (&artist.config, &artist.device);
    let held_out = HeldOut::open(
        set,
        config,
        &artist.latents,
        device,
        &fetch::resolve_model,
        &World::solo(),
    )?;
    match Dataset::open(&config.data) {
        Ok(training) => held_out.check_apart(&training)?,
        Err(error) => eprintln!("note: whether the run has seen the validation set is not checked: {error}"),
    }
    Ok(held_out)
}

/// The loss on `held_out`; written to `out`, so that it compares with other runs'.
fn validate(mut held_out: HeldOut, batch: usize, artist: &mut Artist, out: &Path) -> Result<ValidationRecord> {
    artist.remember(&held_out.captions())?;
    let judged = Judged {
        model: &artist.model,
        conditioner: &artist.conditioner,
        device: &artist.device,
        micro_batch: batch,
    };
    let record = held_out.evaluate(&judged, &World::solo())?;
    let record = record.of(artist.step(), artist.weights.to_string());
    record.write_to(&out.join(evaluation::VALIDATION))?;
    eprintln!(
        "validation loss {:.5}, standard error {:.5}",
        record.val_loss, record.se
    );
    Ok(record)
}
