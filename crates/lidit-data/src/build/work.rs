//! The hidden folder in which a set is built: its lock, its state, and the move into place.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::file::open_kept;
use super::positions::Positions;
use super::skipped::SkipList;
use crate::error::DataError;
use crate::manifest::{Manifest, ManifestFile, ManifestShard};
use crate::writer::check_replaceable;

const FORMAT_VERSION: u32 = 1;
const STATE: &str = "state.json";

/// How a build began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildStart {
    /// From nothing.
    New,
    /// From the finished shards of an earlier attempt, which hold this many rows.
    Resumed {
        /// Rows of the finished shards.
        rows: u64,
    },
    /// From nothing, since what an earlier attempt left can't be used; why not.
    Over {
        /// Why not.
        reason: String,
    },
}

/// What is done, after each finished shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    format_version: u32,
    /// Of the request and the input; another build can't go on from here.
    identity: String,
    /// Rows of the input before this one have been met.
    pub next: u64,
    /// Of those, the rows whose shards are not finished.
    pub pending: Positions,
    /// Finished shards, in the order in which they were finished.
    pub shards: Vec<ManifestShard>,
    /// Rows that were skipped before `next`, and the length of their list in bytes.
    skipped: u64,
    skipped_bytes: u64,
}

/// `.NAME.lidit-building` beside the output: `set/` with the shards so far, `state.json`, `lock`.
///
/// Dropped unfinished it stays, if it has a finished shard, so that the same build can go on.
pub(super) struct WorkFolder {
    out: PathBuf,
    path: PathBuf,
    pub state: State,
    pub skipped: SkipList,
    // The system frees it when the process ends, however that happens.
    _lock: File,
}

impl WorkFolder {
    /// Locks the folder and takes over what an earlier attempt with the same identity left.
    pub fn open(out: &Path, identity: String) -> Result<(Self, BuildStart), DataError> {
        let out = std::path::absolute(out).map_err(DataError::io(out))?;
        let (Some(parent), Some(name)) = (out.parent(), out.file_name()) else {
            return Err(DataError::NotOurs {
                path: out,
                problem: "is no folder that can be written".to_owned(),
            });
        };
        // A refusal leaves nothing behind.
        check_replaceable(&out)?;
        fs::create_dir_all(parent).map_err(DataError::io(parent))?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(".lidit-building");
        let path = parent.join(hidden);
        let lock = lock(&path, &out)?;
        recover(&path, &out)?;
        let (state, start) = match State::read(&path, &identity)? {
            Earlier::None => (None, BuildStart::New),
            Earlier::Useless(reason) => (None, BuildStart::Over { reason }),
            Earlier::Good(state) => {
                let rows = state.shards.iter().map(|shard| shard.rows).sum();
                (Some(state), BuildStart::Resumed { rows })
            }
        };
        let set = path.join("set");
        fs::create_dir_all(&set).map_err(DataError::io(&set))?;
        let state = state.unwrap_or(State {
            format_version: FORMAT_VERSION,
            identity,
            next: 0,
            pending: Positions::default(),
            shards: Vec::new(),
            skipped: 0,
            skipped_bytes: 0,
        });
        remove_unfinished(&set, &state)?;
        let skipped = SkipList::open(&set, state.skipped, state.skipped_bytes)?;
        let folder = Self {
            out,
            path,
            state,
            skipped,
            _lock: lock,
        };
        Ok((folder, start))
    }

    /// Where the shards go.
    pub fn set(&self) -> PathBuf {
        self.path.join("set")
    }

    /// Remembers a finished shard, and where the build would go on.
    pub fn finished(&mut self, shard: ManifestShard, next: u64, pending: Positions) -> Result<(), DataError> {
        let (skipped, skipped_bytes) = self.skipped.sync()?;
        self.state.shards.push(shard);
        self.state.next = next;
        self.state.pending = pending;
        (self.state.skipped, self.state.skipped_bytes) = (skipped, skipped_bytes);
        self.state.write(&self.path)
    }

    /// Ends the list of skipped rows and says what the manifest must, if there are any.
    pub fn close_skipped(&mut self) -> Result<Option<ManifestFile>, DataError> {
        self.skipped.sync()?;
        self.skipped.close()
    }

