//! `lidit data build emoji OUT`: emoji in one style or several, with captions from their Unicode names.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use lidit_data::{EmojiBuild, EmojiGroup, EmojiStyle, StyledEmojiBuild, build_emoji, build_emoji_styles};
use serde_json::json;

use crate::fetch;
use crate::outcome::Outcome;

// Side in pixels of the pictures that this program holds.
const TWEMOJI_SIDE: u32 = 72;

/// Arguments of `lidit data build emoji`.
#[derive(clap::Args)]
pub struct Args {
    /// The folder to write: new, empty, or an earlier set of ours, which is replaced.
    out: PathBuf,
    /// Resize to this side in pixels, up to Twemoji's own 72 or, with styles, 256 [default: as each picture is].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
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
    /// Draw each emoji in these styles, comma-separated: twemoji, fluent-3d, noto. Captions then begin with the style.
    /// The pictures of all but twemoji are fetched with npm, once.
    #[arg(long, value_delimiter = ',')]
    styles: Vec<EmojiStyle>,
    /// Leave so many pairs of style and emoji out of the shards and list them in `held_out.jsonl`.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "styles")]
    held_out: u32,
    /// Chooses the pairs that are left out.
    #[arg(long, value_name = "SEED", default_value_t = 0, requires = "styles")]
    held_out_seed: u64,
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
    let progress = |done, total| {
        if done == total || done % 256 == 0 {
            eprintln!("emoji: {done} of {total} pictures");
        }
    };
    let manifest = if args.styles.is_empty() {
        if args.size.is_some_and(|size| size > TWEMOJI_SIDE) {
            bail!("--size is at most {TWEMOJI_SIDE} without --styles");
        }
        build_emoji(&args.out, &build, progress)
    } else {
        build_emoji_styles(&args.out, &styled(args, build)?, progress)
    }
    .with_context(|| format!("building emoji into {}", args.out.display()))?;
    let (rows, shards) = (manifest.rows, manifest.shards.len());
    let bytes: u64 = manifest.shards.iter().map(|shard| shard.bytes).sum();
    let text = format!("{rows} rows in {shards} shards, {bytes} bytes: {}", args.out.display());
    Ok(Outcome::done(
        text,
        json!({ "rows": rows, "shards": shards, "bytes": bytes, "path": args.out }),
    ))
}

fn styled(args: &Args, emoji: EmojiBuild) -> Result<StyledEmojiBuild> {
    let archive = |style: &EmojiStyle| Ok((*style, style.package().map(fetch::npm_package).transpose()?));
    Ok(StyledEmojiBuild {
        emoji,
        styles: args.styles.iter().map(archive).collect::<Result<_>>()?,
        held_out: args.held_out as usize,
        seed: args.held_out_seed,
    })
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
    if !args.styles.is_empty() {
        let names: Vec<&str> = args.styles.iter().map(|style| style.name()).collect();
        words.push(format!("--styles {}", names.join(",")));
        words.push(format!(
            "--held-out {} --held-out-seed {}",
            args.held_out, args.held_out_seed
        ));
    }
    words.join(" ")
}
