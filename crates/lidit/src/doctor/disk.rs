//! The run directory's file system: can it be written, how fast, how much, and do all ranks see it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use lidit_dist::World;
use lidit_train::{RunConfig, TrainConfig, readable_bytes};

use super::check::Check;

/// What is written to find the speed.
const PROBE_BYTES: usize = 64 << 20;
const CHUNK: usize = 4 << 20;
/// A checkpoint of a small network would take minutes.
const SLOW_BYTES_PER_S: f64 = 2e7;

/// Writes 64 MiB where checkpoints would go, and waits until they are on the disk.
pub fn write(run_dir: &Path) -> Check {
    let advice = "name a --run-dir that every rank can write";
    let folder = existing(run_dir);
    let begun = Instant::now();
    match probe(&folder) {
        Ok(()) => {
            let rate = PROBE_BYTES as f64 / begun.elapsed().as_secs_f64();
            let found = format!("{} at {:.0} MB/s, on the disk", folder.display(), rate / 1e6);
            let check = if rate < SLOW_BYTES_PER_S {
                Check::warning(
                    "disk write",
                    found,
                    "every save takes long: a faster file system, or a larger train.checkpoint_every",
                )
            } else {
                Check::ok("disk write", found)
            };
            check.of(rate)
        }
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            let found = format!("{}: 64 MiB don't fit: {error}", folder.display());
            Check::failed("disk write", found, "make room, or name another --run-dir")
        }
        Err(error) => Check::failed("disk write", format!("{}: {error}", folder.display()), advice),
    }
}

fn probe(folder: &Path) -> io::Result<()> {
    let probe = Probe::create(folder, "write")?;
    let chunk = vec![0x5a; CHUNK];
    let mut file = &probe.file;
    for _ in 0..PROBE_BYTES / CHUNK {
        file.write_all(&chunk)?;
    }
    file.sync_all()
}

/// A file that is gone when this value is.
struct Probe {
    path: PathBuf,
    file: File,
}

impl Probe {
    fn create(folder: &Path, purpose: &str) -> io::Result<Self> {
        let path = folder.join(format!(".lidit-doctor-{purpose}-{}", unique()));
        let file = File::create_new(&path)?;
        Ok(Self { path, file })
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // It is ours and was there; a disk that fails now has been reported by the write.
        let _ = fs::remove_file(&self.path);
    }
}

/// A name that no other rank's file has.
fn unique() -> String {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanoseconds = time.map_or(0, |time| time.as_nanos());
    format!(
        "{}-{}-{nanoseconds}",
        lidit_dist::process::host_name(),
        std::process::id()
    )
}

/// Room for the checkpoints that the run keeps, and the one that is being written.
pub fn space(run_dir: &Path, config: &RunConfig, parameters: u64) -> Check {
    let folder = existing(run_dir);
    // f32: weights, one average a half-life, two moments.
    let copies = 3 + config.train.ema_half_lives.len() as u64;
    let checkpoint = 4 * parameters * copies;
    let needed = checkpoint.saturating_mul(most_kept(&config.train));
    match rustix::fs::statvfs(&folder) {
        Ok(system) => space_verdict(checkpoint, needed, system.f_bavail.saturating_mul(system.f_frsize)),
        Err(error) => Check::failed(
            "disk space",
            format!("{}: {error}", folder.display()),
            "name another --run-dir",
        ),
    }
}

/// The newest ones, those that are kept for good, and the one that is being written.
fn most_kept(train: &TrainConfig) -> u64 {
    let for_good = train.steps.checked_div(train.keep_every).unwrap_or(0);
    (train.keep_last as u64 + 1).saturating_add(for_good)
}

fn space_verdict(checkpoint: u64, needed: u64, free: u64) -> Check {
    let [checkpoint, size, there] = [checkpoint, needed, free].map(|bytes| readable_bytes(bytes as f64));
    let found = format!("checkpoints of {checkpoint} take {size} at most, {there} are free");
    let advice = "make room, name another --run-dir, lower train.keep_last, or raise train.keep_every";
    let check = if needed > free {
        Check::failed("disk space", found, advice)
    } else if needed.saturating_mul(2) > free {
        Check::warning("disk space", found, advice)
    } else {
        Check::ok("disk space", found)
    };
    check.of(free as f64)
}

/// Whether all ranks see the same folder: rank 0 leaves a file there for a moment. Collective.
pub fn shared(run_dir: &Path, world: &World) -> Result<Check> {
    let folder = existing(run_dir);
    let probe = if world.rank() == 0 {
        Probe::create(&folder, "shared").ok()
    } else {
        None
    };
    let mut path = probe.as_ref().map_or(Vec::new(), |probe| {
        probe.path.to_string_lossy().into_owned().into_bytes()
    });
    world.broadcast(&mut path, 0)?;
    let path = PathBuf::from(String::from_utf8_lossy(&path).into_owned());
    // Rank 0 removes the file when all have looked.
    let sees = path.is_file();
    world.barrier()?;
    let advice = "the run directory must be on a file system that all hosts share";
    Ok(if path.as_os_str().is_empty() {
        Check::failed("shared folder", "rank 0 can't write its file", advice)
    } else if sees {
        Check::ok(
            "shared folder",
            format!("{}: rank 0's file is seen", path.parent().unwrap_or(&folder).display()),
        )
    } else {
        Check::failed(
            "shared folder",
            format!("rank 0's {} is not there", path.display()),
            advice,
        )
    })
}

/// The folder itself, or the nearest one above it that is there: looking must not make it.
fn existing(folder: &Path) -> PathBuf {
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let found = whole.ancestors().find(|folder| folder.is_dir());
    found.unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::check::Status;
    use super::*;

    #[test]
    fn a_disk_must_hold_all_checkpoints_that_are_kept() {
        for (needed, free, status) in [
            (100, 300, Status::Ok),
            (100, 150, Status::Warning),
            (100, 99, Status::Failed),
            (u64::MAX, 1, Status::Failed),
        ] {
            assert_eq!(space_verdict(10, needed, free).status, status, "{needed} of {free}");
        }
    }

    #[test]
    fn checkpoints_that_are_kept_for_good_count_with_the_newest() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/run/debug.toml");
        for (sets, kept) in [
            (["train.keep_last=2", "train.keep_every=0"], 3),
            (["train.keep_last=2", "train.keep_every=10"], 5),
        ] {
            let config = RunConfig::load(&path, &sets.map(String::from)).unwrap();
            assert_eq!(
                most_kept(&config.train),
                kept,
                "{sets:?} in {} steps",
                config.train.steps
            );
        }
    }

    #[test]
    fn looking_at_a_folder_leaves_it_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("runs/mine");
        assert_eq!(existing(&run_dir), dir.path());
        assert_ne!(write(&run_dir).status, Status::Failed);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let gone = Path::new("/proc/nowhere");
        assert_eq!(write(gone).status, Status::Failed, "nobody writes into /proc");
    }
}
