//! Exports: one set of weights with what they mean, for Python and for other runs (`docs/export.md`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Device;
use lidit_model::{Conditioning, ModelConfig, Objective, Sampler};
use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, f32s};
use crate::config::RunConfig;
use crate::digest::{hash_file, sync_folder, write_durably, write_tensors};
use crate::example::Example;
use crate::features::EncoderIdentity;
use crate::manifest::MODEL_FILE;
use crate::network_spec::NetworkSpec;
use crate::pytorch_layout::{ForPyTorch, from_pytorch};
use crate::run_dir::RunDir;
use crate::saved_weights::SavedWeights;
use crate::weights::Weights;

/// Version of an export's format.
const FORMAT_VERSION: u32 = 1;

/// How matrices lie: `[out, in]`, as in `PyTorch`.
const LAYOUT: &str = "pytorch";

/// Everything but the weights.
const CONFIG_FILE: &str = "config.json";

/// Inputs, and what the network says to them.
const EXAMPLE_FILE: &str = "example.safetensors";

/// An export on the disk: `config.json`, `model.safetensors`, and `example.safetensors` where one was asked for.
#[derive(Debug)]
pub struct Export {
    dir: PathBuf,
    config: ExportConfig,
}

/// `config.json` of an export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportConfig {
    /// Version of this format.
    pub format_version: u32,
    /// Version of the binary that wrote it.
    pub lidit_version: String,
    /// How matrices lie in the file; always `pytorch`.
    pub layout: String,
    /// `raw` or `ema:HALF_LIFE`.
    pub weights: String,
    /// Optimizer steps that they had.
    pub step: u64,
    /// Samples drawn in those steps.
    pub samples_seen: u64,
    /// SHA-256 of `model.safetensors`.
    pub sha256: String,
    /// Shape and switches of the network.
    pub model: ModelConfig,
    /// What it knows of the encoders' states.
    pub conditioning: Conditioning,
    /// The frozen encoders, their models without their folders.
    pub encoders: Vec<EncoderIdentity>,
    /// What the network predicts.
    pub objective: Objective,
    /// How the run draws.
    pub sampler: Sampler,
    /// What it draws in: `identity` for pixels, or the VAE's fingerprint.
    pub vae: String,
}

/// What to export, and where to.
pub struct ExportRequest<'a> {
    /// The run directory.
    pub run: &'a Path,
    /// The step of the checkpoint; the newest that verifies if none is named.
    pub step: Option<u64>,
    /// Which of its weights.
    pub weights: Weights,
    /// The folder; it may be empty or an earlier export.
    pub out: &'a Path,
    /// Where to compute an example; none is written if none is named.
    pub example: Option<Device>,
}

impl ExportRequest<'_> {
    /// Writes the export beside `out` first; `out` never holds a part of it.
    ///
    /// # Errors
    /// The run has no such checkpoint or weights; `out` holds something else than an export.
    pub fn write(&self) -> Result<Export> {
        let run = RunDir::find(self.run)?;
        let config = RunConfig::load(&run.config(), &[])?;
        let checkpoint = match self.step {
            None => Checkpoint::newest_of(&run)?,
            Some(step) => {
                let checkpoint = Checkpoint::open(&run.checkpoints().join(format!("step-{step}")))?;
                checkpoint.verify()?;
                checkpoint
            }
        };
        let saved = SavedWeights::of_checkpoint(&config, run.config(), &checkpoint, self.weights)?;
        let manifest = checkpoint.manifest();
        let about = ExportConfig::new(&saved.network, config.sample.sampler.clone());
        let about = ExportConfig {
            weights: checkpoint.named(self.weights)?.to_string(),
            step: manifest.step,
            samples_seen: manifest.data.position,
            ..about
        };
        let device = self.example.as_ref().map(|device| device.clone().autodiff());
        let example = device.map(|device| Example::random(&saved.network, &device));
        Export::write(self.out, about, &saved, example.as_ref())
    }
}

