//! Features in one Parquet file: a row a caption, a page a row.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, LargeBinaryArray, ListBuilder, RecordBatch, StringArray, UInt32Array, UInt32Builder, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type, UInt64Type};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::Compression;
use parquet::file::metadata::{KeyValue, PageIndexPolicy};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::block::selection;
use crate::error::DataError;
use crate::feature_row::{FeatureRow, PromptFeatures, StoredLatents};

/// Version of the columns, under this key in the file's own metadata.
const FORMAT_VERSION: &str = "2";
const VERSION_KEY: &str = "lidit.format_version";
/// The columns before the encoders'.
const FIRST_ENCODER: usize = 6;
/// Rows converted at once: what they take comes on top of the rows themselves.
const BATCH_ROWS: usize = 16;

/// A file of [`FeatureRow`]s, open for reading: its footer is known, no row is in memory.
pub struct FeatureFile {
    path: PathBuf,
    num_encoders: usize,
    metadata: ArrowReaderMetadata,
}

impl FeatureFile {
    /// Writes `rows` to `path` and waits until they are on the disk. The same rows give the same bytes.
    ///
    /// Every row is a page of its own, so that a few of them can be read from a large file.
    pub fn write(path: &Path, rows: &[FeatureRow], num_encoders: usize) -> Result<(), DataError> {
        let wrap = DataError::parquet;
        let schema = Arc::new(schema(num_encoders));
        let version = KeyValue::new(VERSION_KEY.to_owned(), FORMAT_VERSION.to_owned());
        let properties = WriterProperties::builder()
            .set_compression(Compression::UNCOMPRESSED)
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_data_page_row_count_limit(1)
            .set_write_batch_size(1)
            .set_max_row_group_row_count(Some(rows.len().max(1)))
            .set_key_value_metadata(Some(vec![version]))
            .build();
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_skip_arrow_metadata(true);
        let out = File::create(path).map_err(DataError::io(path))?;
        let mut writer = ArrowWriter::try_new_with_options(out, schema.clone(), options).map_err(wrap(path))?;
        for rows in rows.chunks(BATCH_ROWS) {
            let batch = RecordBatch::try_new(schema.clone(), columns(rows, num_encoders));
            let batch = batch.map_err(|error| wrap(path)(error.into()))?;
            writer.write(&batch).map_err(wrap(path))?;
        }
        let out = writer.into_inner().map_err(wrap(path))?;
        out.sync_all().map_err(DataError::io(path))
    }

