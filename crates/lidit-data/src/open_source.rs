//! One of a dataset's sources, opened for reading.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::block::Columns;
use crate::captions::Captions;
use crate::config::SourceColumns;
use crate::error::DataError;
use crate::shard_set::ShardSet;

/// A source's shards and columns; its ids go on from the source before.
pub(crate) struct OpenSource {
    pub set: ShardSet,
    pub columns: SourceColumns,
    /// The id of its first row in the whole dataset.
    pub first_id: u64,
}

/// A row as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// The encoded picture; none where null.
    pub image: Option<Bytes>,
    /// What it may be called.
    pub captions: Captions,
}

/// What of a row is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Captions and picture.
    All,
    /// Captions alone.
    Captions,
}

impl OpenSource {
    /// Reads the manifest, where there is one, and every footer; refuses missing columns and ones of other types.
    pub fn open(path: &Path, columns: SourceColumns, first_id: u64) -> Result<Self, DataError> {
        let set = ShardSet::open(path)?;
        for shard in &set.shards {
            shard.check_image_column(&columns.image)?;
            shard.check_caption_column(&columns.caption)?;
            if let Some(synthetic) = &columns.synthetic {
                shard.check_caption_column(&synthetic.column)?;
            }
        }
        if set.rows() == 0 {
            return Err(DataError::NoRows { path: path.to_owned() });
        }
        Ok(Self { set, columns, first_id })
    }

    /// Reads rows by id (of the whole dataset) and hands each on once, ids ascending.
    pub fn read(&self, ids: &[u64], wanted: Wanted, mut each: impl FnMut(u64, Row)) -> Result<(), DataError> {
        let own: Vec<u64> = ids.iter().map(|id| id - self.first_id).collect();
        self.set.read(&own, self.selected(wanted), |id, raw| {
            let captions = Captions {
                original: raw.captions,
                synthetic: raw.synthetic,
                synthetic_share: self.columns.synthetic.as_ref().map_or(0.0, |own| own.share),
            };
            let row = Row {
                image: raw.image,
                captions,
            };
            each(self.first_id + id, row);
        })
    }

    /// The ids behind the source's last row.
    pub fn end(&self) -> u64 {
        self.first_id + self.set.rows()
    }

    /// The shard of a row and its number there, from 0.
    pub fn place(&self, id: u64) -> (PathBuf, u64) {
        self.set.place(id - self.first_id)
    }

    fn selected(&self, wanted: Wanted) -> Columns<'_> {
        Columns {
            image: (wanted == Wanted::All).then_some(&*self.columns.image),
            caption: Some(&self.columns.caption),
            synthetic: self.columns.synthetic.as_ref().map(|own| &*own.column),
        }
    }
}
