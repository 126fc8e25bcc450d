//! `lidit data inspect PATH`: schema, rows, sizes, caption statistics.

use std::fmt::Write as _;

use anyhow::Result;
use lidit_data::{Inspection, inspect};

use super::shard_args::ShardArgs;
use crate::outcome::Outcome;

// The commonest sizes of pictures, for people; `--json` has them all.
const SIZES_LISTED: usize = 8;

/// Arguments of `lidit data inspect`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    shards: ShardArgs,
}

/// Looks at shards.
pub fn run(args: &Args) -> Result<Outcome> {
    let found = inspect(
        &args.shards.path,
        &args.shards.image_column,
        &args.shards.caption_column,
    )?;
    Ok(Outcome::done(describe(&found, args)?, serde_json::to_value(&found)?))
}

fn describe(found: &Inspection, args: &Args) -> Result<String> {
    let mut text = String::new();
    if let Some(name) = &found.name {
        writeln!(text, "set: {name}")?;
    }
    let (rows, groups, shards, bytes) = (found.rows, found.row_groups, found.shards, found.bytes);
    writeln!(
        text,
        "{rows} rows in {groups} row groups of {shards} shards, {bytes} bytes"
    )?;
    writeln!(text, "blocks of at most {} rows are read at once", found.largest_block)?;
    for (bucket, rows) in &found.buckets {
        writeln!(text, "bucket {bucket}: {rows} rows")?;
    }
    for column in &found.columns {
        writeln!(text, "column {}: {}", column.name, column.kind)?;
    }
    match &found.captions {
        Some(stats) => writeln!(
            text,
            "captions: {} ({} distinct, {} empty, {} rows without), {} to {} characters, {:.1} on average",
            stats.count, stats.distinct, stats.empty, stats.null, stats.min_chars, stats.max_chars, stats.mean_chars
        )?,
        None => writeln!(
            text,
            "captions: no column `{}`, name it with --caption-column",
            args.shards.caption_column
        )?,
    }
    match &found.images {
        Some(stats) => {
            write!(
                text,
                "pictures: the first {}, {} unreadable;",
                stats.looked_at, stats.unreadable
            )?;
            let mut sizes: Vec<(&String, &u64)> = stats.sizes.iter().collect();
            sizes.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            for (size, count) in sizes.iter().take(SIZES_LISTED) {
                write!(text, " {count} of {size}")?;
            }
            if sizes.len() > SIZES_LISTED {
                write!(text, " and {} other sizes", sizes.len() - SIZES_LISTED)?;
            }
            writeln!(text)?;
        }
        None => writeln!(
            text,
            "pictures: no column `{}`, name it with --image-column",
            args.shards.image_column
        )?,
    }
    for licence in &found.licences {
        writeln!(text, "licence of {licence}")?;
    }
    Ok(text.trim_end().to_owned())
}
