//! All shards of a dataset: which row lies where, and reading rows by id.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::bucket::{Bucket, BucketGrid};
use crate::error::DataError;
use crate::manifest::{Manifest, hex};
use crate::row_group::{Columns, RawRow, RowGroup};
use crate::shard::Shard;
use crate::source::Source;

/// The shards behind a path, in reading order, with their row groups. Ids count rows over all shards from 0.
pub(crate) struct ShardSet {
    pub shards: Vec<Shard>,
    pub blocks: Vec<RowGroup>,
    pub manifest: Option<Manifest>,
}

impl ShardSet {
    /// Reads every footer and holds it against the manifest, where there is one.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let Source { files, manifest } = Source::find(path)?;
        let shards = files
            .iter()
            .map(|file| Shard::open(file))
            .collect::<Result<Vec<_>, _>>()?;
        let entries = manifest.iter().flat_map(|manifest| &manifest.shards);
        for (shard, entry) in shards.iter().zip(entries) {
            let pairs = [("bytes", entry.bytes, shard.bytes), ("rows", entry.rows, shard.rows())];
            if let Some((what, expected, found)) = pairs.into_iter().find(|(_, a, b)| a != b) {
                return Err(DataError::ShardChanged {
                    path: shard.path.clone(),
                    what,
                    expected,
                    found,
                });
            }
        }
        Ok(Self {
            blocks: row_groups(&shards),
            shards,
            manifest,
        })
    }

    /// Rows of all shards.
    pub fn rows(&self) -> u64 {
        self.blocks.last().map_or(0, |group| group.ids.end)
    }

    /// The manifest's digest, or one over sizes and layout of the shards.
    pub fn digest(&self) -> String {
        if let Some(manifest) = &self.manifest {
            return manifest.digest();
        }
        let mut hasher = Sha256::new();
        for shard in &self.shards {
            hasher.update(shard.outline());
        }
        hex(&hasher.finalize())
    }

    /// The bucket of a shard's rows, with the grid that it is of, in a set that is sorted by buckets.
    pub fn bucket(&self, shard: usize) -> Option<(BucketGrid, Bucket)> {
        let manifest = self.manifest.as_ref()?;
        manifest.buckets.zip(manifest.shards[shard].bucket)
    }

    /// Reads rows by id and hands each on once, ids ascending: a row group is met once, however the ids are ordered.
    pub fn read(&self, ids: &[u64], columns: Columns, mut each: impl FnMut(u64, RawRow)) -> Result<(), DataError> {
        let mut by_group: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
        for id in ids {
            by_group.entry(self.block_of(*id)).or_default().insert(*id);
        }
        for (number, ids) in by_group {
            let group = &self.blocks[number];
            let places: Vec<u64> = ids.iter().map(|id| id - group.ids.start).collect();
            let mut ids = ids.into_iter();
            group.read(&self.shards[group.shard], columns, &places, |row| {
                if let Some(id) = ids.next() {
                    each(id, row);
                }
            })?;
        }
        Ok(())
    }

    /// The shard of a row and its number there, from 0.
    pub fn place(&self, id: u64) -> (PathBuf, u64) {
        let group = &self.blocks[self.block_of(id)];
        let shard = self.shards[group.shard].path.clone();
        (shard, group.first_row + id - group.ids.start)
    }

    pub fn block_of(&self, id: u64) -> usize {
        self.blocks.partition_point(|group| group.ids.end <= id)
    }
}

// Every row group of every shard, with the ids of its rows; empty ones are left out.
fn row_groups(shards: &[Shard]) -> Vec<RowGroup> {
    let mut groups = Vec::new();
    let mut id = 0;
    for (index, shard) in shards.iter().enumerate() {
        let mut first_row = 0;
        for (number, rows) in shard.group_rows().enumerate() {
            if rows > 0 {
                groups.push(RowGroup {
                    shard: index,
                    number,
                    ids: id..id + rows,
                    first_row,
                });
            }
            id += rows;
            first_row += rows;
        }
    }
    groups
}
