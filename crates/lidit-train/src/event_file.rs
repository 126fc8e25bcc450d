//! `TensorBoard`'s event files: protobuf records in `TFRecord` framing, and cutting them back to a step.
//!
//! A record is its length (u64, little endian), the masked CRC32C of those 8 bytes, the bytes, and their masked CRC32C
//! (u32, little endian both).

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use protobuf::Message;
use tensorboard_proto::event::Event;

use crate::atomic::replace;
use crate::disk_fault::explained;

/// Bytes around each record: its length and two checksums.
const LENGTH: usize = 8;
const CRC: usize = 4;

/// An event file, open for appending.
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates the next event file in `folder`.
    ///
    /// `TensorBoard` reads the files of a folder in the order of their names, so the name is later than all others even
    /// when the clock went back or two attempts began in one second.
    pub(crate) fn create_next(folder: &Path, unix_seconds: u64) -> Result<Self> {
        let latest = event_files(folder)?
            .iter()
            .filter_map(|path| seconds_in_name(path))
            .max();
        let seconds = unix_seconds.max(latest.map_or(0, |s| s + 1));
        let path = folder.join(format!(
            "events.out.tfevents.{seconds:010}.lidit.{}",
            std::process::id()
        ));
        let file = File::options()
            .create_new(true)
            .append(true)
            .open(&path)
            .map_err(|error| explained(error, "cannot create", &path))?;
        Ok(Self { path, file })
    }

    /// Appends one event with one write.
    pub(crate) fn append(&mut self, event: &Event) -> Result<()> {
        let record = event
            .write_to_bytes()
            .with_context(|| format!("cannot encode an event of {}", self.path.display()))?;
        self.file
            .write_all(&frame(&record))
            .map_err(|error| explained(error, "cannot write to", &self.path))
    }

    /// Waits until every event is on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|error| explained(error, "cannot write to the disk", &self.path))
    }
}

/// Rewrites the event files of `folder` so that they hold only the events that `keep` accepts; a file left with nothing
/// but its header is removed, and torn or damaged ends are cut.
pub(crate) fn cut_back(folder: &Path, keep: impl Fn(&Event) -> bool) -> Result<()> {
    for path in event_files(folder)? {
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let (mut kept, mut values) = (Vec::with_capacity(bytes.len()), 0);
        for record in records(&bytes) {
            let Ok(event) = Event::parse_from_bytes(record) else {
                break;
            };
            if event.has_file_version() {
                kept.extend(frame(record));
            } else if keep(&event) {
                kept.extend(frame(record));
                values += 1;
            }
        }
        if values == 0 {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        } else if kept.len() < bytes.len() {
            // TensorBoard reads every file with `tfevents` in its name, so the partial one has another.
            replace(&path, &folder.join(".cut-back.partial"), &kept)?;
        }
    }
    Ok(())
}

/// The event files of a folder, in `TensorBoard`'s order.
pub(crate) fn event_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if seconds_in_name(&path).is_some() {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    };
    list().with_context(|| format!("cannot list {}", folder.display()))
}

/// The time in an event file's name; `None` for any other file.
fn seconds_in_name(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_prefix("events.out.tfevents.")?;
    name.split('.').next()?.parse().ok()
}

fn frame(record: &[u8]) -> Vec<u8> {
    let length = (record.len() as u64).to_le_bytes();
    let mut framed = Vec::with_capacity(record.len() + LENGTH + 2 * CRC);
    framed.extend(length);
    framed.extend(masked_crc32c(&length).to_le_bytes());
    framed.extend(record);
    framed.extend(masked_crc32c(record).to_le_bytes());
    framed
}

/// The records of an event file, up to the first that is torn or damaged.
pub(crate) fn records(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<LENGTH>()?;
        let (length_crc, after) = after.split_first_chunk::<CRC>()?;
        let size = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        if masked_crc32c(length) != u32::from_le_bytes(*length_crc) || size > after.len() {
            return None;
        }
        let (record, after) = after.split_at(size);
        let (crc, after) = after.split_first_chunk::<CRC>()?;
        if masked_crc32c(record) != u32::from_le_bytes(*crc) {
            return None;
        }
        rest = after;
        Some(record)
    })
}

/// The checksum of a record: CRC32C, rotated and shifted so that a checksum over checksums stays good.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn frames_are_what_tensorboard_writes() {
        // Written by tensorboard 2.21: RecordWriter(file).write(b"lidit").
        let written = b"\x05\0\0\0\0\0\0\0\xea\xb2\x04\x3elidit\xd1\x22\x29\x9c";
        assert_eq!(frame(b"lidit"), written);
    }

    #[test]
    fn records_end_at_the_first_torn_or_damaged_one() {
        let mut bytes = [frame(b"one"), frame(b""), frame(b"three")].concat();
        assert_eq!(records(&bytes).collect::<Vec<_>>(), [&b"one"[..], b"", b"three"]);
        for torn in 1..frame(b"three").len() {
            assert_eq!(records(&bytes[..bytes.len() - torn]).count(), 2);
        }
        let last = bytes.len() - 5;
        bytes[last] ^= 1;
        assert_eq!(records(&bytes).count(), 2);
        bytes[0] ^= 1;
        assert_eq!(records(&bytes).count(), 0);
    }

    #[test]
    fn names_of_event_files_only_grow() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("notes.txt"), "").unwrap();
        for seconds in [2_000, 2_000, 1_000] {
            EventFile::create_next(dir.path(), seconds).unwrap();
        }
        let times: Vec<_> = event_files(dir.path())
            .unwrap()
            .iter()
            .map(|p| seconds_in_name(p).unwrap())
            .collect();
        assert_eq!(times, [2_000, 2_001, 2_002]);
    }

    #[test]
    fn cutting_back_keeps_the_accepted_events_and_removes_empty_files() {
        let dir = tempfile::tempdir().unwrap();
        for steps in [[1, 2], [3, 4]] {
            let mut file = EventFile::create_next(dir.path(), 1).unwrap();
            let mut header = Event::new();
            header.set_file_version("brain.Event:2".into());
            file.append(&header).unwrap();
            for step in steps {
                let mut event = Event::new();
                event.set_step(step);
                file.append(&event).unwrap();
            }
        }
        cut_back(dir.path(), |event| event.step <= 1).unwrap();
        let files = event_files(dir.path()).unwrap();
        assert_eq!(files.len(), 1);
        let bytes = fs::read(&files[0]).unwrap();
        let events: Vec<_> = records(&bytes).map(|r| Event::parse_from_bytes(r).unwrap()).collect();
        assert_eq!(events.len(), 2);
        assert!(events[0].has_file_version() && events[1].step == 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let path = PathBuf::from("/dev/full");
        let file = File::options().write(true).open(&path).unwrap();
        let message = EventFile { path, file }.append(&Event::new()).unwrap_err().to_string();
        assert!(
            message.contains("/dev/full") && message.contains("disk is full"),
            "{message}"
        );
    }
}
