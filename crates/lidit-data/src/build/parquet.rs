//! Parquet shards of any kind that is read, as input: cut anew, with page indices and buckets.

use std::path::PathBuf;

use arrow::datatypes::DataType;
use serde::Serialize;

use super::item::{Bad, Item, Row, Survey};
use crate::block::Columns;
use crate::error::DataError;
use crate::shard::{Shard, type_name};
use crate::shard_file::CaptionColumn;
use crate::shard_set::ShardSet;

/// Parquet shards: a file, a folder, a glob or a manifest, read as training reads them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParquetSource {
    /// The file, folder, glob or manifest.
    #[serde(skip)]
    pub path: PathBuf,
    /// Column of pictures.
    pub image_column: String,
    /// Column of captions: strings, or lists of alternatives.
    pub caption_column: String,
    /// Column of synthetic captions: kept as a column of its own.
    pub synthetic_column: Option<String>,
}

/// The column that identifies a row, where there is one.
const KEY_COLUMN: &str = "key";

pub(super) struct Shards<'a> {
    source: &'a ParquetSource,
    set: ShardSet,
}

impl<'a> Shards<'a> {
    pub fn open(source: &'a ParquetSource) -> Result<Self, DataError> {
        let set = ShardSet::open(&source.path)?;
        for shard in &set.shards {
            shard.check_image_column(&source.image_column)?;
            for column in [Some(&source.caption_column), source.synthetic_column.as_ref()] {
                column.map_or(Ok(()), |column| shard.check_caption_column(column))?;
            }
        }
        Ok(Self { source, set })
    }

    pub fn survey(&self) -> Result<Survey, DataError> {
        let caption = |kind: &str| {
            let mut fields = self.set.shards.iter().flat_map(Shard::fields);
            let is_kind = |found: &DataType| type_name(found).starts_with(kind);
            fields.any(|field| *field.name() == self.source.caption_column && is_kind(field.data_type()))
        };
        let rows = self.set.rows();
        if rows == 0 {
            return Err(DataError::BuildInput {
                path: self.source.path.clone(),
                problem: "holds no rows".to_owned(),
            });
        }
        Ok(Survey {
            rows,
            captions: if caption("list") {
                CaptionColumn::Alternatives
            } else {
                CaptionColumn::One
            },
            digest: self.set.digest(),
        })
    }

    pub fn read(
        &self,
        wanted: &dyn Fn(u64) -> bool,
        each: &mut dyn FnMut(u64, Row) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        for block in &self.set.blocks {
            let ids: Vec<u64> = block.ids.clone().filter(|id| wanted(*id)).collect();
            if !ids.is_empty() {
                self.block(&self.set.shards[block.shard], &ids, each)?;
            }
        }
        Ok(())
    }

    // Texts of a block are few bytes and read first; its pictures pass by one after the other.
    fn block(
        &self,
        shard: &Shard,
        ids: &[u64],
        each: &mut dyn FnMut(u64, Row) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let has_keys = shard.check_caption_column(KEY_COLUMN).is_ok();
        let keys = self.texts(has_keys.then_some(KEY_COLUMN), ids)?;
        let synthetic = self.texts(self.source.synthetic_column.as_deref(), ids)?;
        let mut texts = keys.into_iter().zip(synthetic);
        let columns = Columns {
            image: Some(&self.source.image_column),
            caption: Some(&self.source.caption_column),
            synthetic: None,
        };
        let mut outcome = Ok(());
        self.set.read(ids, columns, |id, row| {
            if outcome.is_err() {
                return;
            }
            let (path, number) = self.set.place(id);
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let place = format!("{file} row {number}");
            let (key, synthetic) = texts.next().unwrap_or_default();
            let row = match (row.image, row.captions) {
                (_, captions) if captions.is_empty() => Err("its caption is null"),
                (None, _) => Err("its picture is null"),
                (Some(image), captions) => Ok((image, captions)),
            };
            let row = match row {
                Ok((image, captions)) => Ok(Item {
                    key: key.unwrap_or_else(|| format!("{file}#{number}")),
                    image: image.into(),
                    captions,
                    synthetic,
                    place,
                }),
                Err(reason) => Err(Bad {
                    place,
                    reason: reason.to_owned(),
                }),
            };
            outcome = each(id, row);
        })?;
        outcome
    }

    // One text a row, of a column of strings; none anywhere without a column.
    fn texts(&self, column: Option<&str>, ids: &[u64]) -> Result<Vec<Option<String>>, DataError> {
        let Some(column) = column else {
            return Ok(vec![None; ids.len()]);
        };
        let columns = Columns {
            caption: Some(column),
            ..Columns::default()
        };
        let mut texts = Vec::with_capacity(ids.len());
        self.set
            .read(ids, columns, |_, row| texts.push(row.captions.into_iter().next()))?;
        Ok(texts)
    }
}
