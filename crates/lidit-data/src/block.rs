//! What is read at once: a run of rows of one row group.

use std::ops::Range;
use std::path::Path;

use arrow::array::{Array, AsArray, BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use bytes::Bytes;
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderBuilder, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::arrow::push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::schema::types::SchemaDescriptor;

use crate::error::DataError;
use crate::footer::{Footer, general, guarded};
use crate::page::check_pages;
use crate::storage::Storage;
use crate::streamed::Streamed;

// Rows decoded at a time: bounds memory, since only one such batch of pictures is held while rows are handed on.
const BATCH_ROWS: usize = 16;
// Column chunks without an offset index that are read as a whole, at most.
const LONG_BYTES: i64 = 32 << 20;

/// A run of rows that is read at once: 24 bytes, 240 MB for the ten million of a set of a billion rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Which shard.
    pub shard: usize,
    /// Ids of its rows in the whole dataset.
    pub ids: Range<u64>,
}

/// A row as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawRow {
    /// The encoded picture, in memory of its own; none where null.
    pub image: Option<Bytes>,
    /// The captions it may be shown with; none where null, all null, or an empty list.
    pub captions: Vec<String>,
    /// Captions of a second column, those of a model; likewise.
    pub synthetic: Vec<String>,
}

/// Which columns are read.
#[derive(Clone, Copy, Default)]
pub(crate) struct Columns<'a> {
    /// The picture column; captions alone are read without it.
    pub image: Option<&'a str>,
    /// The caption column.
    pub caption: Option<&'a str>,
    /// The column of model-written captions.
    pub synthetic: Option<&'a str>,
}

impl Columns<'_> {
    /// The leaves that are read. Of a picture with a path beside it, only the picture.
    fn mask(&self, schema: &SchemaDescriptor) -> ProjectionMask {
        let wanted = |path: &[String]| {
            let root = path.first().map(String::as_str);
            let is_picture = path.len() == 1 || path.get(1).is_some_and(|leaf| leaf == "bytes");
            root.is_some() && (root == self.caption || root == self.synthetic || (root == self.image && is_picture))
        };
        let leaves = (0..schema.num_columns()).filter(|leaf| wanted(schema.column(*leaf).path().parts()));
        ProjectionMask::leaves(schema, leaves)
    }
}

/// Some rows of a row group of an opened shard.
pub(crate) struct BlockReader<'a> {
    pub storage: &'a Storage,
    pub path: &'a Path,
    pub footer: &'a Footer,
    pub group: usize,
    pub columns: Columns<'a>,
}

