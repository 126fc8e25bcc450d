//! Reading the small files of an input: which failures are the row's, and which are the disk's.

use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::item::MAX_PICTURE_BYTES;
use super::picture::too_long;
use crate::error::DataError;

/// The bytes of a file, or why the row that names it can't be used. A failing disk is an error.
pub(super) fn load(path: &Path) -> Result<Result<Vec<u8>, String>, DataError> {
    let is_rows = |kind| {
        matches!(
            kind,
            ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::IsADirectory | ErrorKind::NotADirectory
        )
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_PICTURE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() as u64 > MAX_PICTURE_BYTES => {
            let bytes = fs::metadata(path).map_or(bytes.len() as u64, |found| found.len());
            Ok(Err(format!("{name}: {}", too_long(bytes))))
        }
        Ok(bytes) => Ok(Ok(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Err(format!("no file {}", path.display()))),
        Err(error) if is_rows(error.kind()) => Ok(Err(format!("{name}: {error}"))),
        Err(error) => Err(DataError::io(path)(error)),
    }
}

/// Opens a file for reading and writing, with what it holds; one that is not there is made.
pub(super) fn open_kept(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).open(path)
}

/// Size and time of change, as a line of an input's digest.
pub(super) fn stamp(name: &str, found: &Metadata) -> String {
    let modified = found
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!("{name} {} {}\n", found.len(), modified.unwrap_or_default().as_nanos())
}