    /// Reads the footer and checks the columns.
    pub fn open(path: &Path, num_encoders: usize) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io(path))?;
        let options = ArrowReaderOptions::new()
            .with_skip_arrow_metadata(true)
            .with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load(&file, options).map_err(DataError::parquet(path))?;
        let features = Self {
            path: path.to_owned(),
            num_encoders,
            metadata,
        };
        features.check_version()?;
        features.check_columns()?;
        Ok(features)
    }

    /// Every row, in order.
    pub fn read(&self) -> Result<Vec<FeatureRow>, DataError> {
        let rows = self.num_rows();
        self.caught(|| self.read_places(&(0..rows).collect::<Vec<_>>()))
    }

    /// The rows of some samples, in order; samples that the file does not hold are left out.
    pub fn read_samples(&self, ids: &[u64]) -> Result<Vec<FeatureRow>, DataError> {
        self.caught(|| {
            let held = self.ids()?;
            let wanted = held.iter().zip(0..).filter(|(id, _)| ids.contains(id));
            self.read_places(&wanted.map(|(_, place)| place).collect::<Vec<_>>())
        })
    }

    /// Rows of the whole file.
    pub fn num_rows(&self) -> u64 {
        let groups = self.metadata.metadata().row_groups();
        groups.iter().map(|group| group.num_rows().max(0) as u64).sum()
    }

    /// The sample of each row.
    fn ids(&self) -> Result<Vec<u64>, DataError> {
        let builder = self.reader()?;
        let mask = ProjectionMask::columns(builder.parquet_schema(), ["id"]);
        let reader = builder.with_projection(mask).build().map_err(self.wrap())?;
        let mut ids = Vec::new();
        for batch in reader {
            let batch = batch.map_err(|error| self.wrap()(error.into()))?;
            ids.extend(batch.column(0).as_primitive::<UInt64Type>().values());
        }
        Ok(ids)
    }

    fn read_places(&self, places: &[u64]) -> Result<Vec<FeatureRow>, DataError> {
        let reader = self
            .reader()?
            .with_row_selection(RowSelection::from(selection(places)))
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(self.wrap())?;
        let mut rows = Vec::with_capacity(places.len());
        for batch in reader {
            let batch = batch.map_err(|error| self.wrap()(error.into()))?;
            for index in 0..batch.num_rows() {
                let place = places.get(rows.len()).copied().unwrap_or_default();
                rows.push(self.row(&batch, index, place)?);
            }
        }
        if rows.len() == places.len() {
            return Ok(rows);
        }
        Err(self.damaged(&format!("gave {} of {} rows", rows.len(), places.len())))
    }

    fn row(&self, batch: &RecordBatch, index: usize, place: u64) -> Result<FeatureRow, DataError> {
        let count = |column: usize| batch.column(column).as_primitive::<UInt32Type>().value(index);
        let prompt = |encoder: usize| {
            let first = FIRST_ENCODER + 6 * encoder;
            let ids = batch.column(first).as_list::<i32>().value(index);
            PromptFeatures {
                ids: ids.as_primitive::<UInt32Type>().values().to_vec(),
                shared: count(first + 1),
                caption: count(first + 2)..count(first + 3),
                num_cut: count(first + 4),
                states: batch.column(first + 5).as_binary::<i32>().value(index).to_vec(),
            }
        };
        let latents = StoredLatents {
            height: count(3),
            width: count(4),
            values: batch.column(5).as_binary::<i32>().value(index).to_vec(),
        };
        let row = FeatureRow {
            id: batch.column(0).as_primitive::<UInt64Type>().value(index),
            caption: batch.column(1).as_string::<i32>().value(index).to_owned(),
            prompts: (0..self.num_encoders).map(prompt).collect(),
            latents: (!latents.values.is_empty()).then_some(latents),
        };
        let (found, stored) = (row.checksum(), count(2));
        if found == stored {
            return Ok(row);
        }
        Err(self.damaged(&format!(
            "row {place} has checksum {found:08x}, the file says {stored:08x}"
        )))
    }

    fn reader(&self) -> Result<ParquetRecordBatchReaderBuilder<File>, DataError> {
        let file = File::open(&self.path).map_err(DataError::io(&self.path))?;
        Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(
            file,
            self.metadata.clone(),
        ))
    }

    fn check_version(&self) -> Result<(), DataError> {
        let pairs = self.metadata.metadata().file_metadata().key_value_metadata();
        let version = pairs.and_then(|pairs| pairs.iter().find(|pair| pair.key == VERSION_KEY));
        let version = version.and_then(|pair| pair.value.as_deref());
        if version == Some(FORMAT_VERSION) {
            return Ok(());
        }
        Err(DataError::Features {
            path: self.path.clone(),
            problem: format!(
                "{VERSION_KEY} is {}, this program reads {FORMAT_VERSION}",
                version.unwrap_or("missing")
            ),
        })
    }

    fn check_columns(&self) -> Result<(), DataError> {
        let outline = |field: &Arc<Field>| (field.name().clone(), kind(field.data_type()));
        let found: Vec<_> = self.metadata.schema().fields().iter().map(outline).collect();
        let expected: Vec<_> = schema(self.num_encoders).fields().iter().map(outline).collect();
        let nulls = self.metadata.schema().fields().iter().any(|field| field.is_nullable());
        if found == expected && !nulls {
            return Ok(());
        }
        Err(DataError::Features {
            path: self.path.clone(),
            problem: format!(
                "its columns are not those of features of {} language models",
                self.num_encoders
            ),
        })
    }

    /// The Parquet reader panics on some damaged pages; to us that is one more error of the file.
    fn caught<T>(&self, read: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
        outcome.unwrap_or_else(|_| Err(self.damaged("a page can't be decoded")))
    }

    fn damaged(&self, what: &str) -> DataError {
        DataError::Features {
            path: self.path.clone(),
            problem: format!("{what}: it is damaged, run the same lidit cache again"),
        }
    }

    fn wrap(&self) -> impl FnOnce(parquet::errors::ParquetError) -> DataError {
        DataError::parquet(&self.path)
    }
}

fn schema(num_encoders: usize) -> Schema {
    let mut fields = vec![
        Field::new("id", DataType::UInt64, false),
        Field::new("caption", DataType::Utf8, false),
        Field::new("checksum", DataType::UInt32, false),
        Field::new("latents_height", DataType::UInt32, false),
        Field::new("latents_width", DataType::UInt32, false),
        Field::new("latents", DataType::LargeBinary, false),
    ];
    for encoder in 0..num_encoders {
        let field = |name: &str, kind| Field::new(format!("llm{encoder}_{name}"), kind, false);
        let token = Field::new("item", DataType::UInt32, false);
        fields.extend([
            field("ids", DataType::List(Arc::new(token))),
            field("shared", DataType::UInt32),
            field("caption_start", DataType::UInt32),
            field("caption_end", DataType::UInt32),
            field("num_cut", DataType::UInt32),
            field("states", DataType::LargeBinary),
        ]);
    }
    Schema::new(fields)
}

