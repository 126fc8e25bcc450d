//! Chosen rows of one row group, as they are stored.

use std::ops::Range;

use arrow::array::{Array, AsArray, BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use parquet::errors::ParquetError;

use crate::error::DataError;
use crate::shard::Shard;

// Rows decoded at a time: bounds memory, since only one such batch of pictures is held while rows are handed on.
const BATCH_ROWS: usize = 16;

/// A row as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawRow {
    /// The encoded picture; none where null.
    pub image: Option<Bytes>,
    /// The captions it may be shown with; none where null, all null, or an empty list.
    pub captions: Vec<String>,
    /// Those of the second caption column.
    pub synthetic: Vec<String>,
}

/// Which columns are read.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    /// The picture column; captions alone are read without it.
    pub image: Option<&'a str>,
    /// The caption column.
    pub caption: Option<&'a str>,
    /// A second caption column.
    pub synthetic: Option<&'a str>,
}

/// One row group of a shard: its number and its rows' numbers in the shard.
#[derive(Clone, Debug)]
pub(crate) struct RowGroup {
    pub shard: usize,
    pub number: usize,
    /// Ids of its rows in the whole dataset.
    pub ids: Range<u64>,
    /// Number of its first row in the shard.
    pub first_row: u64,
}

impl RowGroup {
    /// Reads the rows with the given places in the group (ascending, no repeats) and hands each on in that order.
    pub fn read(
        &self,
        shard: &Shard,
        columns: Columns,
        places: &[u64],
        mut each: impl FnMut(RawRow),
    ) -> Result<(), DataError> {
        let wrap = |error| DataError::parquet(&shard.path)(error);
        let builder = shard.reader()?;
        let names: Vec<&str> = columns
            .image
            .into_iter()
            .chain(columns.caption)
            .chain(columns.synthetic)
            .collect();
        let mask = ProjectionMask::columns(builder.parquet_schema(), names);
        let reader = builder
            .with_projection(mask)
            .with_row_groups(vec![self.number])
            .with_row_selection(RowSelection::from(selection(places)))
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(wrap)?;
        let mut rows = 0;
        for batch in reader {
            let batch = batch.map_err(|error| wrap(ParquetError::from(error)))?;
            rows += batch.num_rows();
            for row in 0..batch.num_rows() {
                each(RawRow {
                    image: columns.image.and_then(|column| image(&batch, column, row)),
                    captions: columns
                        .caption
                        .map_or_else(Vec::new, |column| captions(&batch, column, row)),
                    synthetic: columns
                        .synthetic
                        .map_or_else(Vec::new, |column| captions(&batch, column, row)),
                });
            }
        }
        if rows == places.len() {
            return Ok(());
        }
        let (wanted, number) = (places.len(), self.number);
        Err(wrap(ParquetError::General(format!(
            "row group {number} gave {rows} of {wanted} rows"
        ))))
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

// The types were checked when the shard was opened, so another type here means no value.
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
