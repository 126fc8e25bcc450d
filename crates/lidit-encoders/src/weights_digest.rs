//! Digests of weight files, which may have many gigabytes: hashed once, then remembered by path, size and time.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::EncoderError;

const FORMAT_VERSION: u32 = 1;

/// What a file was when it was hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remembered {
    format_version: u32,
    path: PathBuf,
    bytes: u64,
    modified_ns: u64,
    sha256: String,
}

/// One SHA-256 over the SHA-256 of each file, in order; names don't enter. `memory` is a folder of remembered digests.
pub fn weights_digest(files: &[PathBuf], memory: Option<&Path>) -> Result<String, EncoderError> {
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file_digest(file, memory)?.as_bytes());
    }
    Ok(hex(&hash.finalize()))
}

fn file_digest(path: &Path, memory: Option<&Path>) -> Result<String, EncoderError> {
    let now = |sha256| state(path, sha256).map_err(EncoderError::io(path));
    let Some(record) = memory.map(|memory| record_path(path, memory)) else {
        return sha256_of(path).map_err(EncoderError::io(path));
    };
    let known = fs::read(&record).ok();
    let known = known.and_then(|bytes| serde_json::from_slice::<Remembered>(&bytes).ok());
    if let Some(known) = known
        && known == now(known.sha256.clone())?
    {
        return Ok(known.sha256);
    }
    let before = now(String::new())?;
    let sha256 = sha256_of(path).map_err(EncoderError::io(path))?;
    // A file that was written to meanwhile is not remembered.
    if before == now(String::new())? {
        remember(
            &record,
            &Remembered {
                sha256: sha256.clone(),
                ..before
            },
        );
    }
    Ok(sha256)
}

fn state(path: &Path, sha256: String) -> io::Result<Remembered> {
    let metadata = fs::metadata(path)?;
    let since = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Remembered {
        format_version: FORMAT_VERSION,
        path: fs::canonicalize(path)?,
        bytes: metadata.len(),
        modified_ns: since.as_nanos() as u64,
        sha256,
    })
}

/// A folder that can't be written to is only slower, so failure is no error.
fn remember(record: &Path, known: &Remembered) {
    let fresh = record.with_extension(format!("json.{}", std::process::id()));
    let write = || -> io::Result<()> {
        if let Some(folder) = record.parent() {
            fs::create_dir_all(folder)?;
        }
        File::create(&fresh)?.write_all(&serde_json::to_vec(known)?)?;
        fs::rename(&fresh, record)
    };
    if write().is_err() {
        let _ = fs::remove_file(&fresh);
    }
}

fn record_path(path: &Path, memory: &Path) -> PathBuf {
    let whole = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = hex(&Sha256::digest(whole.as_os_str().as_encoded_bytes()));
    memory.join(format!("{name}.json"))
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut hash = Sha256::new();
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_remembered_digest_holds_until_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (file, memory) = (dir.path().join("w"), dir.path().join("digests"));
        let digest = || file_digest(&file, Some(&memory)).unwrap();
        fs::write(&file, "abc").unwrap();
        let first = digest();
        assert_eq!(
            first,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        // The memory is believed: a record that lies shows that the file was not hashed again.
        let record = record_path(&file, &memory);
        let mut known: Remembered = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        known.sha256 = "remembered".into();
        fs::write(&record, serde_json::to_vec(&known).unwrap()).unwrap();
        assert_eq!(digest(), "remembered");
        fs::write(&file, "abcd").unwrap();
        assert_eq!(
            digest(),
            "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589"
        );
        fs::write(&record, "not a record").unwrap();
        assert_eq!(
            digest(),
            "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589"
        );
    }
}
