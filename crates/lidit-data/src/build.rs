//! From pictures with captions, as people keep them, to shards with a manifest.

mod file;
mod folder;
mod item;
mod list;
mod open_shards;
mod parquet;
mod picture;
mod positions;
mod skipped;
mod source;
mod tar;
#[cfg(test)]
mod tests;
mod work;

use std::path::Path;

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use serde::Serialize;
use sha2::{Digest, Sha256};

pub use self::folder::FolderSource;
pub use self::list::ListSource;
pub use self::parquet::ParquetSource;
pub use self::skipped::SkippedRow;
pub use self::source::{BuildSource, SourceKind};
pub use self::tar::TarSource;
pub use self::work::BuildStart;

use self::item::{Bad, Row};
use self::open_shards::OpenShards;
use self::picture::Picture;
use self::work::WorkFolder;
use crate::bucket::BucketGrid;
use crate::error::DataError;
use crate::manifest::{FORMAT_VERSION, Licence, Manifest, ManifestShard, hex};
use crate::shard_file::{Layout, MetadataColumn, ShardRow};
use crate::writer::GROUP_BYTES;

// Rows of a row group: reading of shuffled rows opens few of them at a time.
const GROUP_ROWS: usize = 1024;
// What all row groups in the making may hold together, and the least that each gets.
const OPEN_BYTES: u64 = 256 << 20;
const LEAST_GROUP_BYTES: u64 = 4 << 20;
// Rows whose pictures are looked at, or resized, by all cores at once.
const CHUNK_ROWS: usize = 64;
const CHUNK_BYTES: usize = 16 << 20;

/// What to build, and from what.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Build {
    /// What it is built from.
    pub source: BuildSource,
    /// The set's name, for its manifest.
    pub name: String,
    /// How the manifest says it was built: the command's words after `lidit`, without paths.
    pub recipe: String,
    /// Terms that the manifest states.
    pub licences: Vec<Licence>,
    /// Shrink pictures to a shorter side of so many pixels; without it, and of smaller pictures, every byte is kept.
    pub resize: Option<u32>,
    /// Group rows by the bucket of their shape: every shard is of one bucket.
    pub buckets: Option<BucketGrid>,
    /// Where shards are cut.
    pub shard_size: ShardSize,
    /// What a row that can't be used does. Not part of what the set is.
    #[serde(skip)]
    pub on_bad: OnBad,
}

/// Where shards are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardSize {
    /// Before the row with which pictures and texts would pass so many bytes.
    Bytes(u64),
    /// After so many rows.
    Rows(u64),
}

/// What a row that can't be used does to a build: no caption, no picture, a header that is no picture's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBad {
    /// It is left out and listed in `skipped.jsonl`.
    Skip,
    /// It ends the build with an error that names it.
    Stop,
}

/// How far a build is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildProgress {
    /// How it began.
    pub start: BuildStart,
    /// Rows of the input that are done, skipped ones too.
    pub rows: u64,
    /// Of those, the skipped ones.
    pub skipped: u64,
    /// Bytes of pictures and texts that this attempt has written.
    pub bytes: u64,
    /// Rows of the input.
    pub total: Option<u64>,
}

/// A finished set.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    /// What was written.
    pub manifest: Manifest,
    /// How the build began.
    pub start: BuildStart,
    /// Rows of the input that are not in the set.
    pub skipped: u64,
    /// The first ten of them; all are in `skipped.jsonl`.
    pub first_skipped: Vec<SkippedRow>,
}

/// Builds a set into `out`, which is new, empty, or holds nothing but an earlier set with its manifest.
///
/// The folder appears whole, at the end. The same input and request give the same bytes. A build that was killed goes
/// on after its last finished shard when it is asked for again; its shards wait in `.NAME.lidit-building` beside `out`.
/// Memory holds a row group a bucket (256 MiB in all, or 4 MiB a bucket) and never the whole input.
/// `progress` hears of the start, then of every row.
pub fn build(build: &Build, out: &Path, progress: impl FnMut(&BuildProgress)) -> Result<Built, DataError> {
    build.validate()?;
    let input = build.source.open()?;
    let survey = input.survey()?;
    let (work, start) = WorkFolder::open(out, build.identity(&survey.digest)?)?;
    let open_groups = build.buckets.map_or(1, |grid| grid.buckets().len() as u64);
    let layout = Layout {
        captions: survey.captions,
        synthetic: build.source.synthetic(),
        metadata: MetadataColumn::LeftOut,
        group_rows: GROUP_ROWS,
        group_bytes: (OPEN_BYTES / open_groups).clamp(LEAST_GROUP_BYTES, GROUP_BYTES),
    };
    let (next, pending) = (work.state.next, work.state.pending.clone());
    let mut running = Running {
        build,
        layout,
        shards: OpenShards::new(work.set(), layout, build.shard_size, &work.state.shards),
        work,
        met: next,
        chunk: Vec::new(),
        chunk_bytes: 0,
        told: BuildProgress {
            start,
            rows: next - pending.len(),
            skipped: 0,
            bytes: 0,
            total: Some(survey.rows),
        },
        progress,
    };
    running.tell();
    let wanted = |position| position >= next || pending.contains(position);
    input.read(&wanted, &mut |position, row| running.take(position, row))?;
    running.finish()
}

