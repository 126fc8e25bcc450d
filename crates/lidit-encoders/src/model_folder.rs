//! A model in the Hugging Face layout: `config.json` beside one or several safetensors files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::EncoderError;
use crate::config_json::ConfigJson;
use crate::safetensors_file::SafetensorsFile;
use crate::stored::Stored;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// An open folder. Tensors are read, one at a time, when asked for.
pub struct ModelFolder {
    folder: PathBuf,
    config: ConfigJson,
    files: Vec<SafetensorsFile>,
    /// The file of each tensor.
    places: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl ModelFolder {
    /// Reads the config and the headers of all weight files.
    pub fn open(folder: &Path) -> Result<Self, EncoderError> {
        let config = ConfigJson::open(folder)?;
        let index = folder.join(INDEX);
        let (files, listed) = if index.exists() {
            sharded(folder, &index)?
        } else if folder.join(SINGLE).exists() {
            (vec![SafetensorsFile::open(&folder.join(SINGLE))?], BTreeMap::new())
        } else {
            return Err(EncoderError::NoWeights {
                folder: folder.to_owned(),
            });
        };
        let mut places = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            places.extend(file.names().into_iter().map(|name| (name, number)));
        }
        for (tensor, number) in listed {
            if files[number].shape(&tensor).is_none() {
                return Err(EncoderError::MissingTensor {
                    path: files[number].path().to_owned(),
                    tensor,
                });
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            config,
            files,
            places,
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
        let weights = self.files.iter().map(|file| file.path().to_owned());
        weights.chain([self.config.path().to_owned()]).collect()
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The file that holds a tensor; the folder if none does.
    pub fn file_of(&self, name: &str) -> &Path {
        self.places
            .get(name)
            .map_or(self.path(), |&number| self.files[number].path())
    }

    /// The shape of a tensor, outermost dimension first, if it is here.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.files[*self.places.get(name)?].shape(name)
    }

    /// A tensor's values.
    pub fn tensor(&self, name: &str) -> Result<Stored, EncoderError> {
        match self.places.get(name) {
            Some(&number) => self.files[number].tensor(name),
            None => Err(EncoderError::MissingTensor {
                path: self.folder.clone(),
                tensor: name.to_owned(),
            }),
        }
    }
}

/// The files that an index names, and for each tensor that it lists the number of its file.
fn sharded(folder: &Path, index: &Path) -> Result<(Vec<SafetensorsFile>, BTreeMap<String, usize>), EncoderError> {
    let malformed = |reason: String| EncoderError::Malformed {
        path: index.to_owned(),
        format: "JSON",
        reason,
    };
    let text = fs::read(index).map_err(|source| EncoderError::Io {
        path: index.to_owned(),
        source,
    })?;
    let Index { weight_map } = serde_json::from_slice(&text).map_err(|e| malformed(e.to_string()))?;
    let names: BTreeSet<&String> = weight_map.values().collect();
    // A name that leads out of the folder would read what the index's author chose.
    if let Some(name) = names
        .iter()
        .find(|name| name.contains(['/', '\\']) || name.starts_with('.'))
    {
        return Err(malformed(format!("`{name}` is not the name of a file in the folder")));
    }
    let names: Vec<&String> = names.into_iter().collect();
    let files = names.iter().map(|name| SafetensorsFile::open(&folder.join(name)));
    let files = files.collect::<Result<_, _>>()?;
    let number = |file: &String| names.iter().position(|name| *name == file).unwrap_or_default();
    let listed = weight_map.iter().map(|(tensor, file)| (tensor.clone(), number(file)));
    Ok((files, listed.collect()))
}
