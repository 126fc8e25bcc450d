//! A model in the Hugging Face layout: `config.json` beside one or several safetensors files.

use std::path::{Path, PathBuf};

use crate::EncoderError;
use crate::config_json::ConfigJson;
use crate::tensor_files::TensorFiles;

/// What the weights are called before their ending.
const STEM: &str = "model";

/// An open folder. Tensors are read, one at a time, when asked for.
pub struct ModelFolder {
    folder: PathBuf,
    config: ConfigJson,
    tensors: TensorFiles,
}

impl ModelFolder {
    /// Reads the config and the headers of all weight files.
    pub fn open(folder: &Path) -> Result<Self, EncoderError> {
        Ok(Self {
            config: ConfigJson::open(folder)?,
            tensors: TensorFiles::open(folder, STEM)?,
            folder: folder.to_owned(),
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Its `config.json`.
    pub fn config(&self) -> &ConfigJson {
        &self.config
    }

    /// The files that hold the weights, and the config that says what they mean.
    pub fn files(&self) -> Vec<PathBuf> {
        self.tensors.paths().chain([self.config.path().to_owned()]).collect()
    }

    /// The tensors.
    pub fn tensors(&self) -> &TensorFiles {
        &self.tensors
    }
}
