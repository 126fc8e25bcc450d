//! One shard while it is written: rows in, a synced Parquet file with its digest out.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, ListBuilder, RecordBatch, StringArray, StringBuilder, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use sha2::{Digest, Sha256};

use crate::bucket::Bucket;
use crate::error::DataError;
use crate::manifest::{ManifestColumn, ManifestShard, hex};
use crate::shard::type_name;

// Rows and bytes of a page: reading one row costs reading this much.
const PAGE_ROWS: usize = 32;
const PAGE_BYTES: u64 = 1 << 20;

/// A row as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShardRow {
    pub key: String,
    pub image: Vec<u8>,
    pub captions: Vec<String>,
    pub synthetic: Option<String>,
    pub metadata: Option<String>,
    pub width: u32,
    pub height: u32,
}

impl ShardRow {
    /// Bytes of its texts and its picture.
    pub fn bytes(&self) -> u64 {
        let captions: usize = self.captions.iter().map(String::len).sum();
        let others = self.synthetic.iter().chain(&self.metadata).map(String::len);
        (self.key.len() + self.image.len() + captions + others.sum::<usize>() + 8) as u64
    }
}

/// How many captions a row has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptionColumn {
    /// One: the column is of texts.
    One,
    /// Several that say the same: the column is of lists of texts.
    Alternatives,
}

/// Whether there is a column of synthetic captions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Synthetic {
    LeftOut,
    Column,
}

/// Whether there is a column `metadata`, of texts that training does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataColumn {
    /// There is none.
    LeftOut,
    /// There is one.
    Column,
}

/// What the rows of a set look like and how row groups are cut: at so many rows or so many bytes, what comes first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub captions: CaptionColumn,
    pub synthetic: Synthetic,
    pub metadata: MetadataColumn,
    pub group_rows: usize,
    pub group_bytes: u64,
}

impl Layout {
    fn schema(self) -> Schema {
        let mut fields = vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("image", DataType::Binary, false),
            match self.captions {
                CaptionColumn::One => Field::new("caption", DataType::Utf8, false),
                CaptionColumn::Alternatives => Field::new_list("caption", alternative(), false),
            },
        ];
        if self.synthetic == Synthetic::Column {
            fields.push(Field::new("synthetic_caption", DataType::Utf8, true));
        }
        if self.metadata == MetadataColumn::Column {
            fields.push(Field::new("metadata", DataType::Utf8, true));
        }
        fields.push(Field::new("width", DataType::UInt32, false));
        fields.push(Field::new("height", DataType::UInt32, false));
        Schema::new(fields)
    }

    /// The columns, as a manifest lists them.
    pub fn columns(self) -> Vec<ManifestColumn> {
        let schema = self.schema();
        let columns = schema.fields().iter().map(|field| ManifestColumn {
            name: field.name().clone(),
            kind: type_name(field.data_type()),
        });
        columns.collect()
    }
}

fn alternative() -> Field {
    Field::new("element", DataType::Utf8, false)
}

/// A shard while it is written. Holds at most a row group of rows.
///
/// The same rows give the same bytes.
pub(crate) struct ShardFile {
    file: String,
    path: PathBuf,
    layout: Layout,
    schema: Arc<Schema>,
    writer: ArrowWriter<Hashing>,
    page: Vec<ShardRow>,
    page_bytes: u64,
    group_rows: usize,
    group_bytes: u64,
    /// Rows so far.
    pub rows: u64,
    /// Bytes of their texts and pictures.
    pub bytes: u64,
}

impl ShardFile {
    /// Begins the shard `file` in a folder.
    pub fn create(folder: &Path, file: String, layout: Layout) -> Result<Self, DataError> {
        let path = folder.join(&file);
        let schema = Arc::new(layout.schema());
        let out = Hashing {
            file: File::create(&path).map_err(DataError::io(&path))?,
            hasher: Sha256::new(),
            bytes: 0,
        };
        let properties = WriterProperties::builder()
            .set_compression(Compression::UNCOMPRESSED)
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_data_page_size_limit(PAGE_BYTES as usize)
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_write_batch_size(PAGE_ROWS)
            .set_max_row_group_row_count(None)
            .build();
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(out, schema.clone(), options).map_err(failed(&path))?;
        Ok(Self {
            file,
            path,
            layout,
            schema,
            writer,
            page: Vec::new(),
            page_bytes: 0,
            group_rows: 0,
            group_bytes: 0,
            rows: 0,
            bytes: 0,
        })
    }

    /// Adds a row; a full row group is written out.
    pub fn push(&mut self, row: ShardRow) -> Result<(), DataError> {
        let bytes = row.bytes();
        self.page.push(row);
        self.page_bytes += bytes;
        self.rows += 1;
        self.bytes += bytes;
        self.group_rows += 1;
        self.group_bytes += bytes;
        let group_is_full = self.group_rows >= self.layout.group_rows || self.group_bytes >= self.layout.group_bytes;
        if group_is_full || self.page.len() >= PAGE_ROWS || self.page_bytes >= PAGE_BYTES {
            self.write_page()?;
        }
        if group_is_full {
            self.writer.flush().map_err(failed(&self.path))?;
            (self.group_rows, self.group_bytes) = (0, 0);
        }
        Ok(())
    }

