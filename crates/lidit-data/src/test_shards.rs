//! Small shards that the tests of several modules read.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, RecordBatch, StringArray};
use image::{Rgb, RgbImage};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use crate::config::DataConfig;
use crate::image::to_png;
use crate::shard_file::{CaptionColumn, MetadataColumn};
use crate::writer::{Record, ShardWriter, WriterConfig};

/// A plain 4 x 4 picture.
pub(crate) fn png(red: u8) -> Vec<u8> {
    to_png(&RgbImage::from_pixel(4, 4, Rgb([red, 10, 20]))).unwrap()
}

/// Rows 0, 1, .. with red = id and caption `thing ID`, by the project's own writer.
pub(crate) fn write_set(folder: &Path, rows: u64, rows_per_shard: usize, rows_per_group: usize) {
    let config = WriterConfig {
        name: "things".into(),
        recipe: "test".into(),
        rows_per_shard,
        rows_per_group,
        captions: CaptionColumn::One,
        metadata: MetadataColumn::LeftOut,
    };
    let mut writer = ShardWriter::create(folder, config).unwrap();
    for id in 0..rows {
        let record = Record {
            key: id.to_string(),
            image: png(id as u8),
            captions: vec![format!("thing {id}")],
            metadata: None,
            width: 4,
            height: 4,
        };
        writer.push(record).unwrap();
    }
    writer.finish(vec![]).unwrap();
}

/// One shard of columns made by hand, two rows a row group.
pub(crate) fn write_columns(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(2)).build();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Five rows of which three can't be used: a broken picture, a null one, a null caption.
pub(crate) fn write_bad_rows(path: &Path) {
    let good = png(100);
    let broken = &good[..good.len() / 2];
    let images = [Some(&good[..]), Some(broken), None, Some(&good[..]), Some(&good[..])];
    let captions = [Some("good"), Some("broken"), Some("null"), None, Some("")];
    write_columns(
        path,
        vec![
            ("image", array(BinaryArray::from_iter(images))),
            ("caption", array(StringArray::from_iter(captions))),
        ],
    );
}

pub(crate) fn array(array: impl Array + 'static) -> ArrayRef {
    Arc::new(array)
}

pub(crate) fn config(path: &Path) -> DataConfig {
    DataConfig {
        path: Some(path.to_owned()),
        image_column: "image".into(),
        caption_column: "caption".into(),
        image_size: 4,
        synthetic_caption_column: None,
        synthetic_share: None,
        min_side: 1,
        max_samples: None,
        subset_seed: 0,
        shuffle_window: 4096,
        lanes: 8,
        buckets: true,
        max_unusable: 1.0,
        sources: vec![],
    }
}
