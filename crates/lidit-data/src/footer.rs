//! The footer of a Parquet file: read in one or two requests, checked, and kept for the shards in use.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use parquet::DecodeResult;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataPushDecoder,
    ParquetStatisticsPolicy, RowGroupMetaData,
};
use parquet::file::page_index::offset_index::PageLocation;

use crate::error::DataError;
use crate::storage::Storage;

// Read from a file's end at first: footer and offset index of most shards.
const TAIL_BYTES: u64 = 64 << 10;

// A longer footer than any that is written: one of 10,000 row groups with 100 columns.
const LONGEST_FOOTER: u64 = 256 << 20;

// Footers kept, by number and by their size in memory.
const CACHE_FOOTERS: usize = 256;
const CACHE_BYTES: usize = 64 << 20;

/// Rows that are read at once, where pages allow it: 64 pictures of 100 kB are what a request of 0.1 s brings.
pub(crate) const BLOCK_ROWS: u64 = 64;

/// A file's size, schema, row groups and offset index.
#[derive(Clone)]
pub(crate) struct Footer {
    pub bytes: u64,
    pub metadata: ArrowReaderMetadata,
}

impl Footer {
    /// Reads and checks it: nothing it says lies outside the file or contradicts itself in what a reader relies on.
    pub fn load(storage: &Storage, path: &Path) -> Result<Self, DataError> {
        let wrap = |error| DataError::parquet(path)(error);
        let (bytes, tail) = storage.read_tail(path, TAIL_BYTES)?;
        let start = bytes - tail.len() as u64;
        let options = ParquetMetaDataOptions::new()
            .with_column_stats_policy(ParquetStatisticsPolicy::SkipAll)
            .with_size_stats_policy(ParquetStatisticsPolicy::SkipAll)
            .with_encoding_stats_policy(ParquetStatisticsPolicy::SkipAll);
        let mut decoder = ParquetMetaDataPushDecoder::try_new(bytes)
            .map_err(wrap)?
            .with_metadata_options(Some(Arc::new(options)))
            .with_column_index_policy(PageIndexPolicy::Skip)
            .with_offset_index_policy(PageIndexPolicy::Optional);
        decoder.push_range(start..bytes, tail).map_err(wrap)?;
        // The footer is asked for before the index: two requests are the most that a sound file needs.
        for _ in 0..3 {
            match guarded(|| decoder.try_decode()).map_err(wrap)? {
                DecodeResult::Data(metadata) => return guarded(|| Self::checked(bytes, metadata)).map_err(wrap),
                DecodeResult::NeedsData(ranges) => {
                    let ranges: Vec<_> = ranges.iter().map(|range| widened(range, bytes)).collect();
                    check_len(&ranges).map_err(wrap)?;
                    let data: Vec<Bytes> = storage.read_ranges(path, bytes, &ranges)?;
                    decoder.push_ranges(ranges, data).map_err(wrap)?;
                }
                DecodeResult::Finished => break,
            }
        }
        Err(wrap(general("its footer has no end")))
    }

    fn checked(bytes: u64, metadata: ParquetMetaData) -> Result<Self, ParquetError> {
        let mut rows: u64 = 0;
        for (number, group) in metadata.row_groups().iter().enumerate() {
            let refuse = |problem| general(&format!("row group {number}: {problem}"));
            check_group(group, bytes).map_err(refuse)?;
            let index = metadata.page_index_for_row_group(number);
            for (column, chunk) in group.columns().iter().enumerate() {
                if let Some(pages) = index.page_locations(column) {
                    check_pages(pages, chunk, group.num_rows()).map_err(refuse)?;
                }
            }
            let more = rows.checked_add(group.num_rows() as u64);
            rows = more.ok_or_else(|| refuse("more rows than can be counted"))?;
        }
        // Types come from Parquet alone: large and dictionary variants, which differ only in memory, become plain ones.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::try_new(Arc::new(metadata), options)?;
        Ok(Self { bytes, metadata })
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

    /// Where the blocks of a row group start, by rows in the group: a function of the file alone.
    ///
    /// With an offset index a block is a run of pages of the largest column chunk with at least [`BLOCK_ROWS`] rows, the
    /// last perhaps fewer; without one it is the whole group. An empty group has none.
    pub fn block_starts(&self, group: usize) -> Vec<u64> {
        let metadata = self.metadata.metadata();
        let rows = metadata.row_group(group).num_rows() as u64;
        if rows == 0 {
            return Vec::new();
        }
        let chunks = metadata.row_group(group).columns().iter().enumerate();
        // Of equal chunks the first.
        let largest = chunks.max_by_key(|(column, chunk)| (chunk.compressed_size(), std::cmp::Reverse(*column)));
        let index = metadata.page_index_for_row_group(group);
        let pages = largest.and_then(|(column, _)| index.page_locations(column));
        let mut starts = vec![0];
        let mut start = 0;
        for page in pages.into_iter().flatten() {
            let row = page.first_row_index as u64;
            if row >= start + BLOCK_ROWS {
                starts.push(row);
                start = row;
            }
        }
        starts
    }
}

/// The footers of the shards met last. One that is not there is read again.
#[derive(Default)]
pub(crate) struct FooterCache {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Shard, size in memory and footer, from the one met longest ago to the one met last.
    entries: VecDeque<(usize, usize, Footer)>,
    bytes: usize,
}

impl FooterCache {
    /// A shard's footer, from memory or from `load`.
    pub fn get(&self, shard: usize, load: impl FnOnce() -> Result<Footer, DataError>) -> Result<Footer, DataError> {
        if let Some(footer) = self.lock().renewed(shard) {
            return Ok(footer);
        }
        // Not under the lock: other shards are read meanwhile.
        let footer = load()?;
        self.put(shard, footer.clone());
        Ok(footer)
    }