/// A type without what is lost on the way through Parquet.
fn kind(kind: &DataType) -> String {
    match kind {
        DataType::LargeBinary => DataType::Binary.to_string(),
        DataType::List(item) => format!("list of {}", item.data_type()),
        other => other.to_string(),
    }
}

fn columns(rows: &[FeatureRow], num_encoders: usize) -> Vec<ArrayRef> {
    // A row without latents has a grid of nothing.
    let side = |get: fn(&StoredLatents) -> u32| -> ArrayRef {
        let sides = rows.iter().map(|row| Some(row.latents.as_ref().map_or(0, get)));
        Arc::new(sides.collect::<UInt32Array>())
    };
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(row.id)).collect::<UInt64Array>()),
        Arc::new(
            rows.iter()
                .map(|row| Some(row.caption.as_str()))
                .collect::<StringArray>(),
        ),
        Arc::new(rows.iter().map(|row| Some(row.checksum())).collect::<UInt32Array>()),
        side(|latents| latents.height),
        side(|latents| latents.width),
        Arc::new(
            rows.iter()
                .map(|row| Some(row.latents.as_ref().map_or(&[][..], |latents| &latents.values)))
                .collect::<LargeBinaryArray>(),
        ),
    ];
    for encoder in 0..num_encoders {
        let prompts = || rows.iter().map(|row| &row.prompts[encoder]);
        let count = |get: fn(&PromptFeatures) -> u32| -> ArrayRef {
            Arc::new(prompts().map(|prompt| Some(get(prompt))).collect::<UInt32Array>())
        };
        let token = Field::new("item", DataType::UInt32, false);
        let mut ids = ListBuilder::new(UInt32Builder::new()).with_field(token);
        for prompt in prompts() {
            ids.values().append_slice(&prompt.ids);
            ids.append(true);
        }
        let states: LargeBinaryArray = prompts().map(|prompt| Some(prompt.states.as_slice())).collect();
        columns.extend([
            Arc::new(ids.finish()) as ArrayRef,
            count(|prompt| prompt.shared),
            count(|prompt| prompt.caption.start),
            count(|prompt| prompt.caption.end),
            count(|prompt| prompt.num_cut),
            Arc::new(states),
        ]);
    }
    columns
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;
    use crate::feature_row::tests::example;

    fn rows() -> Vec<FeatureRow> {
        let captions = ["a cat", "", "ein Hund", "a longer caption than the others"];
        let ids = [3, 3, 9, 12];
        ids.into_iter()
            .zip(captions)
            .map(|(id, text)| example(id, text, 2))
            .collect()
    }

    fn error(path: &Path, num_encoders: usize) -> String {
        let read = FeatureFile::open(path, num_encoders).and_then(|file| file.read());
        read.unwrap_err().to_string()
    }

    #[test]
    fn rows_come_back_all_or_by_sample_and_the_same_rows_are_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        for path in [&a, &b] {
            FeatureFile::write(path, &rows(), 2).unwrap();
        }
        assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap());
        let file = FeatureFile::open(&a, 2).unwrap();
        assert_eq!(file.read().unwrap(), rows());
        assert_eq!(
            file.read_samples(&[12, 3, 5]).unwrap(),
            [&rows()[..2], &rows()[3..]].concat()
        );
        assert_eq!(file.read_samples(&[4]).unwrap(), []);
    }

    #[test]
    fn no_rows_are_a_file_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        FeatureFile::write(&path, &[], 1).unwrap();
        assert_eq!(FeatureFile::open(&path, 1).unwrap().read().unwrap(), []);
    }

    #[test]
    fn any_flipped_byte_is_noticed_or_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        FeatureFile::write(&path, &rows(), 2).unwrap();
        let good = fs::read(&path).unwrap();
        let mut noticed = 0;
        for at in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&path, bad).unwrap();
            match FeatureFile::open(&path, 2).and_then(|file| file.read()) {
                Ok(read) => assert_eq!(read, rows(), "byte {at}"),
                Err(_) => noticed += 1,
            }
        }
        assert!(
            noticed > good.len() / 7 / 4,
            "only {noticed} flips of {} were noticed",
            good.len() / 7
        );
    }

    #[test]
    fn a_damaged_row_and_other_columns_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        FeatureFile::write(&path, &rows(), 2).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(8).position(|window| window == b"ein Hund").unwrap();
        bytes[at] = b'E';
        fs::write(&path, bytes).unwrap();
        let message = error(&path, 2);
        assert!(
            message.contains("row 2 has checksum") && message.contains("lidit cache"),
            "{message}"
        );
        assert!(error(&path, 3).contains("features of 3 language models"));
    }
}
