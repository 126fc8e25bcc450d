//! Files whose content is known: written through to the disk, and hashed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use safetensors::tensor::View;
use sha2::{Digest, Sha256};

/// Size and SHA-256 of a file.
pub fn hash_file(path: &Path) -> Result<(u64, String)> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
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

/// Writes `bytes` to `path` and waits until they are on the disk.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("writing {}", path.display()))
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
        .with_context(|| format!("syncing folder {}", path.display()))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