    /// Keeps a footer, and lets go of those met longest ago where that makes too many.
    pub fn put(&self, shard: usize, footer: Footer) {
        let bytes = footer.metadata.metadata().memory_size();
        let mut kept = self.lock();
        if kept.renewed(shard).is_some() {
            return;
        }
        kept.entries.push_back((shard, bytes, footer));
        kept.bytes += bytes;
        while kept.entries.len() > 1 && (kept.entries.len() > CACHE_FOOTERS || kept.bytes > CACHE_BYTES) {
            let gone = kept.entries.pop_front();
            kept.bytes -= gone.map_or(0, |(_, bytes, _)| bytes);
        }
    }

    // A panic in another thread leaves only whole entries behind.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn renewed(&mut self, shard: usize) -> Option<Footer> {
        let at = self.entries.iter().position(|(own, ..)| *own == shard)?;
        let entry = self.entries.remove(at)?;
        let footer = entry.2.clone();
        self.entries.push_back(entry);
        Some(footer)
    }
}

// Before a footer lies its index, about as long: one request for both.
fn widened(range: &Range<u64>, bytes: u64) -> Range<u64> {
    let len = range.end - range.start;
    let start = if range.end + 8 == bytes {
        range.start.saturating_sub(len)
    } else {
        range.start
    };
    start..range.end
}

fn check_len(ranges: &[Range<u64>]) -> Result<(), ParquetError> {
    let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    if bytes > LONGEST_FOOTER {
        return Err(general(&format!("its footer claims {bytes} bytes")));
    }
    Ok(())
}

fn check_group(group: &RowGroupMetaData, bytes: u64) -> Result<(), &'static str> {
    if group.num_rows() < 0 {
        return Err("fewer than no rows");
    }
    for chunk in group.columns() {
        let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
        let (start, len) = (u64::try_from(start), u64::try_from(chunk.compressed_size()));
        let end = start.ok().zip(len.ok()).and_then(|(start, len)| start.checked_add(len));
        if end.is_none_or(|end| end > bytes) {
            return Err("a column that lies outside the file");
        }
        if chunk.num_values() < group.num_rows() {
            return Err("a column with fewer values than there are rows");
        }
    }
    Ok(())
}

fn check_pages(pages: &[PageLocation], chunk: &ColumnChunkMetaData, rows: i64) -> Result<(), &'static str> {
    let (start, len) = chunk.byte_range();
    let mut row = 0;
    for (number, page) in pages.iter().enumerate() {
        let inside = page.offset >= start as i64
            && page.compressed_page_size >= 0
            && page.offset.saturating_add(i64::from(page.compressed_page_size)) <= (start + len) as i64;
        let in_order = page.first_row_index >= row && page.first_row_index < rows.max(1);
        if !inside || !in_order || (number == 0 && page.first_row_index != 0) {
            return Err("an offset index that is not of its column");
        }
        row = page.first_row_index;
    }
    if pages.is_empty() && rows > 0 {
        return Err("an offset index without pages");
    }
    Ok(())
}

/// Runs the Parquet reader so that a panic in it, which some damaged files cause, is an error like any other.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    // What was half done is dropped with the decoder: every caller gives up on an error.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(general("its pages contradict each other")))
}

pub(crate) fn general(problem: &str) -> ParquetError {
    ParquetError::General(problem.to_owned())
}
