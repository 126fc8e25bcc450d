//! `lidit eval compare A B`: two runs on the same validation triples.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lidit_train::{Paired, RunDir, ValidationRecord};
use serde_json::json;

use crate::outcome::Outcome;

/// Arguments of `lidit eval compare`.
#[derive(clap::Args)]
pub struct Args {
    /// A run directory, or a `validation.json` that lidit eval wrote.
    a: PathBuf,
    /// Another, evaluated on the same validation set.
    b: PathBuf,
    /// The step of both that is compared [default: each run's last evaluated step].
    #[arg(long)]
    step: Option<u64>,
}

/// Compares triple by triple.
pub fn run(args: &Args) -> Result<Outcome> {
    let [a, b] = [record(&args.a, args.step)?, record(&args.b, args.step)?];
    let paired = Paired::of(&a, &b).with_context(|| format!("{} and {}", args.a.display(), args.b.display()))?;
    let line = |run: &Path, record: &ValidationRecord| {
        let gain = record.prompt_gain.as_ref();
        let gain = gain.map_or_else(String::new, |gain| format!(", prompts gain {:.5}", gain.mean));
        format!(
            "{}, step {}, {}: {:.5}, standard error {:.5}{gain}",
            run.display(),
            record.step,
            record.weights,
            record.val_loss,
            record.se
        )
    };
    let gain = paired.prompt_gain.map_or_else(String::new, |gain| {
        format!("\nprompt gain {:+.5}, standard error {:.5}", gain.difference, gain.se)
    });
    let text = format!(
        "{}\n{}\ndifference {:+.5}, standard error {:.5}{gain}",
        line(&args.a, &a),
        line(&args.b, &b),
        paired.difference,
        paired.se
    );
    let side = |run: &Path, record: &ValidationRecord| {
        json!({
            "run": run,
            "step": record.step,
            "weights": record.weights,
            "val_loss": record.val_loss,
            "se": record.se,
            "prompt_gain": record.prompt_gain.as_ref().map(|gain| gain.mean),
        })
    };
    let json = json!({
        "difference": paired.difference,
        "se": paired.se,
        "levels": paired.levels,
        "prompt_gain": paired.prompt_gain,
        "digest": a.digest,
        "a": side(&args.a, &a),
        "b": side(&args.b, &b),
    });
    Ok(Outcome::done(text, json))
}

fn record(run: &Path, step: Option<u64>) -> Result<ValidationRecord> {
    if run.is_file() {
        return ValidationRecord::open(run);
    }
    let run = RunDir::find(run)?;
    let Some(step) = step else {
        return ValidationRecord::newest_of(&run);
    };
    let record = ValidationRecord::read(&run, step)?;
    record.with_context(|| format!("{}: step {step} was not evaluated", run.root().display()))
}
