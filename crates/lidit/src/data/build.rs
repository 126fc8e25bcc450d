//! `lidit data build SRC OUT`: pictures with captions, or a known set, to Parquet shards with a manifest.

mod bar;
mod emoji;
pub mod scenes;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lidit_data::{
    BucketGrid, Build, BuildSource, Built, FolderSource, Licence, ListSource, OnBad, ParquetSource, ShardSize,
    SourceKind, TarSource, build,
};
use serde_json::json;

use self::bar::Bar;
use crate::outcome::Outcome;

/// Arguments of `lidit data build`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    known: Option<Known>,
    /// A folder of pictures with .txt or .json beside them, a list (.csv, .tsv, .jsonl), webdataset tars (a file, a
    /// folder or a glob), or Parquet shards. Folders called `emoji` or `scenes` are ./emoji
    /// and ./scenes.
    #[arg(required = true)]
    src: Option<PathBuf>,
    /// The folder to write: new, empty, or an earlier set of ours, which is replaced when the new one is complete.
    #[arg(required = true)]
    out: Option<PathBuf>,
    /// What SRC is: folder, list, tar or parquet [default: told by its name and content].
    #[arg(long, value_name = "KIND")]
    from: Option<SourceKind>,
    /// Lists, Parquet: column of pictures or their paths [default: image; lists also `file_name`, path].
    #[arg(long, value_name = "COLUMN")]
    image_column: Option<String>,
    /// Lists, Parquet: column of captions [default: caption; lists also text].
    #[arg(long, value_name = "COLUMN")]
    caption_column: Option<String>,
    /// Lists, Parquet: column of synthetic captions, kept as the column `synthetic_caption`.
    #[arg(long, value_name = "COLUMN")]
    synthetic_caption_column: Option<String>,
    /// Tars: endings of members that are pictures, the wanted one first [default: jpg,jpeg,png,webp,gif].
    #[arg(long, value_name = "ENDINGS", value_delimiter = ',')]
    image_key: Vec<String>,
    /// Tars: endings of members that hold the caption, the wanted one first [default: txt,json].
    #[arg(long, value_name = "ENDINGS", value_delimiter = ',')]
    caption_key: Vec<String>,
    /// Folders, tars: field of .json files that holds the caption or a list of alternatives [default: caption].
    #[arg(long, value_name = "FIELD")]
    json_field: Option<String>,
    /// Folders, tars: field of .json files with a synthetic caption, kept as the column `synthetic_caption`.
    #[arg(long, value_name = "FIELD")]
    synthetic_caption_field: Option<String>,
    /// The set's name in its manifest [default: OUT's].
    #[arg(long)]
    name: Option<String>,
    /// The pictures' and captions' licence, as SPDX calls it; the manifest says it.
    #[arg(long, value_name = "SPDX", requires = "source")]
    licence: Option<String>,
    /// Where they come from.
    #[arg(long, value_name = "TEXT", requires = "licence")]
    source: Option<String>,
    /// The notice that must go with them.
    #[arg(long, value_name = "TEXT", requires = "licence")]
    notice: Option<String>,
    /// Shrink pictures to a shorter side of N pixels: JPEG stays JPEG (quality 95), others become PNG; smaller ones
    /// keep their bytes [default: all keep their bytes].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    size: Option<u32>,
    /// Group rows by aspect ratio: sizes of about SIDE x SIDE pixels, one a shard.
    #[arg(long, value_name = "SIDE", value_parser = clap::value_parser!(u32).range(1..=4096))]
    buckets: Option<u32>,
    /// Sides of buckets are multiples of it.
    #[arg(long, value_name = "PIXELS", default_value_t = 64, requires = "buckets")]
    bucket_step: u32,
    /// The longest side of a bucket over its shortest, at most.
    #[arg(long, value_name = "RATIO", default_value_t = 2, requires = "buckets")]
    bucket_ratio: u32,
    /// Size of a shard, as 256MB or 1GiB.
    #[arg(long, value_name = "SIZE", default_value = "256MB", value_parser = bytes, conflicts_with = "rows_per_shard")]
    shard_bytes: u64,
    /// Rows of every shard but the last, instead of a size.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rows_per_shard: Option<u64>,
    /// What a row does that has no caption or no picture: skip (listed in OUT/skipped.jsonl) or stop.
    #[arg(long, value_name = "WHAT", default_value = "skip", value_parser = on_bad)]
    on_bad: OnBad,
}

