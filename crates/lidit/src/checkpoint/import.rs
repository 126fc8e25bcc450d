//! `lidit checkpoint import RUN --from DIR --config CONFIG`: a run that begins with an export's weights.

use std::path::PathBuf;

use anyhow::Result;
use lidit_train::{ImportRequest, RunConfig};
use serde_json::json;

use crate::fetch;
use crate::outcome::Outcome;

/// Arguments of `lidit checkpoint import`.
#[derive(clap::Args)]
pub struct Args {
    /// The run directory to make.
    run: PathBuf,
    /// The export's folder.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The run's config.
    #[arg(long)]
    config: PathBuf,
    /// Change one key: `--set train.steps=1000`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Initialise the parameters below this path anew and leave the export's behind: `--fresh final_layer`. May be
    /// repeated.
    #[arg(long, value_name = "PATH")]
    fresh: Vec<String>,
}

/// Makes the run directory with a checkpoint of step 0.
pub fn run(args: &Args) -> Result<Outcome> {
    let imported = ImportRequest {
        from: &args.from,
        config: RunConfig::load(&args.config, &args.sets)?,
        run_dir: &args.run,
        fresh: args.fresh.clone(),
        locate: &fetch::resolve_model,
    }
    .run()?;
    let text = format!(
        "{} parameters of {}, {} initialised anew: {}",
        imported.carried,
        args.from.display(),
        imported.fresh.len(),
        args.run.display()
    );
    Ok(Outcome::done(
        text,
        json!({ "run_dir": args.run, "step": 0, "carried": imported.carried, "fresh": imported.fresh }),
    ))
}
