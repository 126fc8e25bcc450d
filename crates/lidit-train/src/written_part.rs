//! One rank's part of a checkpoint that is on the disk, and how the parts become a checkpoint.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::checkpoint::Checkpoint;
use crate::checkpoint_folder::CheckpointFolder;
use crate::digest::{sync_folder, write_durably};
use crate::manifest::{FileEntry, MANIFEST, Manifest};

/// One rank's part of a checkpoint: its files are on the disk.
pub(crate) struct WrittenPart {
    manifest: Manifest,
    /// Those of this rank, with the digests of the bytes that it had in memory.
    files: Vec<FileEntry>,
}

impl WrittenPart {
    /// A part that was written.
    pub fn new(manifest: Manifest, files: Vec<FileEntry>) -> Self {
        Self { manifest, files }
    }

    /// Optimizer steps made.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// Tells rank 0, by a file beside them, which files are whole.
    pub fn announce(&self, partial: &Path, rank: usize) -> Result<()> {
        if rank > 0 {
            write_durably(&announcement(partial, rank), &serde_json::to_vec(&self.files)?)?;
        }
        sync_folder(partial)
    }

    /// Whether all `writers` ranks have announced their parts. For rank 0, whose own is this one.
    pub fn is_last(&self, folder: &CheckpointFolder, writers: usize) -> bool {
        let partial = folder.partial(self.manifest.step);
        (1..writers).all(|rank| announcement(&partial, rank).is_file())
    }

    /// Makes the parts of all `writers` ranks a checkpoint, and reads it back. For rank 0, when all parts are written:
    /// manifest, fsync, rename, fsync, then every file is read and its digest compared. Returns the checkpoint's bytes.
    ///
    /// # Errors
    /// A part is not there, the disk does not take the manifest, or it gives back other bytes than were written.
    pub fn commit(self, folder: &CheckpointFolder, writers: usize) -> Result<u64> {
        let partial = folder.partial(self.manifest.step);
        let mut manifest = self.manifest;
        manifest.files = self.files;
        for rank in 1..writers {
            let path = announcement(&partial, rank);
            let files: Vec<FileEntry> = fs::read(&path)
                .map_err(anyhow::Error::new)
                .and_then(|text| Ok(serde_json::from_slice(&text)?))
                .with_context(|| {
                    format!(
                        "rank {rank} has written its part, but rank 0 can't read {}: do all ranks see the same folder?",
                        path.display()
                    )
                })?;
            manifest.files.extend(files);
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        manifest.files.sort_by(|a, b| a.name.cmp(&b.name));
        write_durably(&partial.join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?)?;
        sync_folder(&partial)?;
        folder.publish(manifest.step)?;
        let checkpoint = Checkpoint::open(&folder.whole(manifest.step))?;
        checkpoint
            .verify()
            .context("a checkpoint that was just written does not read back: its disk is failing")?;
        Ok(manifest.files.iter().map(|file| file.bytes).sum())
    }
}

fn announcement(partial: &Path, rank: usize) -> PathBuf {
    partial.join(format!("rank-{rank:04}.json"))
}
