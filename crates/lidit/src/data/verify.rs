//! `lidit data verify PATH`: read and decode everything.

use std::fmt::Write as _;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use lidit_data::{SourceColumns, SyntheticCaptions, Verification, verify};
use serde_json::json;

use super::shard_args::ShardArgs;
use crate::outcome::{Exit, Outcome};

// Bad rows that are listed for people; `--json` has them all.
const LISTED: usize = 20;

/// Arguments of `lidit data verify`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    shards: ShardArgs,
    /// A second column of captions, written by a model.
    #[arg(long, value_name = "COLUMN")]
    synthetic_caption_column: Option<String>,
    /// Pictures with a shorter side are bad rows.
    #[arg(long, value_name = "PIXELS", default_value_t = 16)]
    min_side: u32,
    /// Exit with 1 if any row is bad.
    #[arg(long)]
    strict: bool,
}

/// Verifies a set.
pub fn run(args: &Args) -> Result<Outcome> {
    let columns = SourceColumns {
        image: args.shards.image_column.clone(),
        caption: args.shards.caption_column.clone(),
        synthetic: args
            .synthetic_caption_column
            .clone()
            .map(|column| SyntheticCaptions { column, share: 0.5 }),
    };
    let bar = ProgressBar::no_length().with_style(ProgressStyle::with_template(
        "{wide_bar} {pos}/{len} rows, {per_sec}, {eta} left",
    )?);
    let found = verify(&args.shards.path, columns, args.min_side, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let found = found?;
    let failed = !found.unreadable.is_empty() || args.strict && !found.quarantined.is_empty();
    Ok(Outcome {
        text: describe(&found)?,
        json: json!({
            "rows": found.rows,
            "usable": found.usable,
            "quarantined": found.quarantined.iter().map(|row| json!({
                "shard": row.shard, "row": row.row, "reason": row.reason,
            })).collect::<Vec<_>>(),
            "unreadable": found.unreadable.iter().map(|(shard, reason)| json!({
                "shard": shard, "reason": reason,
            })).collect::<Vec<_>>(),
        }),
        exit: if failed { Exit::Code(1) } else { Exit::Done },
    })
}

fn describe(found: &Verification) -> Result<String> {
    let mut text = format!("{} of {} rows can be used", found.usable, found.rows);
    for (shard, reason) in &found.unreadable {
        write!(text, "\n{}: can't be read: {reason}", shard.display())?;
    }
    for row in found.quarantined.iter().take(LISTED) {
        write!(text, "\n{}, row {}: {}", row.shard.display(), row.row, row.reason)?;
    }
    if found.quarantined.len() > LISTED {
        write!(text, "\n.. and {} more", found.quarantined.len() - LISTED)?;
    }
    Ok(text)
}