#[derive(clap::Subcommand)]
enum Known {
    /// Emoji with captions from their Unicode names: Twemoji's, or several styles (licences in the manifest).
    Emoji(emoji::Args),
    /// Drawn scenes of one to eight objects with captions whose every fact is known (docs/scenes.md).
    Scenes(scenes::Args),
}

/// Builds a set.
pub fn run(args: &Args) -> Result<Outcome> {
    match (&args.known, &args.src, &args.out) {
        (Some(Known::Emoji(args)), ..) => emoji::run(args),
        (Some(Known::Scenes(args)), ..) => scenes::run(args),
        (None, Some(src), Some(out)) => files(args, src, out),
        (None, ..) => bail!("name what to build from and the folder to write"),
    }
}

fn files(args: &Args, src: &Path, out: &Path) -> Result<Outcome> {
    let kind = match args.from {
        Some(kind) => kind,
        None => SourceKind::of(src)?,
    };
    check_flags(args, kind)?;
    let wanted = Build {
        source: source(args, kind, src),
        name: match &args.name {
            Some(name) => name.clone(),
            None => name_of(out)?,
        },
        recipe: recipe(args, kind),
        licences: licences(args),
        resize: args.size,
        buckets: args.buckets.map(|side| BucketGrid {
            side,
            step: args.bucket_step,
            max_ratio: args.bucket_ratio,
        }),
        shard_size: match args.rows_per_shard {
            Some(rows) => ShardSize::Rows(rows),
            None => ShardSize::Bytes(args.shard_bytes),
        },
        on_bad: args.on_bad,
    };
    let mut bar = Bar::new();
    let built = build(&wanted, out, |told| bar.show(told));
    bar.clear();
    let built = built.with_context(|| format!("building {} from {}", out.display(), src.display()))?;
    describe(&built, out)
}

fn describe(built: &Built, out: &Path) -> Result<Outcome> {
    let manifest = &built.manifest;
    let (rows, shards) = (manifest.rows, manifest.shards.len());
    let bytes: u64 = manifest.shards.iter().map(|shard| shard.bytes).sum();
    let mut text = format!("{rows} rows in {shards} shards, {bytes} bytes: {}", out.display());
    if built.skipped > 0 {
        write!(
            text,
            "\n{} rows were skipped, all listed in skipped.jsonl there:",
            built.skipped
        )?;
        for row in &built.first_skipped {
            write!(text, "\n  {}: {}", row.place, row.reason)?;
        }
    }
    let json = json!({ "rows": rows, "shards": shards, "bytes": bytes, "skipped": built.skipped, "path": out });
    Ok(Outcome::done(text, json))
}

fn source(args: &Args, kind: SourceKind, src: &Path) -> BuildSource {
    let path = src.to_owned();
    let or = |given: &Option<String>, default: &str| given.clone().unwrap_or_else(|| default.to_owned());
    match kind {
        SourceKind::Folder => BuildSource::Folder(FolderSource {
            path,
            json_field: or(&args.json_field, "caption"),
            synthetic_field: args.synthetic_caption_field.clone(),
        }),
        SourceKind::List => BuildSource::List(ListSource {
            path,
            image_column: args.image_column.clone(),
            caption_column: args.caption_column.clone(),
            synthetic_column: args.synthetic_caption_column.clone(),
        }),
        SourceKind::Tar => BuildSource::Tar(TarSource {
            path,
            image_keys: endings(&args.image_key, &["jpg", "jpeg", "png", "webp", "gif"]),
            caption_keys: endings(&args.caption_key, &["txt", "json"]),
            json_field: or(&args.json_field, "caption"),
            synthetic_field: args.synthetic_caption_field.clone(),
        }),
        SourceKind::Parquet => BuildSource::Parquet(ParquetSource {
            path,
            image_column: or(&args.image_column, "image"),
            caption_column: or(&args.caption_column, "caption"),
            synthetic_column: args.synthetic_caption_column.clone(),
        }),
    }
}

fn endings(given: &[String], default: &[&str]) -> Vec<String> {
    if given.is_empty() {
        return default.iter().map(|ending| (*ending).to_owned()).collect();
    }
    let plain = |ending: &String| ending.trim_start_matches('.').to_lowercase();
    given.iter().map(plain).collect()
}

