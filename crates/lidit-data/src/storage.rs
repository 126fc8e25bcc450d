//! Ranges and listings of files and objects, wherever they lie.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::DataError;
use crate::location::Url;
use crate::remote::{Limits, Remote, check_listable};

// Ranges this close are read as one: a request costs what reading so much costs, at about 50 MB/s and 20 ms for a
// remote one, 2 GB/s and 2 us for a local one.
const REMOTE_GAP: u64 = 1 << 20;
const LOCAL_GAP: u64 = 4 << 10;

/// Reads files of this machine and objects behind URLs; a path with `://` is a URL. Blocks; never without an end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storage {
    limits: Limits,
}

impl Storage {
    /// Storage with the limits of every run.
    pub fn new() -> Self {
        Self { limits: Limits::USUAL }
    }

    #[cfg(test)]
    pub(crate) fn with_limits(limits: Limits) -> Self {
        Self { limits }
    }

    /// A file's size in bytes and its last `bytes`, or all of it where it has fewer.
    pub fn read_tail(&self, path: &Path, bytes: u64) -> Result<(u64, Bytes), DataError> {
        if let Some(url) = Url::parse(path)? {
            return self.remote()?.tail(&url, bytes);
        }
        let wrap = |error| DataError::io(path)(error);
        let mut file = File::open(path).map_err(wrap)?;
        let len = file.metadata().map_err(wrap)?.len();
        let start = len.saturating_sub(bytes);
        Ok((len, read_at(&mut file, start..len).map_err(wrap)?))
    }

    /// Ranges of a file, which must still have `len` bytes. Those close to each other are read as one.
    pub fn read_ranges(&self, path: &Path, len: u64, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, DataError> {
        if let Some(range) = ranges.iter().find(|range| range.start > range.end || range.end > len) {
            return Err(DataError::Location {
                path: path.to_owned(),
                problem: format!("has no bytes {}..{}, it ends at {len}", range.start, range.end),
            });
        }
        let (reads, fetched) = if let Some(url) = Url::parse(path)? {
            let reads = coalesced(ranges, REMOTE_GAP);
            let fetched = self.remote()?.ranges(&url, len, reads.clone())?;
            (reads, fetched)
        } else {
            let reads = coalesced(ranges, LOCAL_GAP);
            let fetched = read_local(path, len, &reads)?;
            (reads, fetched)
        };
        let cut = |range: &Range<u64>| {
            let read = reads.partition_point(|read| read.end < range.end);
            let start = (range.start - reads[read].start) as usize;
            fetched[read].slice(start..start + (range.end - range.start) as usize)
        };
        Ok(ranges
            .iter()
            .map(|range| if range.is_empty() { Bytes::new() } else { cut(range) })
            .collect())
    }

    /// A whole small file; none where there is none.
    pub fn read_if_there(&self, path: &Path) -> Result<Option<Bytes>, DataError> {
        if let Some(url) = Url::parse(path)? {
            return self.remote()?.whole(&url);
        }
        match std::fs::read(path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(DataError::io(path)(error)),
        }
    }

    /// Every object below a prefix of a store, sorted.
    pub fn list(&self, path: &Path, prefix: &Url) -> Result<Vec<PathBuf>, DataError> {
        check_listable(path, prefix)?;
        let keys = self.remote()?.list(prefix)?;
        Ok(keys.iter().map(|key| prefix.with_key(key)).collect())
    }

    fn remote(&self) -> Result<Remote, DataError> {
        Remote::shared(self.limits)
    }
}

fn read_local(path: &Path, len: u64, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, DataError> {
    let wrap = |error| DataError::io(path)(error);
    let mut file = File::open(path).map_err(wrap)?;
    let found = file.metadata().map_err(wrap)?.len();
    if found != len {
        return Err(DataError::Changed {
            path: path.to_owned(),
            expected: len,
            found,
        });
    }
    let read = |range: &Range<u64>| read_at(&mut file, range.clone()).map_err(wrap);
    ranges.iter().map(read).collect()
}

fn read_at(file: &mut File, range: Range<u64>) -> std::io::Result<Bytes> {
    let len = range.end - range.start;
    let mut bytes = Vec::with_capacity(len as usize);
    file.seek(SeekFrom::Start(range.start))?;
    if file.take(len).read_to_end(&mut bytes)? as u64 != len {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes.into())
}

// Ranges in order, those with at most `gap` bytes between them as one; empty ones left out.
fn coalesced(ranges: &[Range<u64>], gap: u64) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
    sorted.sort_by_key(|range| (range.start, range.end));
    let mut reads: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match reads.last_mut() {
            Some(read) if range.start <= read.end.saturating_add(gap) => read.end = read.end.max(range.end),
            _ => reads.push(range),
        }
    }
    reads
}