impl Build {
    fn validate(&self) -> Result<(), DataError> {
        let refuse = |key, problem: &str| {
            let problem = problem.to_owned();
            Err(DataError::Config { key, problem })
        };
        if let Some(grid) = &self.buckets {
            grid.validate()?;
        }
        match self.shard_size {
            ShardSize::Rows(0) => refuse("rows per shard", "is 0, must be at least 1"),
            ShardSize::Bytes(bytes) if bytes < 1 << 16 => {
                refuse("shard bytes", &format!("is {bytes}, must be at least 65536"))
            }
            _ if self.resize == Some(0) => refuse("size", "is 0, must be at least 1 pixel"),
            _ => Ok(()),
        }
    }

    fn identity(&self, input: &str) -> Result<String, DataError> {
        let request = serde_json::to_string(self).map_err(|error| DataError::io(self.source.path())(error.into()))?;
        Ok(hex(&Sha256::digest(format!("{request}\n{input}"))))
    }
}

struct Running<'a, P> {
    build: &'a Build,
    layout: Layout,
    work: WorkFolder,
    shards: OpenShards,
    // Rows of the input before this one have been met.
    met: u64,
    chunk: Vec<(u64, Row)>,
    chunk_bytes: usize,
    told: BuildProgress,
    progress: P,
}

impl<P: FnMut(&BuildProgress)> Running<'_, P> {
    fn take(&mut self, position: u64, row: Row) -> Result<(), DataError> {
        self.chunk_bytes += row.as_ref().map_or(0, |item| item.image.len());
        self.chunk.push((position, row));
        if self.chunk.len() >= CHUNK_ROWS || self.chunk_bytes >= CHUNK_BYTES {
            self.write_chunk()?;
        }
        Ok(())
    }

    fn write_chunk(&mut self) -> Result<(), DataError> {
        let chunk = std::mem::take(&mut self.chunk);
        self.chunk_bytes = 0;
        let resize = self.build.resize;
        let prepared: Vec<_> = chunk
            .into_par_iter()
            .map(|(position, row)| (position, row.and_then(|item| prepare(item, resize))))
            .collect();
        for (position, row) in prepared {
            match row {
                Ok(row) => self.store(position, row)?,
                Err(bad) => self.skip(position, bad)?,
            }
            self.met = self.met.max(position + 1);
            self.told.rows += 1;
            self.tell();
        }
        Ok(())
    }

    fn store(&mut self, position: u64, row: ShardRow) -> Result<(), DataError> {
        self.told.bytes += row.bytes();
        let bucket = self.build.buckets.map(|grid| grid.nearest(row.width, row.height));
        let full = self.shards.push(position, bucket, row)?;
        // The row itself is in the next shard, which is not finished, so it is among the pending ones.
        let met = self.met.max(position + 1);
        full.map_or(Ok(()), |shard| self.finished(shard, met))
    }

    fn skip(&mut self, position: u64, Bad { place, reason }: Bad) -> Result<(), DataError> {
        if self.build.on_bad == OnBad::Stop {
            return Err(DataError::BadRow { place, reason });
        }
        self.work.skipped.push(position, place, reason)
    }

    fn finished(&mut self, shard: ManifestShard, met: u64) -> Result<(), DataError> {
        self.work.finished(shard, met, self.shards.pending())
    }

    fn tell(&mut self) {
        self.told.skipped = self.work.skipped.rows;
        (self.progress)(&self.told);
    }

    fn finish(mut self) -> Result<Built, DataError> {
        self.write_chunk()?;
        while let Some(shard) = self.shards.finish_next()? {
            self.finished(shard, self.met)?;
        }
        let (skipped, first_skipped) = (self.work.skipped.rows, self.work.skipped.first.clone());
        if self.work.state.shards.is_empty() {
            let first = first_skipped.first();
            let first = first.map_or_else(String::new, |row| format!("; the first, {}: {}", row.place, row.reason));
            return Err(DataError::BuildInput {
                path: self.build.source.path().to_owned(),
                problem: format!("none of its {skipped} rows can be used{first}"),
            });
        }
        let files = self.work.close_skipped()?.into_iter().collect();
        let mut shards = self.work.state.shards.clone();
        // Names are numbered with five digits or more.
        shards.sort_by_key(|shard| (shard.bucket, shard.file.len(), shard.file.clone()));
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            name: self.build.name.clone(),
            recipe: self.build.recipe.clone(),
            rows: shards.iter().map(|shard| shard.rows).sum(),
            columns: self.layout.columns(),
            buckets: self.build.buckets,
            shards,
            files,
            licences: self.build.licences.clone(),
        };
        self.work.put_in_place(&manifest)?;
        Ok(Built {
            manifest,
            start: self.told.start,
            skipped,
            first_skipped,
        })
    }
}

fn prepare(item: item::Item, resize: Option<u32>) -> Result<ShardRow, Bad> {
    match Picture::prepare(item.image, resize) {
        Ok(picture) => Ok(ShardRow {
            key: item.key,
            image: picture.bytes,
            captions: item.captions,
            synthetic: item.synthetic,
            metadata: None,
            width: picture.width,
            height: picture.height,
        }),
        Err(reason) => Err(Bad {
            place: item.place,
            reason,
        }),
    }
}
