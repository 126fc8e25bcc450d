//! Weights on the disk, with what they mean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::checkpoint::Checkpoint;
use crate::config::RunConfig;
use crate::export::Export;
use crate::layout::Entry;
use crate::manifest::MODEL_FILE;
use crate::network_spec::NetworkSpec;
use crate::run_dir::RunDir;
use crate::weights::Weights;

/// One set of weights from a run's checkpoint or from an export, read and verified.
#[derive(Debug)]
pub struct SavedWeights {
    /// The file that holds them.
    pub file: PathBuf,
    /// The file that says what they mean.
    pub config: PathBuf,
    /// What they mean.
    pub network: NetworkSpec,
    /// Each parameter's shape and first element in `values`, by path.
    parameters: BTreeMap<String, (Vec<usize>, usize)>,
    values: Vec<f32>,
}

impl SavedWeights {
    /// Reads `path`: an export, or a run directory, whose newest verified checkpoint is taken.
    ///
    /// # Errors
    /// `path` is neither; it is damaged; it has no such weights.
    pub fn open(path: &Path, weights: Weights) -> Result<Self> {
        if !path.join(MODEL_FILE).is_file() {
            let run = RunDir::find(path)?;
            ensure!(
                run.config().is_file(),
                "{} is neither an export (it has no {MODEL_FILE}) nor a run directory (it has no config.toml)",
                path.display()
            );
            let config = RunConfig::load(&run.config(), &[])?;
            return Self::of_checkpoint(&config, run.config(), &Checkpoint::newest_of(&run)?, weights);
        }
        let export = Export::open(path)?;
        ensure!(
            weights.is(&export.config().weights),
            "{} holds the weights `{}`, not `{weights}`",
            path.display(),
            export.config().weights
        );
        export.read()
    }

    /// Weights of a run's checkpoint; `config` was read from `config_file`.
    pub fn of_checkpoint(
        config: &RunConfig,
        config_file: PathBuf,
        checkpoint: &Checkpoint,
        weights: Weights,
    ) -> Result<Self> {
        let manifest = checkpoint.manifest();
        let network = NetworkSpec::of(config, &manifest.layout, &manifest.encoders, &manifest.vae)?;
        let places = manifest.layout.iter();
        let places = places.map(|entry| (entry.name.clone(), (entry.shape.clone(), entry.offset)));
        Ok(Self {
            file: checkpoint.dir().join(checkpoint.file_of(weights)?),
            config: config_file,
            network,
            parameters: places.collect(),
            values: checkpoint.weights(weights)?,
        })
    }

    /// Weights by path, shape and values.
    pub(crate) fn new(
        file: PathBuf,
        config: PathBuf,
        network: NetworkSpec,
        tensors: impl IntoIterator<Item = Result<(String, Vec<usize>, Vec<f32>)>>,
    ) -> Result<Self> {
        let mut saved = Self {
            file,
            config,
            network,
            parameters: BTreeMap::new(),
            values: Vec::new(),
        };
        for tensor in tensors {
            let (name, shape, values) = tensor?;
            saved.parameters.insert(name, (shape, saved.values.len()));
            saved.values.extend(values);
        }
        Ok(saved)
    }

    /// The paths of all parameters, in order of text.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parameters.keys().map(String::as_str)
    }

    /// Shape and values of a parameter.
    pub fn get(&self, name: &str) -> Option<(&[usize], &[f32])> {
        let (shape, offset) = self.parameters.get(name)?;
        let len: usize = shape.iter().product();
        Some((shape, &self.values[*offset..offset + len]))
    }

    /// The parameter that `entry` names.
    ///
    /// # Errors
    /// There is none, or it has another shape.
    pub(crate) fn parameter(&self, entry: &Entry) -> Result<&[f32]> {
        let (shape, values) = self
            .get(&entry.name)
            .with_context(|| format!("{} lacks `{}`", self.file.display(), entry.name))?;
        ensure!(
            shape == entry.shape,
            "{}: `{}` is {shape:?} there and {:?} here",
            self.file.display(),
            entry.name,
            entry.shape
        );
        Ok(values)
    }
}