// A flag that the kind of input has no use for was meant for another.
fn check_flags(args: &Args, kind: SourceKind) -> Result<()> {
    use SourceKind::{Folder, List, Parquet, Tar};
    let flags = [
        ("--image-column", args.image_column.is_some(), [List, Parquet]),
        ("--caption-column", args.caption_column.is_some(), [List, Parquet]),
        (
            "--synthetic-caption-column",
            args.synthetic_caption_column.is_some(),
            [List, Parquet],
        ),
        ("--image-key", !args.image_key.is_empty(), [Tar, Tar]),
        ("--caption-key", !args.caption_key.is_empty(), [Tar, Tar]),
        ("--json-field", args.json_field.is_some(), [Folder, Tar]),
        (
            "--synthetic-caption-field",
            args.synthetic_caption_field.is_some(),
            [Folder, Tar],
        ),
    ];
    for (flag, given, kinds) in flags {
        if given && !kinds.contains(&kind) {
            bail!(
                "{flag} means nothing for a {}: leave it out, or say what the input is with --from",
                kind.name()
            );
        }
    }
    Ok(())
}

fn licences(args: &Args) -> Vec<Licence> {
    let stated = args.licence.iter().zip(&args.source);
    let licences = stated.map(|(licence, source)| Licence {
        part: "images and captions".to_owned(),
        source: source.clone(),
        licence: licence.clone(),
        notice: args.notice.clone().unwrap_or_default(),
    });
    licences.collect()
}

fn name_of(out: &Path) -> Result<String> {
    let out = std::path::absolute(out).with_context(|| format!("finding {}", out.display()))?;
    let name = out.file_name().context("the folder to write has no name")?;
    Ok(name.to_string_lossy().into_owned())
}

// Without paths: the same set has the same manifest wherever it lies.
fn recipe(args: &Args, kind: SourceKind) -> String {
    let mut words = vec![format!("data build --from {}", kind.name())];
    let mut add = |flag: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("--{flag} {value}")));
    };
    let listed = |endings: &[String]| (!endings.is_empty()).then(|| endings.join(","));
    add("image-column", args.image_column.clone());
    add("caption-column", args.caption_column.clone());
    add("synthetic-caption-column", args.synthetic_caption_column.clone());
    add("image-key", listed(&args.image_key));
    add("caption-key", listed(&args.caption_key));
    add("json-field", args.json_field.clone());
    add("synthetic-caption-field", args.synthetic_caption_field.clone());
    add("size", args.size.map(|size| size.to_string()));
    if let Some(side) = args.buckets {
        add("buckets", Some(side.to_string()));
        add("bucket-step", Some(args.bucket_step.to_string()));
        add("bucket-ratio", Some(args.bucket_ratio.to_string()));
    }
    match args.rows_per_shard {
        Some(rows) => add("rows-per-shard", Some(rows.to_string())),
        None => add("shard-bytes", Some(args.shard_bytes.to_string())),
    }
    words.join(" ")
}

fn on_bad(text: &str) -> Result<OnBad, String> {
    match text {
        "skip" => Ok(OnBad::Skip),
        "stop" => Ok(OnBad::Stop),
        other => Err(format!("is `{other}`, must be skip or stop")),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim().to_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        other => return Err(format!("unknown unit `{other}`: take kB, MB, GB, KiB, MiB or GiB")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "must begin with a whole number".to_owned())?;
    number.checked_mul(scale).ok_or_else(|| "is too large".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &str) -> Result<Args, clap::Error> {
        Cli::try_parse_from(words.split(' ')).map(|cli| cli.args)
    }

    #[test]
    fn a_known_set_and_a_path_are_told_apart() {
        assert!(parse("build emoji out --size 32").unwrap().known.is_some());
        let args = parse("build ./emoji out --size 320").unwrap();
        assert_eq!((args.src.unwrap(), args.size), ("./emoji".into(), Some(320)));
        assert!(parse("build").is_err() && parse("build in").is_err());
    }

    #[test]
    fn a_recipe_has_the_flags_and_no_paths() {
        let args = parse("build in out --buckets 256 --on-bad stop --shard-bytes 1GiB").unwrap();
        let expected = "data build --from tar --buckets 256 --bucket-step 64 --bucket-ratio 2 --shard-bytes 1073741824";
        assert_eq!(recipe(&args, SourceKind::Tar), expected);
        let args = parse("build in out --caption-column text --rows-per-shard 5").unwrap();
        let expected = "data build --from list --caption-column text --rows-per-shard 5";
        assert_eq!(recipe(&args, SourceKind::List), expected);
        let message = check_flags(&args, SourceKind::Folder).unwrap_err().to_string();
        assert!(
            message.starts_with("--caption-column means nothing for a folder"),
            "{message}"
        );
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("256MB"), Ok(256_000_000));
        assert_eq!(bytes("2 GiB"), Ok(2 << 30));
        assert!(bytes("MB").is_err() && bytes("3 miles").is_err() && bytes("99999999999GB").is_err());
    }
}
