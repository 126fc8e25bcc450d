//! The run directory: the one folder that reproduces its run.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image::RgbImage;

use crate::atomic::write_atomically;
use crate::folder_lock::{self, LOCK};

/// What a run makes in its directory, apart from hidden files.
const OWN: [&str; 9] = [
    "config.toml",
    "history.jsonl",
    "metrics.jsonl",
    "tensorboard",
    "samples",
    "checkpoints",
    "incidents",
    "validation",
    "result.json",
];

/// The stages of a run that has several, each with a run directory of its own below this one.
pub(crate) const STAGES_FILE: &str = "stages.toml";

/// A run directory: `config.toml`, `history.jsonl`, `metrics.jsonl`, `tensorboard/`, `samples/`, `checkpoints/`, and
/// `result.json` last.
///
/// [`create`](Self::create) and [`resume`](Self::resume) are for the one process that writes (rank 0) and hold a lock
/// until the value is dropped; every other process [`attach`](Self::attach)es.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    /// `None` for a reader, and on a file system without locks.
    _lock: Option<File>,
}

impl RunDir {
    /// Makes a new run directory; `root` may exist when it is empty.
    ///
    /// # Errors
    /// When `root` holds anything, or another process is writing there.
    pub fn create(root: &Path) -> Result<Self> {
        Self::hold_new(root)?.with_folders()
    }

    /// Takes the lock of the directory of a run with stages, each of which has a run directory below it.
    pub(crate) fn hold(root: &Path) -> Result<Self> {
        Ok(Self {
            root: root.to_owned(),
            _lock: folder_lock::take(root, "run directory")?,
        })
    }

    /// As [`hold`](Self::hold), for a directory that holds nothing yet.
    pub(crate) fn hold_new(root: &Path) -> Result<Self> {
        let run = Self::hold(root)?;
        if let Some(name) = first_entry(root, Entries::All)? {
            bail!(
                "run directory {} is not empty (it holds {name}): continue that run with --resume, or name another --run-dir",
                root.display()
            );
        }
        Ok(run)
    }

    /// Opens a run directory to continue its run; one that is missing or empty is made, as [`create`](Self::create) does.
    ///
    /// # Errors
    /// When `root` holds files but no `config.toml`, so is no run, or another process is writing there.
    pub fn resume(root: &Path) -> Result<Self> {
        let run = Self::hold(root)?;
        // An attempt that died early has made folders but no config.
        if !root.join("config.toml").is_file()
            && let Some(name) = first_entry(root, Entries::Foreign)?
        {
            bail!(
                "{} holds {name} but no config.toml, so it is no run directory: name another --run-dir",
                root.display()
            );
        }
        run.with_folders()
    }

    /// A view of a run that some other process writes, without the lock: for ranks above 0 and for readers.
    ///
    /// # Errors
    /// When `root` is no folder.
    pub fn attach(root: &Path) -> Result<Self> {
        if !root.is_dir() {
            bail!("there is no run directory {}", root.display());
        }
        Ok(Self {
            root: root.to_owned(),
            _lock: None,
        })
    }

