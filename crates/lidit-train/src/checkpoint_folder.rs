//! The folder that holds a run's checkpoints, as one attempt at the run found it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use lidit_dist::World;

use crate::digest::sync_folder;
use crate::disk_fault::explained;

/// Ends the names of folders that are not checkpoints yet.
const PARTIAL: &str = ".partial";
/// Ends the names of folders that are checkpoints no more.
const DELETED: &str = ".deleted";

/// `RUN/checkpoints`: whole checkpoints as `step-N`; hidden, what is being written and what is being deleted.
#[derive(Clone, Debug)]
pub(crate) struct CheckpointFolder {
    path: PathBuf,
    /// Device and inode at the attempt's start.
    identity: (u64, u64),
    /// The same on all ranks of this attempt and in no other: a process of an earlier attempt that still lives writes
    /// elsewhere.
    attempt: String,
}

impl CheckpointFolder {
    /// Looks at the folder, tries whether this rank can write there, and has rank 0 remove what earlier attempts left
    /// half-written. A collective.
    ///
    /// # Errors
    /// The folder is not there, or can't be written.
    pub fn open(path: &Path, world: &World) -> Result<Self> {
        let mut attempt = Vec::new();
        if world.rank() == 0 {
            remove_leftovers(path)?;
            attempt = token().into_bytes();
        }
        world.broadcast(&mut attempt, 0)?;
        let folder = Self {
            path: path.to_owned(),
            identity: identity(path)?,
            attempt: String::from_utf8(attempt).context("the attempt's name from rank 0")?,
        };
        let probe = path.join(format!(".step-{}-{}{PARTIAL}", folder.attempt, world.rank()));
        fs::create_dir(&probe)
            .and_then(|()| fs::remove_dir(&probe))
            .map_err(|error| explained(error, "cannot write to", path))?;
        Ok(folder)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkpoint of `step`.
    pub fn whole(&self, step: u64) -> PathBuf {
        self.path.join(format!("step-{step}"))
    }

    /// Where the checkpoint of `step` is written.
    pub fn partial(&self, step: u64) -> PathBuf {
        self.path.join(format!(".step-{step}.{}{PARTIAL}", self.attempt))
    }

    /// Makes the folder where the checkpoint of `step` is written, unless another rank was faster.
    ///
    /// # Errors
    /// Another folder stands where this one was: the file system that the run began on is mounted no more.
    pub fn make_partial(&self, step: u64) -> Result<PathBuf> {
        ensure!(
            identity(&self.path)? == self.identity,
            "{} is another folder than the run began with: bring the old one back if it was unmounted, moved or replaced",
            self.path.display()
        );
        let partial = self.partial(step);
        match fs::create_dir(&partial) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(explained(error, "cannot make", &partial))
            }
            _ => Ok(partial),
        }
    }

    /// Deletes the checkpoint of `step`. A reader sees all of it or none; being killed leaves a hidden folder, which the
    /// next attempt removes.
    pub fn delete(&self, step: u64) -> Result<()> {
        let whole = self.whole(step);
        let hidden = self.path.join(format!(".step-{step}.{}{DELETED}", self.attempt));
        fs::rename(&whole, &hidden).map_err(|error| explained(error, "cannot delete", &whole))?;
        fs::remove_dir_all(&hidden).map_err(|error| explained(error, "cannot delete", &hidden))
    }

    /// Makes the written checkpoint of `step` visible, in one move. An earlier one of that step, which a resume found
    /// damaged, goes.
    pub fn publish(&self, step: u64) -> Result<()> {
        let (partial, whole) = (self.partial(step), self.whole(step));
        if whole.exists() {
            self.delete(step)?;
        }
        fs::rename(&partial, &whole).map_err(|error| explained(error, "cannot rename", &partial))?;
        sync_folder(&self.path)
    }
}

fn remove_leftovers(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).map_err(|error| explained(error, "cannot list", path))? {
        let entry = entry.map_err(|error| explained(error, "cannot list", path))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(".step-") && (name.ends_with(PARTIAL) || name.ends_with(DELETED)) {
            fs::remove_dir_all(entry.path()).map_err(|error| explained(error, "cannot remove", &entry.path()))?;
        }
    }
    Ok(())
}

fn identity(path: &Path) -> Result<(u64, u64)> {
    let metadata = fs::metadata(path).map_err(|error| explained(error, "cannot find", path))?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A name that no other attempt has.
fn token() -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{:x}-{:x}", std::process::id(), now.as_nanos())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn open(dir: &Path) -> CheckpointFolder {
        CheckpointFolder::open(dir, &World::solo()).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn an_attempt_removes_what_earlier_ones_left_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let earlier = open(dir.path());
        fs::write(earlier.make_partial(3).unwrap().join("x"), "half").unwrap();
        fs::create_dir(dir.path().join(".step-1.old.deleted")).unwrap();
        fs::create_dir(dir.path().join("step-2")).unwrap();
        fs::create_dir(dir.path().join("notes.partial")).unwrap();
        let later = open(dir.path());
        assert_eq!(names(dir.path()), ["notes.partial", "step-2"]);
        assert_ne!(earlier.partial(3), later.partial(3));
    }

    #[test]
    fn a_folder_that_took_the_place_of_the_first_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoints");
        fs::create_dir(&path).unwrap();
        let folder = open(&path);
        fs::rename(&path, dir.path().join("away")).unwrap();
        let message = folder.make_partial(1).unwrap_err().to_string();
        assert!(
            message.contains("checkpoints") && message.contains("unmounted"),
            "{message}"
        );
        fs::create_dir(&path).unwrap();
        let message = folder.make_partial(1).unwrap_err().to_string();
        assert!(message.contains("another folder"), "{message}");
        assert!(names(&path).is_empty());
    }

    #[test]
    fn publishing_replaces_a_damaged_checkpoint_of_the_same_step() {
        let dir = tempfile::tempdir().unwrap();
        let folder = open(dir.path());
        fs::create_dir(folder.whole(4)).unwrap();
        fs::write(folder.whole(4).join("old"), "").unwrap();
        fs::write(folder.make_partial(4).unwrap().join("new"), "").unwrap();
        folder.publish(4).unwrap();
        assert_eq!(names(dir.path()), ["step-4"]);
        assert_eq!(names(&folder.whole(4)), ["new"]);
    }
}
