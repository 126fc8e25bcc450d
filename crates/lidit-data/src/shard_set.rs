//! All shards of a dataset: which row lies where, and reading rows by id.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use sha2::{Digest, Sha256};

use crate::block::{Block, BlockReader, Columns, RawRow};
use crate::bucket::{Bucket, BucketGrid};
use crate::error::DataError;
use crate::footer::{Footer, FooterCache};
use crate::location::is_remote;
use crate::manifest::{Manifest, hex};
use crate::shard::Shard;
use crate::source::Source;
use crate::storage::Storage;

// Footers read before any of them is taken over: their outlines enter the digest in order and are then dropped.
const SHARDS_AT_ONCE: usize = 256;

// Footers of remote shards waited for at once.
const REMOTE_FOOTERS: usize = 32;

/// The shards behind a path, in reading order, with their blocks. Ids count rows over all shards from 0.
pub(crate) struct ShardSet {
    pub shards: Vec<Shard>,
    /// Ascending, without gaps.
    pub blocks: Vec<Block>,
    pub manifest: Option<Manifest>,
    digest: String,
    storage: Storage,
    footers: FooterCache,
}

impl ShardSet {
    /// Reads every footer and holds it against the manifest, where there is one.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::open_in(path, Storage::new())
    }

    pub(crate) fn open_in(path: &Path, storage: Storage) -> Result<Self, DataError> {
        let Source { files, manifest } = Source::find(path, &storage)?;
        let mut set = Self {
            shards: Vec::with_capacity(files.len()),
            blocks: Vec::new(),
            digest: String::new(),
            manifest,
            storage,
            footers: FooterCache::default(),
        };
        let mut hasher = Sha256::new();
        // Waiting for a server takes no core, reading a local footer takes little else.
        let waiting = files
            .first()
            .filter(|file| is_remote(file))
            .map(|_| threads(REMOTE_FOOTERS));
        let waiting = waiting.transpose()?;
        for (round, files) in files.chunks(SHARDS_AT_ONCE).enumerate() {
            let open = |(index, file): (usize, &PathBuf)| {
                let footer = Footer::load(&storage, file)?;
                let opened = Opened::new(file, &footer);
                set.footers.put(round * SHARDS_AT_ONCE + index, footer);
                Ok(opened)
            };
            let read = || files.par_iter().enumerate().map(open).collect::<Result<Vec<_>, _>>();
            let opened = waiting.as_ref().map_or_else(read, |pool| pool.install(read))?;
            for opened in opened {
                hasher.update(&opened.outline);
                set.push(opened)?;
            }
        }
        set.shards.shrink_to_fit();
        set.blocks.shrink_to_fit();
        // The manifest's digest is that of the content, wherever it lies and however it is laid out.
        set.digest = set
            .manifest
            .as_ref()
            .map_or_else(|| hex(&hasher.finalize()), Manifest::digest);
        Ok(set)
    }

    fn push(&mut self, opened: Opened) -> Result<(), DataError> {
        let Opened { mut shard, starts, .. } = opened;
        let number = self.shards.len();
        self.check_entry(&shard)?;
        shard.first_id = self.rows();
        if let Some(last) = self.shards.last() {
            shard.share_types(last);
        }
        let ends = starts.iter().skip(1).copied().chain([shard.rows()]);
        let blocks = starts.iter().zip(ends).map(|(start, end)| Block {
            shard: number,
            ids: shard.first_id + start..shard.first_id.saturating_add(end),
        });
        self.blocks.extend(blocks);
        self.shards.push(shard);
        Ok(())
    }

    fn check_entry(&self, shard: &Shard) -> Result<(), DataError> {
        let entries = self.manifest.as_ref().map(|manifest| &manifest.shards);
        let Some(entry) = entries.and_then(|entries| entries.get(self.shards.len())) else {
            return Ok(());
        };
        let pairs = [("bytes", entry.bytes, shard.bytes), ("rows", entry.rows, shard.rows())];
        match pairs.into_iter().find(|(_, expected, found)| expected != found) {
            None => Ok(()),
            Some((what, expected, found)) => Err(DataError::ShardChanged {
                path: shard.path.clone(),
                what,
                expected,
                found,
            }),
        }
    }

    /// Rows of all shards.
    pub fn rows(&self) -> u64 {
        self.blocks.last().map_or(0, |block| block.ids.end)
    }

    /// The manifest's digest, or one over sizes and layout of the shards.
    pub fn digest(&self) -> String {
        self.digest.clone()
    }

    /// The bucket of a shard's rows, with the grid that it is of, in a set that is sorted by buckets.
    pub fn bucket(&self, shard: usize) -> Option<(BucketGrid, Bucket)> {
        let manifest = self.manifest.as_ref()?;
        manifest.buckets.zip(manifest.shards[shard].bucket)
    }

    /// Reads rows by id and hands each on once, ids ascending: a block is met once, however the ids are ordered.
    pub fn read(&self, ids: &[u64], columns: Columns, mut each: impl FnMut(u64, RawRow)) -> Result<(), DataError> {
        let mut by_block: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
        for id in ids {
            by_block.entry(self.block_of(*id)).or_default().insert(*id);
        }
        for (block, ids) in by_block {
            let start = self.blocks[block].ids.start;
            let places: Vec<u64> = ids.iter().map(|id| id - start).collect();
            self.read_block(block, &places, columns, &mut each)?;
        }
        Ok(())
    }

    /// Reads rows of one block by their places in it (from 0, ascending, no repeats) and hands each on with its id.
    pub fn read_block(
        &self,
        block: usize,
        places: &[u64],
        columns: Columns,
        mut each: impl FnMut(u64, RawRow),
    ) -> Result<(), DataError> {
        let Block { shard: number, ids } = &self.blocks[block];
        let shard = &self.shards[*number];
        let footer = self.footers.get(*number, || self.footer_again(shard))?;
        let first_row = ids.start - shard.first_id;
        let (group, group_start) = shard.group_of(first_row);
        let in_group: Vec<u64> = places.iter().map(|place| first_row - group_start + place).collect();
        let reader = BlockReader {
            storage: &self.storage,
            path: &shard.path,
            footer: &footer,
            group,
            columns,
        };
        let mut places = places.iter();
        reader.read(&in_group, |row| {
            if let Some(place) = places.next() {
                each(ids.start + place, row);
            }
        })
    }

    // Of a file that must be the same as when the set was opened.
    fn footer_again(&self, shard: &Shard) -> Result<Footer, DataError> {
        let footer = Footer::load(&self.storage, &shard.path)?;
        if footer.bytes == shard.bytes {
            return Ok(footer);
        }
        Err(DataError::Changed {
            path: shard.path.clone(),
            expected: shard.bytes,
            found: footer.bytes,
        })
    }

    /// The shard of a row and its number there, from 0.
    pub fn place(&self, id: u64) -> (PathBuf, u64) {
        let shard = &self.shards[self.blocks[self.block_of(id)].shard];
        (shard.path.clone(), id - shard.first_id)
    }

    /// The block that holds a row, which is one of the set's.
    pub fn block_of(&self, id: u64) -> usize {
        self.blocks.partition_point(|block| block.ids.end <= id)
    }
}

fn threads(count: usize) -> Result<ThreadPool, DataError> {
    let pool = ThreadPoolBuilder::new().num_threads(count).build();
    pool.map_err(|error| DataError::Threads {
        reason: error.to_string(),
    })
}

// A shard whose footer was just read, and what of it the set needs once.
struct Opened {
    shard: Shard,
    /// Where its blocks start, by rows in the shard.
    starts: Vec<u64>,
    outline: String,
}

impl Opened {
    fn new(path: &Path, footer: &Footer) -> Self {
        let shard = Shard::new(path, footer);
        let groups = 0..shard.num_groups();
        let starts = groups.flat_map(|group| {
            let start = shard.group_start(group);
            footer.block_starts(group).into_iter().map(move |row| start + row)
        });
        Self {
            starts: starts.collect(),
            outline: footer.outline(),
            shard,
        }
    }
}

#[cfg(test)]
mod tests;