    /// Writes the rest and the footer, and waits until the disk has it.
    pub fn finish(mut self, bucket: Option<Bucket>) -> Result<ManifestShard, DataError> {
        self.write_page()?;
        let out = self.writer.into_inner().map_err(failed(&self.path))?;
        out.file.sync_all().map_err(DataError::io(&self.path))?;
        Ok(ManifestShard {
            file: self.file,
            rows: self.rows,
            bytes: out.bytes,
            sha256: hex(&out.hasher.finalize()),
            bucket,
        })
    }

    fn write_page(&mut self) -> Result<(), DataError> {
        let rows = std::mem::take(&mut self.page);
        self.page_bytes = 0;
        let batch = self.batch(&rows).map_err(failed(&self.path))?;
        self.writer.write(&batch).map_err(failed(&self.path))
    }

    fn batch(&self, rows: &[ShardRow]) -> Result<RecordBatch, ParquetError> {
        let numbers = |number: fn(&ShardRow) -> u32| {
            let array: UInt32Array = rows.iter().map(|row| Some(number(row))).collect();
            Arc::new(array) as ArrayRef
        };
        let keys: StringArray = rows.iter().map(|row| Some(&row.key)).collect();
        let images: BinaryArray = rows.iter().map(|row| Some(&row.image)).collect();
        let mut columns = vec![Arc::new(keys) as ArrayRef, Arc::new(images), self.captions(rows)];
        if self.layout.synthetic == Synthetic::Column {
            let synthetic: StringArray = rows.iter().map(|row| row.synthetic.as_ref()).collect();
            columns.push(Arc::new(synthetic));
        }
        if self.layout.metadata == MetadataColumn::Column {
            let metadata: StringArray = rows.iter().map(|row| row.metadata.as_ref()).collect();
            columns.push(Arc::new(metadata));
        }
        columns.extend([numbers(|row| row.width), numbers(|row| row.height)]);
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    fn captions(&self, rows: &[ShardRow]) -> ArrayRef {
        match self.layout.captions {
            CaptionColumn::One => {
                let captions = rows
                    .iter()
                    .map(|row| Some(row.captions.first().map_or("", String::as_str)));
                Arc::new(captions.collect::<StringArray>())
            }
            CaptionColumn::Alternatives => {
                let mut lists = ListBuilder::new(StringBuilder::new()).with_field(alternative());
                for row in rows {
                    lists.append_value(row.captions.iter().map(Some));
                }
                Arc::new(lists.finish())
            }
        }
    }
}

// A full disk is the disk's error, not the format's.
fn failed(path: &Path) -> impl FnOnce(ParquetError) -> DataError {
    let path = path.to_owned();
    move |error| match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(source) => DataError::Io { path, source: *source },
            Err(other) => DataError::Parquet {
                path,
                source: ParquetError::External(other),
            },
        },
        source => DataError::Parquet { path, source },
    }
}

struct Hashing {
    file: File,
    hasher: Sha256,
    bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

    use super::*;

    const LAYOUT: Layout = Layout {
        captions: CaptionColumn::One,
        synthetic: Synthetic::LeftOut,
        metadata: MetadataColumn::LeftOut,
        group_rows: 1000,
        group_bytes: 8 << 20,
    };

    fn row(number: usize, bytes: usize) -> ShardRow {
        ShardRow {
            key: format!("{number}"),
            image: vec![number as u8; bytes],
            captions: vec!["a thing".into()],
            synthetic: None,
            metadata: None,
            width: 1,
            height: 1,
        }
    }

    fn written(rows: usize, bytes: usize) -> ParquetMetaData {
        let folder = tempfile::tempdir().unwrap();
        let mut shard = ShardFile::create(folder.path(), "a.parquet".into(), LAYOUT).unwrap();
        for number in 0..rows {
            shard.push(row(number, bytes)).unwrap();
        }
        let entry = shard.finish(None).unwrap();
        let path = folder.path().join("a.parquet");
        let found = std::fs::read(&path).unwrap();
        assert_eq!(
            (entry.bytes, entry.sha256),
            (found.len() as u64, hex(&Sha256::digest(&found)))
        );
        let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
        reader.try_parse(&File::open(&path).unwrap()).unwrap();
        reader.finish().unwrap()
    }

    // Pages of the picture column, and row groups.
    fn cut(rows: usize, bytes: usize) -> (usize, usize) {
        let metadata = written(rows, bytes);
        let groups = 0..metadata.num_row_groups();
        let pages = groups.map(|group| {
            let index = metadata.page_index_for_row_group(group);
            index.offset_index(1).unwrap().page_locations().len()
        });
        let pages = pages.sum();
        (pages, metadata.num_row_groups())
    }

    #[test]
    fn pages_and_row_groups_are_bounded_by_rows_and_by_bytes() {
        assert_eq!(cut(100, 10), (4, 1));
        // 3 pictures of 400 kB pass a MiB; 20 of them 8 MiB.
        let (pages, groups) = cut(60, 400_000);
        assert!(
            (20..=30).contains(&pages) && groups == 3,
            "{pages} pages, {groups} groups"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named_as_such() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.path().join("a.parquet")).unwrap();
        let mut shard = ShardFile::create(folder.path(), "a.parquet".into(), LAYOUT).unwrap();
        let pushed = (0..30).try_for_each(|number| shard.push(row(number, 1 << 20)));
        let message = pushed.and_then(|()| shard.finish(None)).unwrap_err().to_string();
        assert!(message.contains("a.parquet: No space left on device"), "{message}");
    }
}
