//! A folder that one process at a time writes.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::disk_fault::explained;
use crate::run_dir::host_name;

/// Held by the process that writes the folder; no part of what it holds.
pub(crate) const LOCK: &str = ".lock";

/// Makes the folder `root`, which messages call `what`, and takes its lock until the file is dropped. `None` on a file
/// system without locks.
///
/// # Errors
/// Another process holds it; it is named.
pub(crate) fn take(root: &Path, what: &str) -> Result<Option<File>> {
    fs::create_dir_all(root).with_context(|| format!("cannot make the {what} {}", root.display()))?;
    let path = root.join(LOCK);
    let mut file = File::options()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| explained(error, "cannot open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            bail!(
                "{what} {} is being written by another process ({}): wait for it, or stop it first",
                root.display(),
                holder.trim()
            );
        }
        // Some cluster file systems have no locks; the scheduler is then what keeps two jobs apart.
        Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => return Ok(None),
        Err(TryLockError::Error(e)) => return Err(e).with_context(|| format!("cannot lock {}", path.display())),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "process {} on {}", std::process::id(), host_name()))
        .map_err(|error| explained(error, "cannot write", &path))?;
    Ok(Some(file))
}
