//! `lidit checkpoint list RUN`: what a run has saved.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::checkpoints;
use crate::outcome::Outcome;

/// Arguments of `lidit checkpoint list`.
#[derive(clap::Args)]
pub struct Args {
    /// The run directory.
    run: PathBuf,
}

/// Lists checkpoints with their sizes, unreadable ones too.
pub fn run(args: &Args) -> Result<Outcome> {
    let mut text = String::new();
    let mut rows = Vec::new();
    for (step, checkpoint) in checkpoints(&args.run)? {
        match checkpoint {
            Ok(checkpoint) => {
                let manifest = checkpoint.manifest();
                let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
                let _ = writeln!(
                    text,
                    "step {step}: {} files, {bytes} bytes, {} ranks",
                    manifest.files.len(),
                    manifest.world_size
                );
                rows.push(json!({ "step": step, "bytes": bytes, "world_size": manifest.world_size }));
            }
            Err(error) => {
                let _ = writeln!(text, "step {step}: unreadable: {error:#}");
                rows.push(json!({ "step": step, "error": format!("{error:#}") }));
            }
        }
    }
    let newest = rows.first().map(|row| row["step"].clone());
    Ok(Outcome::done(text, json!({ "step": newest, "checkpoints": rows })))
}
