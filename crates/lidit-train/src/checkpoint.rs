//! Checkpoints: a folder that exists when its manifest does.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use crate::digest::{hash_file, hex};
use crate::layout::Entry;
use crate::manifest::{FORMAT_VERSION, MANIFEST, MODEL_FILE, Manifest, ema_file};
use crate::optimizer::Moments;
use crate::run_dir::RunDir;

/// A complete checkpoint on disk.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    manifest: Manifest,
}

impl Checkpoint {
    /// Reads the manifest of the checkpoint in `dir`. The files are not read: see [`verify`](Self::verify).
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let manifest: Manifest =
            serde_json::from_str(&text).with_context(|| format!("parsing checkpoint manifest {}", path.display()))?;
        ensure!(
            manifest.format_version == FORMAT_VERSION,
            "{}: format_version is {}, this lidit reads {FORMAT_VERSION}",
            path.display(),
            manifest.format_version
        );
        Ok(Self {
            dir: dir.to_owned(),
            manifest,
        })
    }

    /// All complete checkpoints under `checkpoints`, newest first. A folder whose manifest can't be read is an error of
    /// its own place in the list.
    pub fn list(checkpoints: &Path) -> Result<Vec<(u64, Result<Self>)>> {
        if !checkpoints.exists() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(checkpoints).with_context(|| format!("listing {}", checkpoints.display()))? {
            let entry = entry?;
            if let Some(step) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.strip_prefix("step-"))
                .and_then(|step| step.parse().ok())
            {
                found.push((step, Self::open(&entry.path())));
            }
        }
        found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
        Ok(found)
    }

    /// The newest checkpoint whose files verify. `skipped` hears of each newer one that did not, with the reason.
    pub fn newest_verified(checkpoints: &Path, mut skipped: impl FnMut(u64, &anyhow::Error)) -> Result<Option<Self>> {
        for (step, checkpoint) in Self::list(checkpoints)? {
            match checkpoint.and_then(|checkpoint| checkpoint.verify().map(|()| checkpoint)) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error) => skipped(step, &error),
            }
        }
        Ok(None)
    }

    /// The newest checkpoint of `run` whose files verify; says on stderr which newer ones do not.
    ///
    /// # Errors
    /// There is none.
    pub fn newest_of(run: &RunDir) -> Result<Self> {
        let newest = Self::newest_verified(&run.checkpoints(), |step, error| {
            eprintln!("warning: skipping the checkpoint of step {step}: {error:#}");
        })?;
        newest.with_context(|| {
            format!(
                "{} has no checkpoint that verifies: train it first",
                run.root().display()
            )
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it says it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Reads every file and compares size and digest with the manifest.
    pub fn verify(&self) -> Result<()> {
        for file in &self.manifest.files {
            let path = self.dir.join(&file.name);
            let (bytes, sha256) = hash_file(&path)?;
            ensure!(
                bytes == file.bytes,
                "{} has {bytes} bytes, its manifest says {}: it was cut or written over",
                path.display(),
                file.bytes
            );
            ensure!(
                sha256 == file.sha256,
                "{} has digest {sha256}, its manifest says {}: it is damaged",
                path.display(),
                file.sha256
            );
        }
        Ok(())
    }

    /// Checks that the stored parameters are those of `layout`, and names the first that differs.
    pub fn check_layout(&self, layout: &[Entry]) -> Result<()> {
        let stored = &self.manifest.layout;
        for (ours, theirs) in layout.iter().zip(stored) {
            ensure!(
                ours == theirs,
                "checkpoint {} holds `{}` {:?} where this model has `{}` {:?}: use the config that made it",
                self.dir.display(),
                theirs.name,
                theirs.shape,
                ours.name,
                ours.shape
            );
        }
        ensure!(
            layout.len() == stored.len(),
            "checkpoint {} holds {} parameters where this model has {}: use the config that made it",
            self.dir.display(),
            stored.len(),
            layout.len()
        );
        Ok(())
    }

    /// The f32 masters as one flat vector.
    pub fn masters(&self) -> Result<Vec<f32>> {
        self.flat(MODEL_FILE)
    }

    /// One weight average as a flat vector.
    pub fn ema(&self, half_life: u64) -> Result<Vec<f32>> {
        ensure!(
            self.manifest.ema_half_lives.contains(&half_life),
            "checkpoint {} has no weight average of half-life {half_life}; it has {:?}",
            self.dir.display(),
            self.manifest.ema_half_lives
        );
        self.flat(&ema_file(half_life))
    }

    /// The optimizer's moments for `own`, from however many ranks wrote them.
    pub fn moments(&self, own: Range<usize>) -> Result<Moments> {
        let mut moments = Moments {
            time: 0,
            first: vec![0.0; own.len()],
            second: vec![0.0; own.len()],
        };
        let mut covered = 0;
        for file in &self.manifest.files {
            if !file.name.starts_with("optimizer-") {
                continue;
            }
            let path = self.dir.join(&file.name);
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let part = OptimizerPart::parse(&bytes).with_context(|| format!("parsing {}", path.display()))?;
            let range = part.start.max(own.start)..part.end().min(own.end);
            moments.time = part.moments.time;
            if range.is_empty() {
                continue;
            }
            let from = range.start - part.start..range.end - part.start;
            let to = range.start - own.start..range.end - own.start;
            moments.first[to.clone()].copy_from_slice(&part.moments.first[from.clone()]);
            moments.second[to].copy_from_slice(&part.moments.second[from]);
            covered += range.len();
        }
        ensure!(
            covered == own.len(),
            "checkpoint {} holds optimizer state for {covered} of the {} elements {own:?}",
            self.dir.display(),
            own.len()
        );
        Ok(moments)
    }

    /// One digest of model, optimizer, averages and data position: equal for equal states, whatever the world size
    /// that wrote them, and free of paths.
    pub fn digest(&self) -> Result<String> {
        let len = self.manifest.layout.iter().map(Entry::len).sum();
        let moments = self.moments(0..len)?;
        let mut hasher = Sha256::new();
        hasher.update(serde_json::to_vec(&(
            self.manifest.step,
            &self.manifest.data,
            &self.manifest.layout,
            moments.time,
        ))?);
        hasher.update(bytemuck::cast_slice(&self.masters()?));
        hasher.update(bytemuck::cast_slice(&moments.first));
        hasher.update(bytemuck::cast_slice(&moments.second));
        for half_life in &self.manifest.ema_half_lives {
            hasher.update(half_life.to_le_bytes());
            hasher.update(bytemuck::cast_slice(&self.ema(*half_life)?));
        }
        Ok(hex(&hasher.finalize()))
    }

    fn flat(&self, file: &str) -> Result<Vec<f32>> {
        let path = self.dir.join(file);
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let tensors = SafeTensors::deserialize(&bytes).with_context(|| format!("parsing {}", path.display()))?;
        let mut flat = Vec::with_capacity(self.manifest.layout.iter().map(Entry::len).sum());
        for entry in &self.manifest.layout {
            let tensor = tensors
                .tensor(&entry.name)
                .with_context(|| format!("{} lacks `{}`", path.display(), entry.name))?;
            ensure!(
                tensor.shape() == entry.shape && tensor.dtype() == safetensors::Dtype::F32,
                "{}: `{}` is {:?} {:?}, its manifest says {:?} f32",
                path.display(),
                entry.name,
                tensor.shape(),
                tensor.dtype(),
                entry.shape
            );
            flat.extend(f32s(tensor.data()));
        }
        Ok(flat)
    }
}

/// One rank's range of the optimizer's state.
pub struct OptimizerPart {
    /// First element in flat space.
    pub start: usize,
    /// Both moments of the range.
    pub moments: Moments,
}

impl OptimizerPart {
    fn end(&self) -> usize {
        self.start + self.moments.first.len()
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let number = |key: &str| {
            header
                .metadata()
                .as_ref()
                .and_then(|metadata| metadata.get(key))
                .and_then(|text| text.parse::<usize>().ok())
                .ok_or_else(|| anyhow!("metadata `{key}` is missing"))
        };
        let tensors = SafeTensors::deserialize(bytes)?;
        let moment = |name| -> Result<Vec<f32>> { Ok(f32s(tensors.tensor(name)?.data()).collect()) };
        Ok(Self {
            start: number("start")?,
            moments: Moments {
                time: number("time")?,
                first: moment("moment_1")?,
                second: moment("moment_2")?,
            },
        })
    }
}

pub(crate) fn f32s(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk))
}
