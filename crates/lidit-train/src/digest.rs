//! Files whose content is known: written through to the disk, and hashed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use safetensors::tensor::View;
use sha2::{Digest, Sha256};

use crate::disk_fault::explained;

/// Bytes that are hashed and written, or read and hashed, at once.
const CHUNK: usize = 1 << 20;

/// Size and SHA-256 of a file.
pub fn hash_file(path: &Path) -> Result<(u64, String)> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        let read = file
            .read(&mut buffer)
            .with_context(|| format!("reading {}", path.display()))?;
        if read == 0 {
            return Ok((bytes, hex(&hasher.finalize())));
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}

/// A new file that is hashed while it is written.
pub struct HashedFile {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    bytes: u64,
}

impl HashedFile {
    /// Creates `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|error| explained(error, "cannot write", path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            hasher: Sha256::new(),
            bytes: 0,
        })
    }

    /// Appends `bytes`.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        // Hashed while they are still in the cache.
        for chunk in bytes.chunks(CHUNK) {
            self.hasher.update(chunk);
            let written = self.file.write_all(chunk);
            written.map_err(|error| explained(error, "cannot write", &self.path))?;
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Waits until everything is on the disk. Size and SHA-256 of what was written.
    pub fn finish(self) -> Result<(u64, String)> {
        let synced = self.file.sync_all();
        synced.map_err(|error| explained(error, "cannot write", &self.path))?;
        Ok((self.bytes, hex(&self.hasher.finalize())))
    }
}

/// Writes `bytes` to `path` and waits until they are on the disk.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = HashedFile::create(path)?;
    file.append(bytes)?;
    file.finish().map(|_| ())
}

/// Writes a safetensors file, one tensor at a time, and waits until it is on the disk.
pub fn write_tensors<V: View>(path: &Path, tensors: impl IntoIterator<Item = (String, V)>) -> Result<()> {
    let write = || -> Result<()> {
        // The library leaves a file that only its owner may read; this one gets what any other new file has.
        let permissions = File::create(path)?.metadata()?.permissions();
        safetensors::serialize_to_file(tensors, None, path)?;
        fs::set_permissions(path, permissions)?;
        Ok(File::open(path)?.sync_all()?)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// Waits until a folder's entries are on the disk.
pub fn sync_folder(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| explained(error, "cannot sync the folder", path))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
