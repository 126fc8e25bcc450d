//! Writing a checkpoint: files, then fsync, then the manifest, then rename.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lidit_dist::World;
use safetensors::tensor::{Dtype, TensorView};

use crate::checkpoint::{Checkpoint, OptimizerPart};
use crate::digest::{hash_file, sync_folder, write_durably};
use crate::layout::Entry;
use crate::manifest::{
    DataPosition, FORMAT_VERSION, FileEntry, MANIFEST, MODEL_FILE, Manifest, ema_file, optimizer_file,
};

/// A training state on the host, ready to be written.
pub struct Snapshot {
    /// Optimizer steps made.
    pub step: u64,
    /// Where the sample stream stands.
    pub data: DataPosition,
    /// Fingerprints of the frozen encoders.
    pub encoders: Vec<String>,
    /// Fingerprint of the VAE.
    pub vae: String,
    /// Flat space.
    pub layout: Vec<Entry>,
    /// All masters.
    pub masters: Vec<f32>,
    /// All weight averages, by half-life.
    pub ema: Vec<(u64, Vec<f32>)>,
    /// The optimizer's state that this rank writes; none where another rank writes the same.
    pub optimizer: Option<OptimizerPart>,
}

impl Snapshot {
    /// Writes the checkpoint with all ranks of `world` and deletes all but the newest `keep_last`.
    ///
    /// Readers see the whole checkpoint or none. Earlier checkpoints are untouched when this fails.
    ///
    /// # Errors
    /// Every rank fails when one does.
    pub fn save(&self, checkpoints: &Path, keep_last: usize, world: &World) -> Result<PathBuf> {
        let last = checkpoints.join(format!("step-{}", self.step));
        let partial = checkpoints.join(format!(".step-{}.partial", self.step));
        agree(world, "preparing the checkpoint folder", || {
            if world.rank() == 0 {
                prepare(&partial)?;
            }
            Ok(())
        })?;
        agree(world, "writing the optimizer's state", || {
            self.write_optimizer(&partial, world.rank())
        })?;
        agree(world, "writing the checkpoint", || {
            if world.rank() == 0 {
                self.write_weights(&partial)?;
                self.commit(&partial, &last, world.size())?;
                prune(checkpoints, self.step, keep_last)?;
            }
            Ok(())
        })?;
        Ok(last)
    }

    fn write_optimizer(&self, dir: &Path, rank: usize) -> Result<()> {
        let Some(part) = &self.optimizer else {
            return Ok(());
        };
        let shape = vec![part.moments.first.len()];
        let tensors = [
            ("moment_1", shape.clone(), part.moments.first.as_slice()),
            ("moment_2", shape, part.moments.second.as_slice()),
        ];
        let metadata = HashMap::from([
            ("start".to_owned(), part.start.to_string()),
            ("time".to_owned(), part.moments.time.to_string()),
            ("format_version".to_owned(), FORMAT_VERSION.to_string()),
        ]);
        write_safetensors(&dir.join(optimizer_file(rank)), tensors, Some(metadata))
    }

    fn write_weights(&self, dir: &Path) -> Result<()> {
        write_safetensors(&dir.join(MODEL_FILE), self.named(&self.masters), None)?;
        for (half_life, weights) in &self.ema {
            write_safetensors(&dir.join(ema_file(*half_life)), self.named(weights), None)?;
        }
        Ok(())
    }

    fn named<'a>(&'a self, flat: &'a [f32]) -> impl Iterator<Item = (&'a str, Vec<usize>, &'a [f32])> {
        self.layout
            .iter()
            .map(move |entry| (entry.name.as_str(), entry.shape.clone(), &flat[entry.range()]))
    }

    fn commit(&self, partial: &Path, last: &Path, world_size: usize) -> Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(partial)? {
            let path = entry?.path();
            let (bytes, sha256) = hash_file(&path)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push(FileEntry { name, bytes, sha256 });
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            lidit_version: env!("CARGO_PKG_VERSION").to_owned(),
            step: self.step,
            world_size,
            data: self.data.clone(),
            encoders: self.encoders.clone(),
            vae: self.vae.clone(),
            ema_half_lives: self.ema.iter().map(|(half_life, _)| *half_life).collect(),
            layout: self.layout.clone(),
            files,
        };
        sync_folder(partial)?;
        write_durably(&partial.join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?)?;
        sync_folder(partial)?;
        if last.exists() {
            // The same step saved again, after a damaged one was skipped on resume.
            fs::remove_dir_all(last).with_context(|| format!("replacing {}", last.display()))?;
        }
        fs::rename(partial, last).with_context(|| format!("renaming {} to {}", partial.display(), last.display()))?;
        sync_folder(last.parent().unwrap_or(Path::new(".")))
    }
}

/// Runs `work` on every rank and fails on all of them when it failed on one.
fn agree(world: &World, what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let outcome = work();
    let failed = world.max(u64::from(outcome.is_err()))?;
    outcome?;
    if failed > 0 {
        bail!("{what} failed on another rank; its own message says why");
    }
    Ok(())
}

fn prepare(partial: &Path) -> Result<()> {
    if partial.exists() {
        fs::remove_dir_all(partial).with_context(|| format!("removing the half-written {}", partial.display()))?;
    }
    fs::create_dir_all(partial).with_context(|| format!("creating {}", partial.display()))
}

/// Deletes all but the newest `keep_last` checkpoints up to `newest`, the one just written and read back. Later ones
/// can only be damaged leftovers that a resume skipped: they neither count nor go.
fn prune(checkpoints: &Path, newest: u64, keep_last: usize) -> Result<()> {
    let mut steps: Vec<u64> = Checkpoint::list(checkpoints)?
        .into_iter()
        .map(|(step, _)| step)
        .collect();
    steps.retain(|&step| step <= newest);
    for step in steps.into_iter().skip(keep_last) {
        let old = checkpoints.join(format!("step-{step}"));
        fs::remove_dir_all(&old).with_context(|| format!("deleting old {}", old.display()))?;
    }
    Ok(())
}

fn write_safetensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, Vec<usize>, &'a [f32])>,
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    let views = tensors
        .into_iter()
        .map(|(name, shape, values)| {
            TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values))
                .map(|view| (name, view))
                .with_context(|| format!("tensor `{name}`"))
        })
        .collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(views, metadata).with_context(|| format!("serialising {}", path.display()))?;
    write_durably(path, &bytes)
}
