//! Whole builds: each kind of input, odd ones, and what a killed one leaves.

#![allow(clippy::unwrap_used)]

mod inputs;
mod kills;
mod odd_inputs;
mod shards;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use ::tar::{Builder, Header};
use arrow::array::{ArrayRef, BinaryArray, ListBuilder, StringArray, StringBuilder, StructArray};
use arrow::datatypes::{DataType, Field};
use image::{Rgb, RgbImage};
use tempfile::TempDir;

use super::*;
use crate::block::Columns;
use crate::bucket::Bucket;
use crate::image::to_png;
use crate::shard_set::ShardSet;
use crate::test_shards::{array, write_bad_rows, write_columns};

fn png(width: u32, height: u32, red: u8) -> Vec<u8> {
    to_png(&RgbImage::from_pixel(width, height, Rgb([red, 10, 20]))).unwrap()
}

fn folder_source(path: &Path) -> BuildSource {
    BuildSource::Folder(FolderSource {
        path: path.to_owned(),
        json_field: "caption".into(),
        synthetic_field: None,
    })
}

fn list_source(path: &Path) -> BuildSource {
    BuildSource::List(ListSource {
        path: path.to_owned(),
        image_column: None,
        caption_column: None,
        synthetic_column: None,
    })
}

fn tar_source(path: &Path) -> BuildSource {
    BuildSource::Tar(TarSource {
        path: path.to_owned(),
        image_keys: vec!["jpg".into(), "png".into()],
        caption_keys: vec!["txt".into(), "json".into()],
        json_field: "caption".into(),
        synthetic_field: None,
    })
}

fn parquet_source(path: &Path) -> BuildSource {
    BuildSource::Parquet(ParquetSource {
        path: path.to_owned(),
        image_column: "image".into(),
        caption_column: "caption".into(),
        synthetic_column: None,
    })
}

fn request(source: BuildSource) -> Build {
    Build {
        source,
        name: "things".into(),
        recipe: "data build".into(),
        licences: vec![],
        resize: None,
        buckets: None,
        shard_size: ShardSize::Rows(1000),
        on_bad: OnBad::Skip,
    }
}

// A folder to make an input in, with the place of the set.
fn place() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in"), folder.path().join("out"));
    fs::create_dir(&input).unwrap();
    (folder, input, out)
}

fn write(folder: &Path, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn write_tar(path: &Path, members: &[(&str, &[u8])]) {
    let mut tar = Builder::new(File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    tar.finish().unwrap();
}

// Texts of a column, row by row; alternatives joined by `|`.
fn texts(set: &Path, column: &str) -> Vec<String> {
    let set = ShardSet::open(set).unwrap();
    let ids: Vec<u64> = (0..set.rows()).collect();
    let columns = Columns {
        caption: Some(column),
        ..Columns::default()
    };
    let mut texts = Vec::new();
    set.read(&ids, columns, |_, row| texts.push(row.captions.join("|")))
        .unwrap();
    texts
}

fn images(set: &Path) -> Vec<Vec<u8>> {
    let set = ShardSet::open(set).unwrap();
    let ids: Vec<u64> = (0..set.rows()).collect();
    let columns = Columns {
        image: Some("image"),
        ..Columns::default()
    };
    let mut images = Vec::new();
    set.read(&ids, columns, |_, row| images.push(row.image.unwrap().to_vec()))
        .unwrap();
    images
}

fn bytes_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    files
        .map(|file| {
            let name = file.file_name().into_string().unwrap();
            (name, fs::read(file.path()).unwrap())
        })
        .collect()
}

fn reasons(built: &Built) -> Vec<(u64, String)> {
    let skipped = built.first_skipped.iter();
    skipped
        .map(|row| (row.row, format!("{}: {}", row.place, row.reason)))
        .collect()
}

fn assert_reasons(built: &Built, expected: &[(u64, &str)]) {
    let found = reasons(built);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((row, text), (expected_row, part)) in found.iter().zip(expected) {
        assert!(
            row == expected_row && text.contains(part),
            "{row} {text}; wanted {part}"
        );
    }
    assert_eq!(built.skipped, expected.len() as u64);
}

fn write_shapes(input: &Path, count: u32) {
    for number in 0..count {
        let (width, height) = [(32, 32), (64, 30), (30, 64), (300, 10)][number as usize % 4];
        let name = format!("{number:03}");
        fs::write(input.join(format!("{name}.png")), png(width, height, number as u8)).unwrap();
        if number % 5 != 4 {
            fs::write(input.join(format!("{name}.txt")), format!("thing {number}")).unwrap();
        }
    }
}

const GRID: BucketGrid = BucketGrid {
    side: 64,
    step: 16,
    max_ratio: 2,
};
