//! A file as a decoder reads it front to back: a few pieces at a time, never a whole column chunk.

use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::storage::Storage;

const PIECE_BYTES: u64 = 4 << 20;
// As many as columns are read side by side.
const PIECES: usize = 4;

/// A file of known size, local or remote. Remembers the pieces that were read last.
#[derive(Clone)]
pub(crate) struct Streamed {
    inner: Arc<Inner>,
}

struct Inner {
    storage: Storage,
    path: PathBuf,
    len: u64,
    // Each with its place in the file, the one used last in front.
    pieces: Mutex<Vec<(u64, Bytes)>>,
}

/// The file from some place on.
pub(crate) struct Rest {
    file: Streamed,
    at: u64,
}

impl Streamed {
    pub fn new(storage: Storage, path: &Path, len: u64) -> Self {
        Self {
            inner: Arc::new(Inner {
                storage,
                path: path.to_owned(),
                len,
                pieces: Mutex::default(),
            }),
        }
    }

    /// Some bytes from `at` on, at least one; none behind the end.
    fn piece(&self, at: u64) -> Result<Bytes, ParquetError> {
        if at >= self.inner.len {
            return Ok(Bytes::new());
        }
        let mut pieces = self.inner.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |(start, bytes): &(u64, Bytes)| (*start..start + bytes.len() as u64).contains(&at);
        let found = match pieces.iter().position(holds) {
            Some(place) => pieces.remove(place),
            None => (at, self.read(at..(at + PIECE_BYTES).min(self.inner.len))?),
        };
        let rest = found.1.slice((at - found.0) as usize..);
        pieces.insert(0, found);
        pieces.truncate(PIECES);
        Ok(rest)
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        let Inner { storage, path, len, .. } = &*self.inner;
        let read = storage.read_ranges(path, *len, std::slice::from_ref(&range));
        let read = read.map_err(|error| ParquetError::External(Box::new(error)))?;
        Ok(read.into_iter().next().unwrap_or_default())
    }
}

impl Length for Streamed {
    fn len(&self) -> u64 {
        self.inner.len
    }
}

impl ChunkReader for Streamed {
    type T = Rest;

    fn get_read(&self, start: u64) -> Result<Rest, ParquetError> {
        Ok(Rest {
            file: self.clone(),
            at: start,
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.read(start..start.saturating_add(length as u64))
    }
}

impl Read for Rest {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let piece = self.file.piece(self.at).map_err(std::io::Error::other)?;
        let len = piece.len().min(buffer.len());
        buffer[..len].copy_from_slice(&piece[..len]);
        self.at += len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[test]
    fn any_place_is_read_to_the_end_across_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content: Vec<u8> = (0..PIECE_BYTES + 1000).map(|at| (at % 251) as u8).collect();
        fs::write(&path, &content).unwrap();
        let file = Streamed::new(Storage::new(), &path, content.len() as u64);
        for start in [
            0,
            7,
            PIECE_BYTES - 1,
            PIECE_BYTES,
            content.len() as u64 - 1,
            content.len() as u64,
        ] {
            let mut rest = Vec::new();
            file.get_read(start).unwrap().read_to_end(&mut rest).unwrap();
            assert_eq!(rest, content[start as usize..], "{start}");
        }
        assert_eq!(file.get_bytes(5, 100).unwrap(), content[5..105]);
        assert!(file.get_bytes(5, content.len()).is_err());
    }
}
