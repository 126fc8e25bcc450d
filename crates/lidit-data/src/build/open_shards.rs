//! The shards that are being written: one, or one a bucket.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::ShardSize;
use super::positions::Positions;
use crate::bucket::Bucket;
use crate::error::DataError;
use crate::manifest::ManifestShard;
use crate::shard_file::{Layout, ShardFile, ShardRow};

/// One shard in the making for every bucket that has rows, or one in all.
pub(super) struct OpenShards {
    folder: PathBuf,
    layout: Layout,
    size: ShardSize,
    // Finished shards of each bucket: the next one's number.
    finished: BTreeMap<Option<Bucket>, usize>,
    open: BTreeMap<Option<Bucket>, Open>,
}

struct Open {
    file: ShardFile,
    positions: Positions,
}

impl OpenShards {
    /// Goes on after the finished shards of an earlier attempt.
    pub fn new(folder: PathBuf, layout: Layout, size: ShardSize, finished: &[ManifestShard]) -> Self {
        let mut numbers = BTreeMap::new();
        for shard in finished {
            *numbers.entry(shard.bucket).or_default() += 1;
        }
        Self {
            folder,
            layout,
            size,
            finished: numbers,
            open: BTreeMap::new(),
        }
    }

    /// Adds a row, and returns the shard that was full without it.
    pub fn push(
        &mut self,
        position: u64,
        bucket: Option<Bucket>,
        row: ShardRow,
    ) -> Result<Option<ManifestShard>, DataError> {
        let is_full = self.open.get(&bucket).is_some_and(|open| match self.size {
            ShardSize::Rows(rows) => open.file.rows >= rows,
            ShardSize::Bytes(bytes) => open.file.bytes + row.bytes() > bytes,
        });
        let full = if is_full { self.finish(bucket)? } else { None };
        let open = match self.open.remove(&bucket) {
            Some(open) => open,
            None => Open {
                file: ShardFile::create(&self.folder, self.name(bucket), self.layout)?,
                positions: Positions::default(),
            },
        };
        let open = self.open.entry(bucket).or_insert(open);
        open.positions.push(position);
        open.file.push(row)?;
        Ok(full)
    }

    /// Finishes one shard that is still open; none when all are finished.
    pub fn finish_next(&mut self) -> Result<Option<ManifestShard>, DataError> {
        let next = self.open.keys().next().copied();
        next.map_or(Ok(None), |bucket| self.finish(bucket))
    }

    /// Rows of the input that are in shards which are not finished.
    pub fn pending(&self) -> Positions {
        Positions::union(self.open.values().map(|open| &open.positions))
    }

    fn finish(&mut self, bucket: Option<Bucket>) -> Result<Option<ManifestShard>, DataError> {
        let Some(open) = self.open.remove(&bucket) else {
            return Ok(None);
        };
        *self.finished.entry(bucket).or_default() += 1;
        open.file.finish(bucket).map(Some)
    }

    fn name(&self, bucket: Option<Bucket>) -> String {
        let number = self.finished.get(&bucket).copied().unwrap_or_default();
        match bucket {
            Some(Bucket { width, height }) => format!("{width}x{height}-{number:05}.parquet"),
            None => format!("shard-{number:05}.parquet"),
        }
    }
}