impl Export {
    /// Reads what the export in `dir` says of itself; the weights are not looked at.
    ///
    /// # Errors
    /// There is none, or it is of another format.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let config: ExportConfig =
            serde_json::from_str(&text).with_context(|| format!("parsing the export's {}", path.display()))?;
        ensure!(
            config.format_version == FORMAT_VERSION && config.layout == LAYOUT,
            "{}: format_version is {} and layout `{}`, this lidit reads {FORMAT_VERSION} and `{LAYOUT}`",
            path.display(),
            config.format_version,
            config.layout
        );
        Ok(Self {
            dir: dir.to_owned(),
            config,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it says of itself.
    pub fn config(&self) -> &ExportConfig {
        &self.config
    }

    /// Reads and verifies the weights.
    ///
    /// # Errors
    /// The file's digest is not the one in `config.json`; it is damaged; a tensor is not f32.
    pub fn read(&self) -> Result<SavedWeights> {
        let path = self.dir.join(MODEL_FILE);
        let (_, sha256) = hash_file(&path)?;
        ensure!(
            sha256 == self.config.sha256,
            "{} has digest {sha256}, its {CONFIG_FILE} says {}: it is damaged or of another export",
            path.display(),
            self.config.sha256
        );
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let stored = SafeTensors::deserialize(&bytes).with_context(|| format!("parsing {}", path.display()))?;
        let tensors = stored.iter().map(|(name, tensor)| {
            ensure!(
                tensor.dtype() == Dtype::F32,
                "{}: `{name}` is {:?}, an export holds F32",
                path.display(),
                tensor.dtype()
            );
            let (shape, values) = from_pytorch(tensor.shape(), f32s(tensor.data()).collect());
            Ok((name.to_owned(), shape, values))
        });
        SavedWeights::new(path.clone(), self.dir.join(CONFIG_FILE), self.config.network(), tensors)
    }

    /// Writes into a hidden folder beside `out` and renames it; sets the digest of `config`.
    pub(crate) fn write(
        out: &Path,
        mut config: ExportConfig,
        saved: &SavedWeights,
        example: Option<&Example>,
    ) -> Result<Self> {
        check_free(out)?;
        let partial = beside(out, "partial")?;
        fresh_folder(&partial)?;
        let model = partial.join(MODEL_FILE);
        let tensors = saved.names().filter_map(|name| Some((name, saved.get(name)?)));
        let tensors = tensors.map(|(name, (shape, values))| (name.to_owned(), ForPyTorch::new(shape, values)));
        write_tensors(&model, tensors)?;
        config.sha256 = hash_file(&model)?.1;
        if let Some(example) = example {
            example.write(&partial.join(EXAMPLE_FILE), saved)?;
        }
        let mut text = serde_json::to_vec_pretty(&config)?;
        text.push(b'\n');
        write_durably(&partial.join(CONFIG_FILE), &text)?;
        sync_folder(&partial)?;
        replace_folder(&partial, out)?;
        Ok(Self {
            dir: out.to_owned(),
            config,
        })
    }
}

impl ExportConfig {
    /// `network` without a step; paths of the encoders' files are cut to their last part.
    pub(crate) fn new(network: &NetworkSpec, sampler: Sampler) -> Self {
        let mut encoders = network.encoders.clone();
        for encoder in &mut encoders {
            let name = Path::new(&encoder.llm.model).file_name();
            encoder.llm.model = name.unwrap_or_default().to_string_lossy().into_owned();
        }
        Self {
            format_version: FORMAT_VERSION,
            lidit_version: env!("CARGO_PKG_VERSION").to_owned(),
            layout: LAYOUT.to_owned(),
            weights: Weights::Raw.to_string(),
            step: 0,
            samples_seen: 0,
            sha256: String::new(),
            model: network.model.clone(),
            conditioning: network.conditioning.clone(),
            encoders,
            objective: network.objective.clone(),
            sampler,
            vae: network.vae.clone(),
        }
    }

    /// What the weights mean.
    pub fn network(&self) -> NetworkSpec {
        NetworkSpec {
            model: self.model.clone(),
            conditioning: self.conditioning.clone(),
            encoders: self.encoders.clone(),
            objective: self.objective.clone(),
            vae: self.vae.clone(),
        }
    }
}

/// Refuses to write over anything but an export.
fn check_free(out: &Path) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(out).with_context(|| format!("listing {}", out.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    let own = [CONFIG_FILE, MODEL_FILE, EXAMPLE_FILE];
    let foreign = names.iter().find(|name| !own.contains(&name.as_str()));
    match foreign.or(names.first()) {
        Some(name) if foreign.is_some() || Export::open(out).is_err() => bail!(
            "{} holds {name}, which is no part of an export: name another --out or empty it",
            out.display()
        ),
        _ => Ok(()),
    }
}

fn fresh_folder(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("removing the half-written {}", path.display()))?;
    }
    fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))
}

/// A hidden folder in the same parent, which a rename can take from.
fn beside(out: &Path, ending: &str) -> Result<PathBuf> {
    let name = out
        .file_name()
        .with_context(|| format!("--out {} names no folder", out.display()))?;
    Ok(out.with_file_name(format!(".{}.{ending}", name.to_string_lossy())))
}

/// Puts `from` in the place of `to`, which is missing, empty or an earlier export.
fn replace_folder(from: &Path, to: &Path) -> Result<()> {
    let old = beside(to, "old")?;
    if to.exists() {
        fresh_folder(&old)?;
        fs::rename(to, &old).with_context(|| format!("moving the earlier {} away", to.display()))?;
    }
    fs::rename(from, to).with_context(|| format!("renaming {} to {}", from.display(), to.display()))?;
    if old.exists() {
        fs::remove_dir_all(&old).with_context(|| format!("removing {}", old.display()))?;
    }
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_folder(parent.unwrap_or(Path::new(".")))
}

#[cfg(test)]
pub(crate) mod tests;
