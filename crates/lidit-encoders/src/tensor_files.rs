//! The safetensors files of a model's folder: one, or the shards that an index names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::EncoderError;
use crate::safetensors_file::SafetensorsFile;
use crate::stored::Stored;

/// Open files. Tensors are read, one at a time, when asked for.
pub struct TensorFiles {
    folder: PathBuf,
    files: Vec<SafetensorsFile>,
    /// The file of each tensor.
    places: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl TensorFiles {
    /// Reads the headers of `FOLDER/STEM.safetensors`, or of the files that `FOLDER/STEM.safetensors.index.json` names.
    pub fn open(folder: &Path, stem: &'static str) -> Result<Self, EncoderError> {
        let single = folder.join(format!("{stem}.safetensors"));
        let index = folder.join(format!("{stem}.safetensors.index.json"));
        let (files, listed) = if index.exists() {
            sharded(folder, &index)?
        } else if single.exists() {
            (vec![SafetensorsFile::open(&single)?], BTreeMap::new())
        } else {
            return Err(EncoderError::NoWeights {
                folder: folder.to_owned(),
                stem,
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
            files,
            places,
        })
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.files.iter().map(|file| file.path().to_owned())
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The file that holds a tensor; if none does the only file, or the folder.
    pub fn file_of(&self, name: &str) -> &Path {
        match (self.places.get(name), self.files.as_slice()) {
            (Some(&number), files) => files[number].path(),
            (None, [only]) => only.path(),
            (None, _) => &self.folder,
        }
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
                path: self.file_of(name).to_owned(),
                tensor: name.to_owned(),
            }),
        }
    }
}

/// The files that an index names, and for each tensor that it lists the number of its file.
fn sharded(folder: &Path, index: &Path) -> Result<(Vec<SafetensorsFile>, BTreeMap<String, usize>), EncoderError> {
    let malformed = EncoderError::malformed(index, "JSON");
    let text = fs::read(index).map_err(EncoderError::io(index))?;
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
