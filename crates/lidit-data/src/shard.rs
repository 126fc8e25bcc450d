//! One Parquet file: its footer, checked against what the run needs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::PageIndexPolicy;

use crate::error::DataError;

pub(crate) const IMAGE_KEY: &str = "data.image_column";
pub(crate) const CAPTION_KEY: &str = "data.caption_column";

/// A Parquet file with its footer read: rows and row groups are known, nothing else is in memory.
#[derive(Clone)]
pub(crate) struct Shard {
    pub path: PathBuf,
    pub bytes: u64,
    metadata: ArrowReaderMetadata,
}

impl Shard {
    /// Reads the footer.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io(path))?;
        let bytes = file.metadata().map_err(DataError::io(path))?.len();
        // Types come from Parquet alone: large and dictionary variants, which differ only in memory, become plain ones.
        let options = ArrowReaderOptions::new()
            .with_skip_arrow_metadata(true)
            .with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load(&file, options).map_err(DataError::parquet(path))?;
        Ok(Self {
            path: path.to_owned(),
            bytes,
            metadata,
        })
    }

    /// Rows of the whole file.
    pub fn rows(&self) -> u64 {
        self.group_rows().sum()
    }

    /// Rows of each row group.
    pub fn group_rows(&self) -> impl Iterator<Item = u64> + '_ {
        let groups = self.metadata.metadata().row_groups();
        groups.iter().map(|group| group.num_rows().max(0) as u64)
    }

    /// Columns with their types.
    pub fn fields(&self) -> impl Iterator<Item = &Arc<Field>> {
        self.metadata.schema().fields().iter()
    }

    /// What identifies the file's content without reading it: its size and the places of all its column chunks.
    pub fn outline(&self) -> String {
        let mut lines = vec![self.bytes.to_string()];
        for group in self.metadata.metadata().row_groups() {
            for column in group.columns() {
                let (start, len) = column.byte_range();
                lines.push(format!("{} {start} {len} {}", column.column_path(), group.num_rows()));
            }
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// A reader over the file that knows the footer already.
    pub fn reader(&self) -> Result<ParquetRecordBatchReaderBuilder<File>, DataError> {
        let file = File::open(&self.path).map_err(DataError::io(&self.path))?;
        Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(
            file,
            self.metadata.clone(),
        ))
    }

    /// Refuses a missing column or one that holds no pictures.
    pub fn check_image_column(&self, column: &str) -> Result<(), DataError> {
        let holds = |kind: &DataType| match kind {
            DataType::Binary => true,
            DataType::Struct(fields) => fields
                .iter()
                .any(|field| field.name() == "bytes" && *field.data_type() == DataType::Binary),
            _ => false,
        };
        let expected = "binary, large_binary or struct<bytes, ..>";
        self.check_column(IMAGE_KEY, column, expected, holds)
    }

    /// Refuses a missing column or one that holds no captions.
    pub fn check_caption_column(&self, column: &str) -> Result<(), DataError> {
        let holds = |kind: &DataType| match kind {
            DataType::Utf8 => true,
            DataType::List(item) => *item.data_type() == DataType::Utf8,
            _ => false,
        };
        let expected = "string, large_string or a list of strings";
        self.check_column(CAPTION_KEY, column, expected, holds)
    }

    fn check_column(
        &self,
        key: &'static str,
        column: &str,
        expected: &'static str,
        holds: impl Fn(&DataType) -> bool,
    ) -> Result<(), DataError> {
        let Some(field) = self.fields().find(|field| field.name() == column) else {
            let present: Vec<&str> = self.fields().map(|field| field.name().as_str()).collect();
            return Err(DataError::MissingColumn {
                path: self.path.clone(),
                key,
                column: column.to_owned(),
                present: present.join(", "),
            });
        };
        if holds(field.data_type()) {
            return Ok(());
        }
        Err(DataError::ColumnType {
            path: self.path.clone(),
            key,
            column: column.to_owned(),
            found: type_name(field.data_type()),
            expected,
        })
    }
}

/// A type as people write it: `binary`, `string`, `list<string>`, `struct<bytes, path>`.
pub(crate) fn type_name(kind: &DataType) -> String {
    match kind {
        DataType::Utf8 => "string".to_owned(),
        DataType::List(item) => format!("list<{}>", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            format!("struct<{}>", names.join(", "))
        }
        other => other.to_string().to_lowercase(),
    }
}
