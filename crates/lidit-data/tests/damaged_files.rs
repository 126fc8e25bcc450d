//! Thousands of damaged Parquet files: an error that names the file, or rows; never a panic, never an allocation that
//! the file could not justify.

#![allow(clippy::unwrap_used)]

use std::alloc::System;
use std::fs::{self, File};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, ListBuilder, RecordBatch, StringArray, StringBuilder, StructArray};
use arrow::datatypes::{DataType, Field};
use cap::Cap;
use lidit_data::{SampleRng, Stream, inspect};
use parquet::arrow::ArrowWriter;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};

/// An allocation beyond the limit ends the process, which fails the test. The files have about 10 kB.
#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, 256 << 20);

const ROWS: usize = 90;
const CHANGES: usize = 500;

fn images() -> BinaryArray {
    let byte = |row: usize, at: usize| (((row + 1) * (at + 3) * 40_503) >> 5) as u8;
    let image = |row: usize| -> Vec<u8> { (0..40 + row % 9).map(|at| byte(row, at)).collect() };
    (0..ROWS).map(|row| (row % 13 != 4).then(|| image(row))).collect()
}

fn captions() -> [ArrayRef; 2] {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in 0..ROWS {
        lists.append_option((row % 11 != 3).then(|| (0..row % 3).map(|at| Some(format!("{at} of {}", row % 20)))));
    }
    let texts: StringArray = (0..ROWS).map(|row| Some(format!("caption {}", row % 25))).collect();
    [Arc::new(texts), Arc::new(lists.finish())]
}

fn write(path: &Path, columns: [ArrayRef; 2], codec: Compression, version: WriterVersion, no_index: bool) {
    let [image, caption] = columns;
    let columns = [("image", image, true), ("caption", caption, true)];
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(codec)
        .set_writer_version(version)
        .set_offset_index_disabled(no_index)
        .set_max_row_group_row_count(Some(70))
        .set_data_page_row_count_limit(16)
        .set_write_batch_size(16)
        .build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let plain: ArrayRef = Arc::new(images());
    let field = Arc::new(Field::new("bytes", DataType::Binary, true));
    let nested: ArrayRef = Arc::new(StructArray::new(vec![field].into(), vec![plain.clone()], None));
    let [texts, lists] = captions();
    let (one, two) = (WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0);
    let cases = [
        (&plain, &texts, Compression::UNCOMPRESSED, one, false),
        (&nested, &lists, Compression::UNCOMPRESSED, two, true),
        (&plain, &lists, Compression::SNAPPY, one, false),
        (&nested, &texts, Compression::ZSTD(ZstdLevel::default()), two, false),
        (&plain, &texts, Compression::GZIP(GzipLevel::default()), one, true),
        (&nested, &lists, Compression::LZ4_RAW, two, false),
        (&plain, &lists, Compression::BROTLI(BrotliLevel::default()), one, false),
    ];
    let write = |(number, (image, caption, codec, version, no_index)): (usize, (&ArrayRef, &ArrayRef, _, _, _))| {
        let path = folder.join(format!("{number}.parquet"));
        write(&path, [image.clone(), caption.clone()], codec, version, no_index);
        path
    };
    cases.into_iter().enumerate().map(write).collect()
}

// One byte changed, or cut short, or a byte changed in the last kilobyte, where the footer is.
fn damaged(good: &[u8], rng: &mut SampleRng) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let len = good.len() as u32;
    let at = match rng.below(8) {
        0 => {
            bytes.truncate(rng.below(len) as usize);
            return bytes;
        }
        1..=3 => (len - 1 - rng.below(len.min(1200))) as usize,
        _ => rng.below(len) as usize,
    };
    bytes[at] = match rng.below(4) {
        0 => 0,
        1 => 255,
        2 => bytes[at] ^ (1 << rng.below(8)),
        _ => rng.below(256) as u8,
    };
    bytes
}

#[test]
fn damaged_files_are_errors_that_name_them_or_rows_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.parquet");
    let mut refused = 0;
    for (number, file) in files(folder.path()).into_iter().enumerate() {
        let good = fs::read(file).unwrap();
        for change in 0..CHANGES {
            let mut rng = SampleRng::new(number as u64, 0, change as u64, Stream::Noise);
            fs::write(&path, damaged(&good, &mut rng)).unwrap();
            let result = catch_unwind(|| inspect(&path, "image", "caption"));
            let Ok(result) = result else {
                panic!("file {number}, change {change}: a panic");
            };
            if let Err(error) = result {
                refused += 1;
                let message = error.to_string();
                assert!(message.contains("damaged.parquet"), "{number}, {change}: {message}");
            }
        }
    }
    // Many a change is of a picture's own bytes, which only its decoder would notice.
    assert!(refused > CHANGES, "{refused}");
}