    /// Writes the manifest and puts the set in its place.
    pub fn put_in_place(self, manifest: &Manifest) -> Result<(), DataError> {
        let set = self.set();
        manifest.write(&set)?;
        sync_folder(&set)?;
        check_replaceable(&self.out)?;
        let rename = |from: &Path, to: &Path| fs::rename(from, to).map_err(DataError::io(to));
        if self.out.exists() {
            rename(&self.out, &self.path.join("old"))?;
        }
        rename(&set, &self.out)?;
        sync_folder(self.out.parent().unwrap_or(&self.out))?;
        fs::remove_dir_all(&self.path).map_err(DataError::io(&self.path))
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // Nothing to go on from. Failing to tidy up hides no error: the next attempt clears the folder.
        if self.state.shards.is_empty() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

enum Earlier {
    None,
    Good(State),
    Useless(String),
}

impl State {
    fn read(folder: &Path, identity: &str) -> Result<Earlier, DataError> {
        let path = folder.join(STATE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Earlier::None),
            Err(error) => return Err(DataError::io(&path)(error)),
        };
        let useless = |reason: &str| Ok(Earlier::Useless(reason.to_owned()));
        let state: Self = match serde_json::from_slice(&bytes) {
            Ok(state) => state,
            Err(error) => return useless(&format!("{} can't be read: {error}", path.display())),
        };
        if state.format_version != FORMAT_VERSION || state.identity != identity {
            return useless("it had other flags, or the input has changed since");
        }
        for shard in &state.shards {
            let path = folder.join("set").join(&shard.file);
            if fs::metadata(&path).map(|found| found.len()).ok() != Some(shard.bytes) {
                return useless(&format!("its shard {} is not whole", shard.file));
            }
        }
        Ok(Earlier::Good(state))
    }

    fn write(&self, folder: &Path) -> Result<(), DataError> {
        let (path, fresh) = (folder.join(STATE), folder.join("state.json.new"));
        let wrap = || DataError::io(&fresh);
        let text = serde_json::to_vec(self).map_err(|error| wrap()(error.into()))?;
        let mut file = File::create(&fresh).map_err(wrap())?;
        file.write_all(&text).map_err(wrap())?;
        file.sync_all().map_err(wrap())?;
        sync_folder(&folder.join("set"))?;
        fs::rename(&fresh, &path).map_err(DataError::io(&path))?;
        sync_folder(folder)
    }
}

// A finished build removes the folder, so a lock that was waited for may be on a file that is gone: then try again.
fn lock(folder: &Path, out: &Path) -> Result<File, DataError> {
    let path = folder.join("lock");
    let wrap = || DataError::io(&path);
    let token = std::process::id().to_string();
    loop {
        fs::create_dir_all(folder).map_err(DataError::io(folder))?;
        let mut file = match open_kept(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            opened => opened.map_err(wrap())?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                file.read_to_string(&mut process).map_err(wrap())?;
                return Err(DataError::BeingBuilt {
                    out: out.to_owned(),
                    process,
                });
            }
            Err(TryLockError::Error(error)) => return Err(wrap()(error)),
        }
        file.set_len(0).map_err(wrap())?;
        file.rewind().map_err(wrap())?;
        file.write_all(token.as_bytes()).map_err(wrap())?;
        if fs::read_to_string(&path).is_ok_and(|found| found == token) {
            return Ok(file);
        }
    }
}

// Killed between the two renames, a build leaves the earlier set in its folder: it goes back.
fn recover(folder: &Path, out: &Path) -> Result<(), DataError> {
    let old = folder.join("old");
    if !old.exists() {
        return Ok(());
    }
    if out.exists() {
        return fs::remove_dir_all(&old).map_err(DataError::io(&old));
    }
    fs::rename(&old, out).map_err(DataError::io(out))
}

fn remove_unfinished(set: &Path, state: &State) -> Result<(), DataError> {
    for entry in fs::read_dir(set).map_err(DataError::io(set))? {
        let path = entry.map_err(DataError::io(set))?.path();
        let name = path.file_name().unwrap_or_default();
        let is_kept = name == super::skipped::FILE || state.shards.iter().any(|shard| name == shard.file.as_str());
        if !is_kept {
            fs::remove_file(&path).map_err(DataError::io(&path))?;
        }
    }
    Ok(())
}

// Renames and new files last only when their folder is on the disk too.
fn sync_folder(folder: &Path) -> Result<(), DataError> {
    if cfg!(unix) {
        let opened = File::open(folder).and_then(|folder| folder.sync_all());
        return opened.map_err(DataError::io(folder));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn open(out: &Path) -> Result<(WorkFolder, BuildStart), DataError> {
        WorkFolder::open(out, "one".into())
    }

    #[test]
    fn a_second_build_into_the_same_folder_is_told_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("set");
        let (first, start) = open(&out).unwrap();
        assert_eq!(start, BuildStart::New);
        let message = open(&out).err().unwrap().to_string();
        let expected = format!("process {} is building it", std::process::id());
        assert!(message.contains(&expected), "{message}");
        drop(first);
        drop(open(&out).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_set_that_was_being_replaced_when_the_process_died_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("set");
        crate::test_shards::write_set(&out, 3, 2, 2);
        let work = folder.path().join(".set.lidit-building");
        fs::create_dir(&work).unwrap();
        fs::rename(&out, work.join("old")).unwrap();
        drop(open(&out).unwrap());
        assert_eq!(Manifest::read(&out.join("manifest.json")).unwrap().rows, 3);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_shard_that_lost_bytes_is_not_built_upon() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("set");
        let (mut work, _) = open(&out).unwrap();
        let shard = ManifestShard {
            file: "a.parquet".into(),
            rows: 1,
            bytes: 3,
            sha256: String::new(),
            bucket: None,
        };
        fs::write(work.set().join("a.parquet"), "abc").unwrap();
        work.finished(shard, 1, Positions::default()).unwrap();
        let set = work.set();
        drop(work);
        let (work, start) = open(&out).unwrap();
        assert_eq!((start, work.state.next), (BuildStart::Resumed { rows: 1 }, 1));
        drop(work);
        fs::write(set.join("a.parquet"), "ab").unwrap();
        let (work, start) = open(&out).unwrap();
        let expected = BuildStart::Over {
            reason: "its shard a.parquet is not whole".into(),
        };
        assert_eq!((start, work.state.next), (expected, 0));
        assert!(!work.set().join("a.parquet").exists());
    }
}
