//! Whether a fetched file is whole, without hashing it each time.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::input::Input;

/// What stands where a fetched file should.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// The file, whole.
    Good,
    /// Nothing.
    Absent,
    /// Something else; why.
    Damaged(String),
}

/// A verified digest, kept beside the file that it belongs to as long as size and time stay.
#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Verified {
    format_version: u32,
    bytes: u64,
    modified_ns: u64,
    sha256: String,
}

const FORMAT_VERSION: u32 = 1;

/// Compares a file with what the input says. Hashes it only if size or time changed since it was last good.
pub fn state(path: &Path, input: &Input) -> Result<State> {
    let Some(expected) = expected(path, input)? else {
        return Ok(State::Absent);
    };
    if expected.bytes != input.bytes {
        let (found, wanted) = (expected.bytes, input.bytes);
        return Ok(State::Damaged(format!("{found} bytes instead of {wanted}")));
    }
    let remembered = fs::read(record_path(path)).ok();
    let remembered = remembered.and_then(|bytes| serde_json::from_slice::<Verified>(&bytes).ok());
    if remembered.is_some_and(|remembered| remembered == expected) {
        return Ok(State::Good);
    }
    let found = sha256_of(path)?;
    if found != input.sha256 {
        return Ok(State::Damaged(format!("sha256 {found} instead of {}", input.sha256)));
    }
    remember(path, input);
    Ok(State::Good)
}

/// Writes down that the file is good. A cache that can't be written to is only slower, so failure is no error.
pub fn remember(path: &Path, input: &Input) {
    let record = record_path(path);
    let fresh = record.with_extension(format!("json.{}", std::process::id()));
    let Ok(Some(verified)) = expected(path, input) else {
        return;
    };
    let written = serde_json::to_vec(&verified)
        .map_err(io::Error::from)
        .and_then(|bytes| fs::write(&fresh, bytes))
        .and_then(|()| fs::rename(&fresh, &record));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
}

fn expected(path: &Path, input: &Input) -> Result<Option<Verified>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let modified = metadata.modified().ok();
    let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok(Some(Verified {
        format_version: FORMAT_VERSION,
        bytes: metadata.len(),
        modified_ns: since.unwrap_or_default().as_nanos() as u64,
        sha256: input.sha256.to_owned(),
    }))
}

fn record_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".verified.json");
    PathBuf::from(name)
}

/// SHA-256 of a file, in hex.
pub fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    let mut sink = Hashing::new(io::sink());
    io::copy(&mut file, &mut sink).with_context(|| format!("reading {}", path.display()))?;
    Ok(sink.finish().sha256)
}

/// A writer that hashes and counts what passes through.
pub struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

/// What passed through a [`Hashing`] writer.
pub struct Passed {
    /// In hex.
    pub sha256: String,
    /// How many.
    pub bytes: u64,
}

impl<W: Write> Hashing<W> {
    /// Nothing passed yet.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            bytes: 0,
        }
    }

    /// Copies all of `reader` through, in pieces large enough to hash fast.
    pub fn take(&mut self, reader: &mut impl Read) -> io::Result<()> {
        let mut piece = vec![0; 1 << 20];
        loop {
            match reader.read(&mut piece)? {
                0 => return Ok(()),
                len => self.write_all(&piece[..len])?,
            }
        }
    }

    /// What passed.
    pub fn finish(self) -> Passed {
        Passed {
            sha256: self.hasher.finalize().iter().fold(String::new(), |mut text, byte| {
                // Writing to a string can't fail.
                let _ = write!(text, "{byte:02x}");
                text
            }),
            bytes: self.bytes,
        }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..len]);
        self.bytes += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const INPUT: Input = Input {
        name: "hello",
        file: "hello",
        bytes: 11,
        // From `printf 'hello world' | sha256sum`.
        sha256: "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9",
        parts: &[],
        notice: None,
    };

    #[test]
    fn a_file_is_good_absent_or_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello");
        assert_eq!(state(&path, &INPUT).unwrap(), State::Absent);
        fs::write(&path, "hello").unwrap();
        let short = State::Damaged("5 bytes instead of 11".into());
        assert_eq!(state(&path, &INPUT).unwrap(), short);
        fs::write(&path, "hello World").unwrap();
        assert!(matches!(state(&path, &INPUT).unwrap(), State::Damaged(how) if how.contains("sha256")));
        fs::write(&path, "hello world").unwrap();
        assert_eq!(state(&path, &INPUT).unwrap(), State::Good);
    }

    #[test]
    fn a_digest_is_remembered_until_size_or_time_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello");
        fs::write(&path, "hello world").unwrap();
        assert_eq!(state(&path, &INPUT).unwrap(), State::Good);
        // Other content with the same size and time is not looked at again: that is what remembering means.
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "jello world").unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(time)
            .unwrap();
        assert_eq!(state(&path, &INPUT).unwrap(), State::Good);
        let later = time + std::time::Duration::from_secs(1);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(later)
            .unwrap();
        assert!(matches!(state(&path, &INPUT).unwrap(), State::Damaged(_)));
    }
}
