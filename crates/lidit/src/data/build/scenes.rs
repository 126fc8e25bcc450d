//! `lidit data build scenes OUT`: drawn scenes with captions and what each caption states.

use std::io::Cursor;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use anyhow::{Context, Result};
use image::ImageFormat;
use lidit_data::{CaptionColumn, Licence, MetadataColumn, Record, ShardWriter, WriterConfig};
use lidit_scaling::scenes::{HeldOut, World};
use lidit_train::Stop;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use serde_json::json;

use crate::outcome::{Exit, Outcome};

// A few dozen small pictures make a group of some hundred kilobytes: cheap to read for a handful of rows.
const ROWS_PER_GROUP: usize = 128;
// Rows that all cores draw between two looks at the signals.
const CHUNK: u64 = 1024;
const HELD_OUT: &str = "held_out.jsonl";
const FORMAT_VERSION: u32 = 1;

/// Arguments of `lidit data build scenes`.
#[derive(clap::Args)]
pub struct Args {
    /// The folder to write: new, empty, or an earlier set of ours, which is replaced.
    out: PathBuf,
    /// Pictures to draw. A larger set with the same seed begins with a smaller one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// Chooses the scenes: sets for training and for validation differ in it.
    #[arg(long, value_name = "SEED")]
    seed: u64,
    /// Side of the pictures in pixels.
    #[arg(long, value_name = "PIXELS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(32..=256))]
    size: u32,
    /// Objects of a scene, as 1..2 or 3 [default: 1..2, from 64 pixels on 1..8].
    #[arg(long, value_name = "LOW..HIGH", value_parser = range)]
    objects: Option<RangeInclusive<usize>>,
    /// Leave so many pairs of colour and shape out of every scene and caption and list them in `held_out.jsonl`.
    #[arg(long, value_name = "N", default_value_t = 0)]
    held_out: usize,
    /// Chooses those pairs.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    held_out_seed: u64,
    /// Captions of each picture; fewer are the first of more. One is enough for runs that see each picture once, and a third of
    /// the features.
    #[arg(long, value_name = "N", default_value_t = World::CAPTIONS, value_parser = captions)]
    captions: usize,
    /// Rows of every shard but the last.
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..))]
    rows_per_shard: u32,
}

/// Builds the set.
pub fn run(args: &Args) -> Result<Outcome> {
    let stop = Stop::on_signals()?;
    let objects = args.objects.clone().unwrap_or(1..=World::most_objects(args.size));
    let recipe = recipe(args, &objects);
    let world = World::new(args.size, objects, HeldOut::draw(args.held_out, args.held_out_seed)?)?;
    let building = || format!("building scenes into {}", args.out.display());
    let config = WriterConfig {
        name: "scenes".to_owned(),
        recipe,
        rows_per_shard: args.rows_per_shard as usize,
        rows_per_group: ROWS_PER_GROUP,
        captions: CaptionColumn::Alternatives,
        metadata: MetadataColumn::Column,
    };
    let mut writer = ShardWriter::create(&args.out, config).with_context(building)?;
    let mut done = 0;
    while done < args.rows {
        if stop.is_requested() {
            return Ok(Outcome {
                text: format!("stopped after {done} of {} pictures; nothing was written", args.rows),
                json: json!({ "rows": 0, "total": args.rows, "path": args.out }),
                exit: Exit::Stopped,
            });
        }
        let next = (done + CHUNK).min(args.rows);
        let drawn = (done..next).into_par_iter().map(|index| record(&world, args, index));
        for record in drawn.collect::<Result<Vec<_>>>()? {
            writer.push(record).with_context(building)?;
        }
        done = next;
        if done == args.rows || done % (16 * CHUNK) == 0 {
            eprintln!("scenes: {done} of {} pictures", args.rows);
        }
    }
    let pairs = world.held_out().pairs().iter();
    let lines: Vec<String> = pairs
        .map(|(colour, shape)| {
            json!({ "format_version": FORMAT_VERSION, "colour": colour, "shape": shape }).to_string()
        })
        .collect();
    if !lines.is_empty() {
        writer.add_list(HELD_OUT, &lines).with_context(building)?;
    }
    let manifest = writer.finish(vec![licence()]).with_context(building)?;
    let (rows, shards) = (manifest.rows, manifest.shards.len());
    let bytes: u64 = manifest.shards.iter().map(|shard| shard.bytes).sum();
    let text = format!("{rows} rows in {shards} shards, {bytes} bytes: {}", args.out.display());
    Ok(Outcome::done(
        text,
        json!({ "rows": rows, "shards": shards, "bytes": bytes, "path": args.out }),
    ))
}

// The metadata has the scene, and for each caption what it states.
fn record(world: &World, args: &Args, index: u64) -> Result<Record> {
    let mut row = world.row(args.seed, index);
    row.captions.truncate(args.captions);
    let mut image = Cursor::new(Vec::new());
    row.picture
        .write_to(&mut image, ImageFormat::Png)
        .with_context(|| format!("encoding scene {index}"))?;
    let facts: Vec<_> = row.captions.iter().map(|caption| &caption.facts).collect();
    Ok(Record {
        key: index.to_string(),
        image: image.into_inner(),
        metadata: Some(json!({ "scene": row.scene, "facts": facts }).to_string()),
        captions: row.captions.into_iter().map(|caption| caption.text).collect(),
        width: row.picture.width(),
        height: row.picture.height(),
    })
}

fn licence() -> Licence {
    Licence {
        part: "images and captions".to_owned(),
        source: "drawn and worded by lidit".to_owned(),
        licence: "CC0-1.0".to_owned(),
        notice: String::new(),
    }
}

// Without OUT: the same set has the same manifest wherever it lies.
fn recipe(args: &Args, objects: &RangeInclusive<usize>) -> String {
    format!(
        "data build scenes --rows {} --seed {} --size {} --objects {}..{} --held-out {} --held-out-seed {} \
         --captions {} --rows-per-shard {}",
        args.rows,
        args.seed,
        args.size,
        objects.start(),
        objects.end(),
        args.held_out,
        args.held_out_seed,
        args.captions,
        args.rows_per_shard
    )
}

/// Reads `2..5` or `3`, both ends included.
pub fn range(text: &str) -> Result<RangeInclusive<usize>, String> {
    let (low, high) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| text.parse().map_err(|_| format!("is `{text}`, must be as 1..2 or 3"));
    Ok(number(low)?..=number(high)?)
}

fn captions(text: &str) -> Result<usize, String> {
    let most = World::CAPTIONS;
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("is `{text}`, must be from 1 to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_objects_are_read() {
        assert_eq!(range("1..2"), Ok(1..=2));
        assert_eq!(range("3"), Ok(3..=3));
        assert!(range("1..").is_err() && range("few").is_err());
    }

    #[test]
    fn a_picture_has_one_to_three_captions() {
        assert_eq!(captions("1"), Ok(1));
        assert!(captions("0").is_err() && captions("4").is_err() && captions("all").is_err());
    }
}