    fn with_folders(self) -> Result<Self> {
        for folder in [self.tensorboard(), self.samples(), self.checkpoints()] {
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(self)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The resolved config, `config.toml`.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// Every attempt at the run, `history.jsonl`.
    pub fn history(&self) -> PathBuf {
        self.root.join("history.jsonl")
    }

    /// One line a logged step of the surviving lineage, `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// What every step of the surviving lineage trained on, `stream.jsonl`.
    pub fn stream(&self) -> PathBuf {
        self.root.join("stream.jsonl")
    }

    /// Rows that can't be used, `quarantine.jsonl`.
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine.jsonl")
    }

    /// Event files for `TensorBoard`, `tensorboard/`.
    pub fn tensorboard(&self) -> PathBuf {
        self.root.join("tensorboard")
    }

    /// Sample grids, `samples/`.
    pub fn samples(&self) -> PathBuf {
        self.root.join("samples")
    }

    /// The grid drawn after `step` steps, `samples/step-N.png`.
    pub fn sample_grid(&self, step: u64) -> PathBuf {
        self.samples().join(format!("step-{step}.png"))
    }

    /// Checkpoints, `checkpoints/`.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// Steps whose numbers can't be trusted, `incidents/`; there once the first was met.
    pub fn incidents(&self) -> PathBuf {
        self.root.join("incidents")
    }

    /// What is known of such a step, `incidents/step-N.json`.
    pub fn incident(&self, step: u64) -> PathBuf {
        self.incidents().join(format!("step-{step}.json"))
    }

    /// Validation losses, `validation/`; there once the first step was evaluated.
    pub fn validation(&self) -> PathBuf {
        self.root.join("validation")
    }

    /// That of the weights after `step` steps, `validation/step-N.json`.
    pub fn validation_of(&self, step: u64) -> PathBuf {
        self.validation().join(format!("step-{step}.json"))
    }

    /// The run's outcome, written last, `result.json`.
    pub fn result(&self) -> PathBuf {
        self.root.join("result.json")
    }

    /// Writes the resolved config; a reader sees the old one or the new one, never a part.
    pub fn write_config(&self, toml: &str) -> Result<()> {
        write_atomically(&self.config(), toml.as_bytes())
    }

    /// The resolved config's text; `None` when no attempt got as far as writing it.
    pub fn read_config(&self) -> Result<Option<String>> {
        let path = self.config();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes `samples/step-N.png`.
    pub fn write_sample_grid(&self, step: u64, grid: &RgbImage) -> Result<()> {
        write_atomically(&self.sample_grid(step), &crate::image_grid::png(grid)?)
    }

    /// Writes `result.json`, as one line.
    pub fn write_result(&self, result: &serde_json::Value) -> Result<()> {
        write_atomically(&self.result(), format!("{result}\n").as_bytes())
    }

    /// Removes the `result.json` of an earlier, shorter run; a run that goes on has no result yet.
    pub fn clear_result(&self) -> Result<()> {
        let path = self.result();
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// This machine's name, for people who read the history of a run that moved.
pub(crate) fn host_name() -> String {
    gethostname::gethostname().to_string_lossy().into_owned()
}

/// Which names of a folder count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entries {
    /// All but the lock.
    All,
    /// Those that no run makes; hidden ones are left-overs of files that were being written.
    Foreign,
}

/// The first name in a folder, by order of names.
fn first_entry(root: &Path, which: Entries) -> Result<Option<String>> {
    let read = || -> std::io::Result<Option<String>> {
        let mut first: Option<String> = None;
        for entry in fs::read_dir(root)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let own = name.starts_with('.') || OWN.contains(&name.as_str());
            let counts = name != LOCK && !(own && which == Entries::Foreign);
            if counts && first.as_ref().is_none_or(|f| name < *f) {
                first = Some(name);
            }
        }
        Ok(first)
    };
    read().with_context(|| format!("cannot list {}", root.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_new_run_has_its_folders_and_takes_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        for root in [dir.path().join("a/b"), dir.path().join("c")] {
            let run = RunDir::create(&root).unwrap();
            assert!(run.tensorboard().is_dir() && run.samples().is_dir() && run.checkpoints().is_dir());
        }
    }

    #[test]
    fn a_folder_that_holds_something_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        let message = RunDir::create(dir.path()).unwrap_err().to_string();
        assert!(
            message.contains("notes.txt") && message.contains("--resume"),
            "{message}"
        );
        let message = RunDir::resume(dir.path()).unwrap_err().to_string();
        assert!(message.contains("no config.toml"), "{message}");
    }

    #[test]
    fn a_run_is_resumed_and_an_empty_folder_started() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::resume(dir.path()).unwrap();
        assert_eq!(run.read_config().unwrap(), None);
        drop(run);
        let run = RunDir::resume(dir.path()).unwrap();
        run.write_config("a = 1\n").unwrap();
        run.write_result(&serde_json::json!({"step": 3})).unwrap();
        drop(run);
        let run = RunDir::resume(dir.path()).unwrap();
        assert_eq!(run.read_config().unwrap().as_deref(), Some("a = 1\n"));
        assert_eq!(fs::read_to_string(run.result()).unwrap(), "{\"step\":3}\n");
        run.clear_result().unwrap();
        run.clear_result().unwrap();
        assert!(!run.result().exists());
    }

    #[test]
    fn a_second_writer_is_refused_until_the_first_is_gone_and_readers_never() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunDir::create(dir.path()).unwrap();
        let message = RunDir::resume(dir.path()).unwrap_err().to_string();
        assert!(
            message.contains(&format!("process {}", std::process::id())),
            "{message}"
        );
        RunDir::attach(dir.path()).unwrap();
        drop(first);
        RunDir::resume(dir.path()).unwrap();
    }
}
