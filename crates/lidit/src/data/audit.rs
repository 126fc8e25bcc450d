//! `lidit data audit RUN`: the proof that no sample was lost or repeated.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use lidit_train::RunDir;
use lidit_train::audit::audit;

use crate::outcome::Outcome;

/// Arguments of `lidit data audit`.
#[derive(clap::Args)]
pub struct Args {
    /// The run directory.
    run: PathBuf,
}

/// Holds the run's records against the stream that its config defines.
pub fn run(args: &Args) -> Result<Outcome> {
    let found = audit(&RunDir::find(&args.run)?)?;
    let mut text = format!(
        "{} steps trained on exactly their {} samples ({} unusable); every sample exactly once in each of {} whole epochs; attempts: {}",
        found.steps, found.samples, found.unusable, found.whole_epochs, found.attempts
    );
    for span in &found.worlds {
        let (first, last, size) = (span.first_step, span.last_step, span.world_size);
        write!(text, "\nsteps {first} to {last}: {size} processes")?;
    }
    let steps: Vec<String> = found.checkpoints.iter().map(u64::to_string).collect();
    write!(text, "\ncheckpoints that agree: {}", steps.join(", "))?;
    Ok(Outcome::done(text, serde_json::to_value(&found)?))
}
