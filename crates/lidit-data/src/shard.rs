//! One Parquet file of a set: what of its footer stays in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};

use crate::error::DataError;
use crate::footer::Footer;

pub(crate) const IMAGE_KEY: &str = "data.image_column";
pub(crate) const CAPTION_KEY: &str = "data.caption_column";

/// A Parquet file whose footer was read: its size, its types and the rows of its row groups. About 150 bytes, 8 more a
/// row group.
#[derive(Clone)]
pub(crate) struct Shard {
    pub path: PathBuf,
    pub bytes: u64,
    /// Id of its first row in the whole dataset.
    pub first_id: u64,
    schema: SchemaRef,
    /// Rows up to the end of each row group.
    group_ends: Box<[u64]>,
}

impl Shard {
    /// What a footer says. The ids of its rows start at 0.
    pub fn new(path: &Path, footer: &Footer) -> Self {
        let groups = footer.metadata.metadata().row_groups().iter();
        let ends = groups.scan(0, |end, group| {
            *end += group.num_rows() as u64;
            Some(*end)
        });
        Self {
            path: path.to_owned(),
            bytes: footer.bytes,
            first_id: 0,
            schema: footer.metadata.schema().clone(),
            group_ends: ends.collect(),
        }
    }

    /// Rows of the whole file.
    pub fn rows(&self) -> u64 {
        self.group_ends.last().copied().unwrap_or_default()
    }

    /// Number of row groups, empty ones too.
    pub fn num_groups(&self) -> usize {
        self.group_ends.len()
    }

    /// The row group that holds a row of the file, and the group's first row.
    pub fn group_of(&self, row: u64) -> (usize, u64) {
        let group = self.group_ends.partition_point(|end| *end <= row);
        (group, self.group_start(group))
    }

    /// The first row of a row group.
    pub fn group_start(&self, group: usize) -> u64 {
        group.checked_sub(1).map_or(0, |before| self.group_ends[before])
    }

    /// Columns with their types.
    pub fn fields(&self) -> impl Iterator<Item = &Arc<Field>> {
        self.schema.fields().iter()
    }

    /// Takes over another shard's types where they are the same: thousands of shards then hold them once.
    pub fn share_types(&mut self, other: &Self) {
        if self.schema == other.schema {
            self.schema = other.schema.clone();
        }
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
        self.check_captions(CAPTION_KEY, column)
    }

    /// Refuses a missing column or one that holds no captions, for the key that names it.
    pub fn check_captions(&self, key: &'static str, column: &str) -> Result<(), DataError> {
        let holds = |kind: &DataType| match kind {
            DataType::Utf8 => true,
            DataType::List(item) => *item.data_type() == DataType::Utf8,
            _ => false,
        };
        let expected = "string, large_string or a list of strings";
        self.check_column(key, column, expected, holds)
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