impl BlockReader<'_> {
    /// Reads the rows with the given places in the row group (ascending, no repeats) and hands each on in that order.
    pub fn read(&self, places: &[u64], mut each: impl FnMut(RawRow)) -> Result<(), DataError> {
        if places.is_empty() {
            return Ok(());
        }
        if self.is_long() {
            return self.stream(places, each);
        }
        let mut decoder = guarded(|| self.decoder(places)).map_err(|error| self.wrap(&error))?;
        let mut rows = 0;
        let mut requests = 0;
        loop {
            match guarded(|| decoder.try_decode()).map_err(|error| self.wrap(&error))? {
                DecodeResult::NeedsData(ranges) => {
                    // All columns of a row group are asked for together; more than a few times would be a loop.
                    requests += 1;
                    if requests > 4 {
                        return Err(self.wrap(&general("its pages have no end")));
                    }
                    let data = self.storage.read_ranges(self.path, self.footer.bytes, &ranges)?;
                    self.check(&ranges, &data).map_err(|error| self.wrap(&error))?;
                    decoder.push_ranges(ranges, data).map_err(|error| self.wrap(&error))?;
                }
                DecodeResult::Data(batch) => {
                    rows += batch.num_rows();
                    if rows > places.len() {
                        break;
                    }
                    for row in 0..batch.num_rows() {
                        each(self.row(&batch, row));
                    }
                }
                DecodeResult::Finished => break,
            }
        }
        self.check_count(rows, places.len())
    }

    fn check_count(&self, rows: usize, wanted: usize) -> Result<(), DataError> {
        if rows == wanted {
            return Ok(());
        }
        Err(self.wrap(&general(&format!("gave {rows} of {wanted} rows"))))
    }

    /// As [`read`](Self::read), page by page from the row group's start: it never holds more than a few pages.
    fn stream(&self, places: &[u64], mut each: impl FnMut(RawRow)) -> Result<(), DataError> {
        let file = Streamed::new(*self.storage, self.path, self.footer.bytes);
        let open = || {
            let metadata = self.footer.metadata.clone();
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
            self.narrowed(builder, places).build()
        };
        let mut batches = guarded(open).map_err(|error| self.wrap(&error))?;
        let mut rows = 0;
        while let Some(batch) = guarded(|| Ok(batches.next().transpose()?)).map_err(|error| self.wrap(&error))? {
            rows += batch.num_rows();
            for row in 0..batch.num_rows().min(places.len()) {
                each(self.row(&batch, row));
            }
        }
        self.check_count(rows, places.len())
    }

    /// Whether the pages of wanted rows can't be told before reading, and all of them are too much to hold.
    fn is_long(&self) -> bool {
        let metadata = self.footer.metadata.metadata();
        let index = metadata.page_index_for_row_group(self.group);
        let mask = self.columns.mask(metadata.file_metadata().schema_descr());
        let chunks = metadata.row_group(self.group).columns().iter().enumerate();
        let unknown = chunks.filter(|(leaf, _)| mask.leaf_included(*leaf) && index.page_locations(*leaf).is_none());
        let bytes: i64 = unknown.map(|(_, chunk)| chunk.compressed_size()).sum();
        bytes > LONG_BYTES
    }

    fn decoder(&self, places: &[u64]) -> Result<ParquetPushDecoder, ParquetError> {
        let builder = ParquetPushDecoderBuilder::new_with_metadata(self.footer.metadata.clone());
        self.narrowed(builder, places).build()
    }

    fn narrowed<T>(&self, builder: ArrowReaderBuilder<T>, places: &[u64]) -> ArrowReaderBuilder<T> {
        let mask = self.columns.mask(builder.parquet_schema());
        builder
            .with_projection(mask)
            .with_row_groups(vec![self.group])
            .with_row_selection(RowSelection::from(selection(places)))
            .with_batch_size(BATCH_ROWS)
    }

    // A range is a run of pages of one column chunk.
    fn check(&self, ranges: &[Range<u64>], data: &[Bytes]) -> Result<(), ParquetError> {
        let group = self.footer.metadata.metadata().row_group(self.group);
        for (range, bytes) in ranges.iter().zip(data) {
            let holds = |chunk: &&ColumnChunkMetaData| {
                let (start, len) = chunk.byte_range();
                (start..start + len).contains(&range.start)
            };
            if let Some(chunk) = group.columns().iter().find(holds) {
                check_pages(bytes, chunk.uncompressed_size())?;
            }
        }
        Ok(())
    }

    fn row(&self, batch: &RecordBatch, row: usize) -> RawRow {
        let texts = |column: Option<&str>| column.map_or_else(Vec::new, |column| captions(batch, column, row));
        RawRow {
            image: self.columns.image.and_then(|column| image(batch, column, row)),
            captions: texts(self.columns.caption),
            synthetic: texts(self.columns.synthetic),
        }
    }

    fn wrap(&self, error: &ParquetError) -> DataError {
        DataError::parquet(self.path)(general(&format!("row group {}: {error}", self.group)))
    }
}

/// Takes the rows at `places` (ascending, no repeats) and skips the others.
pub(crate) fn selection(places: &[u64]) -> Vec<RowSelector> {
    let mut selectors: Vec<RowSelector> = Vec::new();
    let mut next = 0;
    for place in places {
        match selectors.last_mut() {
            Some(run) if *place == next => run.row_count += 1,
            _ => selectors.extend([RowSelector::skip((place - next) as usize), RowSelector::select(1)]),
        }
        next = place + 1;
    }
    selectors
}

// The types were checked when the shard was opened, so another type here means no value. The bytes are copied: a slice
// would keep the whole batch in memory.
fn image(batch: &RecordBatch, column: &str, row: usize) -> Option<Bytes> {
    let array = batch.column_by_name(column)?;
    let bytes: &BinaryArray = match array.data_type() {
        DataType::Struct(_) if array.is_null(row) => return None,
        DataType::Struct(_) => array.as_struct().column_by_name("bytes")?.as_binary_opt()?,
        _ => array.as_binary_opt()?,
    };
    bytes.is_valid(row).then(|| Bytes::copy_from_slice(bytes.value(row)))
}

fn captions(batch: &RecordBatch, column: &str, row: usize) -> Vec<String> {
    let Some(array) = batch.column_by_name(column).filter(|array| array.is_valid(row)) else {
        return Vec::new();
    };
    let texts = |strings: &StringArray| strings.iter().flatten().map(str::to_owned).collect();
    if let Some(list) = array.as_list_opt::<i32>() {
        return list.value(row).as_string_opt().map(texts).unwrap_or_default();
    }
    array
        .as_string_opt()
        .map(|strings| texts(&strings.slice(row, 1)))
        .unwrap_or_default()
}
