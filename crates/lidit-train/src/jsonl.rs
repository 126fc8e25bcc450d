//! Files of JSON lines that survive a crash: a line is whole or it is not there.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::atomic::write_atomically;
use crate::disk_fault::explained;

/// A file of JSON lines, open for appending.
pub(crate) struct JsonLines {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    len: u64,
}

impl JsonLines {
    /// Opens or creates `path` for appending; a torn last line, which a crash may have left, is cut off first.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let bytes = read_or_empty(path)?;
        let whole = whole_lines(&bytes);
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|error| explained(error, "cannot open", path))?;
        if whole.len() < bytes.len() {
            file.set_len(whole.len() as u64)
                .with_context(|| format!("cannot cut the torn last line of {}", path.display()))?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            len: whole.len() as u64,
        })
    }

    /// Appends one line with one write, so that a reader never waits for the second half.
    pub(crate) fn append<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let mut line =
            serde_json::to_vec(value).with_context(|| format!("cannot write a line of {}", self.path.display()))?;
        line.push(b'\n');
        let Err(error) = self.file.write_all(&line) else {
            self.len += line.len() as u64;
            return Ok(());
        };
        // What was written of it must not become the beginning of the next line. If this fails too, opening the file
        // again cuts it.
        let _ = self.file.set_len(self.len);
        Err(explained(error, "cannot write to", &self.path))
    }

    /// Waits until every line is on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|error| explained(error, "cannot write to the disk", &self.path))
    }
}

/// Reads all whole lines of `path`; a file that is not there has none, and a torn last line is no line.
///
/// # Errors
/// A whole line that is not a `T` is damage, and the error names its number.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    Ok(parse(path, &read_or_empty(path)?)?
        .into_iter()
        .map(|(_, value)| value)
        .collect())
}

/// Removes the lines of `path` that `keep` refuses, and returns the others; a crash leaves the old file or the new one.
///
/// # Errors
/// As [`read`], or when the disk is full.
pub(crate) fn retain<T: DeserializeOwned>(path: &Path, keep: impl Fn(&T) -> bool) -> Result<Vec<T>> {
    let bytes = read_or_empty(path)?;
    let kept: Vec<_> = parse::<T>(path, &bytes)?
        .into_iter()
        .filter(|(_, value)| keep(value))
        .collect();
    let text: Vec<u8> = kept.iter().flat_map(|(line, _)| line.iter().copied()).collect();
    if text.len() < bytes.len() {
        write_atomically(path, &text)?;
    }
    Ok(kept.into_iter().map(|(_, value)| value).collect())
}

/// JSON has no NaN: what is not finite is written as `null`.
pub(crate) fn null_is_nan<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// The whole lines, each with its line end, and what they say.
fn parse<'a, T: DeserializeOwned>(path: &Path, bytes: &'a [u8]) -> Result<Vec<(&'a [u8], T)>> {
    let lines = whole_lines(bytes).split_inclusive(|&b| b == b'\n').enumerate();
    lines
        .map(|(i, line)| {
            let value = serde_json::from_slice(line)
                .with_context(|| format!("line {} of {} cannot be read; mend or remove it", i + 1, path.display()))?;
            Ok((line, value))
        })
        .collect()
}

fn read_or_empty(path: &Path) -> Result<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The bytes up to and with the last line end.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
    &bytes[..end]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_torn_last_line_is_not_read_and_is_cut_before_the_next_append() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        fs::write(&path, "1\n2\n{\"st").unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), [1, 2]);
        let mut lines = JsonLines::open(&path).unwrap();
        lines.append(&3u32).unwrap();
        lines.sync().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n2\n3\n");
    }

    #[test]
    fn damage_in_the_middle_names_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        fs::write(&path, "1\nx\n3\n").unwrap();
        let message = read::<u32>(&path).unwrap_err().to_string();
        assert!(message.contains("line 2 of"), "{message}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let path = PathBuf::from("/dev/full");
        let file = File::options().write(true).open(&path).unwrap();
        let message = JsonLines { path, file, len: 0 }.append(&1u32).unwrap_err().to_string();
        assert!(
            message.contains("/dev/full") && message.contains("disk is full"),
            "{message}"
        );
    }
}
