//! `lidit data build emoji OUT`: Twemoji pictures with captions from their Unicode names.

use std::path::PathBuf;

use anyhow::{Context, Result};
use lidit_data::{EmojiBuild, EmojiGroup, build_emoji};
use serde_json::json;

use crate::outcome::Outcome;

/// Arguments of `lidit data build emoji`.
#[derive(clap::Args)]
pub struct Args {
    /// The folder to write: new, empty, or an earlier set of ours, which is replaced.
    out: PathBuf,
    /// Resize to this side in pixels [default: Twemoji's own 72].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=72))]
    size: Option<u32>,
    /// Only these groups, comma-separated: smileys, people, animals, food, travel, activities, objects, symbols, or
    /// Unicode's names of them, as "animals & nature".
    #[arg(long, value_delimiter = ',')]
    groups: Vec<EmojiGroup>,
    /// At most this many, evenly spaced among them [default: all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Rows of every shard but the last.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    rows_per_shard: u32,
}

/// Builds the set.
pub fn run(args: &Args) -> Result<Outcome> {
    let build = EmojiBuild {
        size: args.size,
        groups: if args.groups.is_empty() {
            EmojiGroup::ALL.to_vec()
        } else {
            args.groups.clone()
        },
        limit: args.limit.map(|limit| limit as usize),
        rows_per_shard: args.rows_per_shard as usize,
        recipe: recipe(args),
    };
    let manifest = build_emoji(&args.out, &build, |done, total| {
        if done == total || done % 256 == 0 {
            eprintln!("emoji: {done} of {total} pictures");
        }
    })
    .with_context(|| format!("building emoji into {}", args.out.display()))?;
    let (rows, shards) = (manifest.rows, manifest.shards.len());
    let bytes: u64 = manifest.shards.iter().map(|shard| shard.bytes).sum();
    let text = format!("{rows} rows in {shards} shards, {bytes} bytes: {}", args.out.display());
    Ok(Outcome::done(
        text,
        json!({ "rows": rows, "shards": shards, "bytes": bytes, "path": args.out }),
    ))
}

// Without OUT: the same set has the same manifest wherever it lies.
fn recipe(args: &Args) -> String {
    let mut words = vec!["data build emoji".to_owned()];
    if let Some(size) = args.size {
        words.push(format!("--size {size}"));
    }
    if !args.groups.is_empty() {
        let names: Vec<&str> = args.groups.iter().map(|group| group.name()).collect();
        words.push(format!("--groups {}", names.join(",")));
    }
    if let Some(limit) = args.limit {
        words.push(format!("--limit {limit}"));
    }
    words.push(format!("--rows-per-shard {}", args.rows_per_shard));
    words.join(" ")
}
