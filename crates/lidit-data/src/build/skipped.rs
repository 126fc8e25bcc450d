//! `skipped.jsonl`: the rows of the input that are not in the set, and why.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::file::open_kept;
use crate::error::DataError;
use crate::manifest::{ManifestFile, hex};

pub(super) const FILE: &str = "skipped.jsonl";

const FORMAT_VERSION: u32 = 1;
// Told with the result, so that a mistake in the flags is seen without opening the list.
const FIRST: usize = 10;

/// A row of the input that is not in the set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkippedRow {
    /// 1.
    pub format_version: u32,
    /// Its number in the input, from 0.
    pub row: u64,
    /// The file, and the row or line in it.
    pub place: String,
    /// Why it can't be used.
    pub reason: String,
}

/// The list while it is written.
pub(super) struct SkipList {
    path: PathBuf,
    file: BufWriter<File>,
    /// Rows in the list.
    pub rows: u64,
    bytes: u64,
    /// The first of them.
    pub first: Vec<SkippedRow>,
}

impl SkipList {
    /// Opens the list in a folder and cuts it back to the rows and bytes that count.
    pub fn open(folder: &Path, rows: u64, bytes: u64) -> Result<Self, DataError> {
        let path = folder.join(FILE);
        let wrap = || DataError::io(&path);
        let mut file = open_kept(&path).map_err(wrap())?;
        file.set_len(bytes).map_err(wrap())?;
        let mut text = Vec::new();
        // Enough for the first rows, however long the list.
        (&file).take(1 << 20).read_to_end(&mut text).map_err(wrap())?;
        let first = text.split(|byte| *byte == b'\n').take(FIRST);
        let first = first.filter_map(|line| serde_json::from_slice(line).ok()).collect();
        file.seek(SeekFrom::End(0)).map_err(wrap())?;
        Ok(Self {
            file: BufWriter::new(file),
            path,
            rows,
            bytes,
            first,
        })
    }

    /// Adds a row.
    pub fn push(&mut self, row: u64, place: String, reason: String) -> Result<(), DataError> {
        let skipped = SkippedRow {
            format_version: FORMAT_VERSION,
            row,
            place,
            reason,
        };
        let wrap = || DataError::io(&self.path);
        let mut line = serde_json::to_vec(&skipped).map_err(|error| wrap()(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(wrap())?;
        self.rows += 1;
        self.bytes += line.len() as u64;
        if self.first.len() < FIRST {
            self.first.push(skipped);
        }
        Ok(())
    }

    /// Waits until the disk has the list; its rows and bytes.
    pub fn sync(&mut self) -> Result<(u64, u64), DataError> {
        let flushed = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        flushed.map_err(DataError::io(&self.path))?;
        Ok((self.rows, self.bytes))
    }

    /// Removes an empty list; says what the manifest must of another.
    pub fn close(&mut self) -> Result<Option<ManifestFile>, DataError> {
        let wrap = || DataError::io(&self.path);
        if self.rows == 0 {
            std::fs::remove_file(&self.path).map_err(wrap())?;
            return Ok(None);
        }
        let mut file = File::open(&self.path).map_err(wrap())?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer).map_err(wrap())? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            }
        }
        Ok(Some(ManifestFile {
            file: FILE.to_owned(),
            lines: self.rows,
            sha256: hex(&hasher.finalize()),
        }))
    }
}
