//! Everything of a set, read and decoded.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::config::SourceColumns;
use crate::dataset::Quarantined;
use crate::error::DataError;
use crate::image::Limits;
use crate::open_source::{OpenSource, Wanted};
use crate::sample::check_row;

/// What is wrong with a set, found by reading and decoding all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Rows of all shards.
    pub rows: u64,
    /// Rows that training can use.
    pub usable: u64,
    /// Rows that it can't, by id: no caption, no picture, one that can't be decoded or is too small.
    pub quarantined: Vec<Quarantined>,
    /// Shards of which not all rows could be read, each with the first reason.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// Reads and decodes every row behind `path` on all cores. `progress` hears the rows done and the rows in all, from many
/// threads.
///
/// # Errors
/// A footer that can't be read, or a shard without one of the columns. What is found later is part of the answer.
pub fn verify(
    path: &Path,
    columns: SourceColumns,
    min_side: u32,
    progress: impl Fn(u64, u64) + Sync,
) -> Result<Verification, DataError> {
    let source = OpenSource::open(path, columns, 0)?;
    let limits = Limits::new(min_side);
    let rows = source.end();
    let done = AtomicU64::new(0);
    let found: Mutex<Verification> = Mutex::new(Verification {
        rows,
        usable: 0,
        quarantined: Vec::new(),
        unreadable: Vec::new(),
    });
    let note = |add: &dyn Fn(&mut Verification)| add(&mut found.lock().unwrap_or_else(PoisonError::into_inner));
    source.set.blocks.par_iter().for_each(|block| {
        let ids: Vec<u64> = block.ids.clone().collect();
        let mut met = 0;
        let read = source.read(&ids, Wanted::All, |id, row| {
            met += 1;
            match check_row(&row, &limits) {
                Ok(()) => note(&|found| found.usable += 1),
                Err(reason) => {
                    let (shard, row) = source.place(id);
                    let entry = Quarantined { id, shard, row, reason };
                    note(&|found| found.quarantined.push(entry.clone()));
                }
            }
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, rows);
        });
        if let Err(error) = read {
            let (shard, _) = source.place(block.ids.start);
            note(&|found| found.unreadable.push((shard.clone(), error.to_string())));
            let rest = ids.len() as u64 - met;
            progress(done.fetch_add(rest, Ordering::Relaxed) + rest, rows);
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.quarantined.sort_unstable_by_key(|row| row.id);
    found.unreadable.sort_unstable();
    found.unreadable.dedup_by(|later, first| later.0 == first.0);
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;
    use crate::test_shards::{write_bad_rows, write_set};

    fn columns() -> SourceColumns {
        SourceColumns {
            image: "image".into(),
            caption: "caption".into(),
            synthetic: None,
        }
    }

    #[test]
    fn bad_rows_are_found_and_small_pictures_with_them() {
        let folder = tempfile::tempdir().unwrap();
        write_bad_rows(&folder.path().join("a.parquet"));
        let found = verify(folder.path(), columns(), 1, |_, _| {}).unwrap();
        assert_eq!((found.rows, found.usable), (5, 2));
        let rows: Vec<u64> = found.quarantined.iter().map(|row| row.row).collect();
        assert_eq!(rows, [1, 2, 3]);
        let found = verify(folder.path(), columns(), 5, |_, _| {}).unwrap();
        assert_eq!(found.usable, 0);
        assert!(
            found.quarantined[0].reason.contains("4 x 4"),
            "{}",
            found.quarantined[0].reason
        );
    }

    #[test]
    fn a_damaged_shard_is_named_and_the_others_are_read() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), 23, 9, 4);
        let path = folder.path().join("shard-00001.parquet");
        let mut bytes = fs::read(&path).unwrap();
        // The first row group, behind the magic number.
        bytes[4..400].fill(0xff);
        fs::write(&path, bytes).unwrap();
        let heard = AtomicU64::new(0);
        let found = verify(folder.path(), columns(), 1, |done, total| {
            assert_eq!(total, 23);
            heard.fetch_max(done, Ordering::Relaxed);
        })
        .unwrap();
        assert_eq!(found.unreadable.len(), 1);
        assert_eq!(found.unreadable[0].0, path);
        assert!((14..23).contains(&found.usable), "{}", found.usable);
        assert_eq!(heard.into_inner(), 23);
    }

    #[test]
    fn a_missing_column_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), 3, 3, 3);
        let other = SourceColumns {
            caption: "text".into(),
            ..columns()
        };
        let message = verify(folder.path(), other, 1, |_, _| {}).unwrap_err().to_string();
        assert!(message.contains("no column `text`"), "{message}");
    }
}
