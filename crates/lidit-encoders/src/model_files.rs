//! Where a model's weights come from: a GGUF file, or a folder in the Hugging Face layout.

use std::path::{Path, PathBuf};

use crate::embedding::EmbeddingTable;
use crate::gguf::GgufFile;
use crate::model_folder::ModelFolder;
use crate::stored::Stored;
use crate::tensor_names::Naming;
use crate::tokenizer::Tokenizer;
use crate::{EncoderError, LlmShape, gguf_shape, hf_shape};

/// An open model: headers are read, weights are not.
pub enum ModelFiles {
    /// One file with everything.
    Gguf(GgufFile),
    /// `config.json` beside safetensors files.
    Folder(ModelFolder),
}

impl ModelFiles {
    /// A folder is one in the Hugging Face layout, a file is GGUF.
    pub fn open(path: &Path) -> Result<Self, EncoderError> {
        if path.is_dir() {
            ModelFolder::open(path).map(Self::Folder)
        } else {
            GgufFile::open(path).map(Self::Gguf)
        }
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Gguf(file) => file.path(),
            Self::Folder(folder) => folder.path(),
        }
    }

    /// The model's shape, from metadata.
    pub fn shape(&self) -> Result<LlmShape, EncoderError> {
        match self {
            Self::Gguf(file) => gguf_shape::shape(file),
            Self::Folder(folder) => hf_shape::shape(folder.config()),
        }
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer, EncoderError> {
        match self {
            Self::Gguf(file) => Tokenizer::from_gguf(file),
            Self::Folder(folder) => Tokenizer::from_folder(folder.path()),
        }
    }

    /// The files that determine the states, apart from the tokenizer's.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Gguf(file) => vec![file.path().to_owned()],
            Self::Folder(folder) => folder.files(),
        }
    }

    /// How its tensors are named.
    pub fn naming(&self, shape: &LlmShape) -> Naming {
        match self {
            Self::Gguf(_) => Naming::Gguf,
            Self::Folder(folder) => {
                Naming::of_folder(shape.architecture, |name| folder.tensors().shape(name).is_some())
            }
        }
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Gguf(file) => file.names(),
            Self::Folder(folder) => folder.tensors().names().map(str::to_owned).collect(),
        }
    }

    /// Whether a tensor of this name exists.
    pub fn has(&self, name: &str) -> bool {
        self.find_shape(name).is_some()
    }

    /// The file that holds a tensor, for messages.
    pub fn file_of(&self, name: &str) -> &Path {
        match self {
            Self::Gguf(file) => file.path(),
            Self::Folder(folder) => folder.tensors().file_of(name),
        }
    }

    /// A tensor, which must have this shape, outermost dimension first.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Stored, EncoderError> {
        self.check(name, shape)?;
        match self {
            Self::Gguf(file) => file.tensor(name).map(Stored::F32),
            Self::Folder(folder) => folder.tensors().tensor(name),
        }
    }

    /// The embedding, as the file stores it: `[rows, dim]`.
    pub fn table(&self, name: &str, shape: [usize; 2]) -> Result<EmbeddingTable, EncoderError> {
        self.check(name, &shape)?;
        match self {
            Self::Gguf(file) => file.table(name).map(EmbeddingTable::Quantized),
            Self::Folder(folder) => Ok(EmbeddingTable::Stored {
                values: folder.tensors().tensor(name)?,
                dim: shape[1],
            }),
        }
    }

    fn find_shape(&self, name: &str) -> Option<Vec<usize>> {
        match self {
            Self::Gguf(file) => file.shape(name),
            Self::Folder(folder) => folder.tensors().shape(name).map(<[usize]>::to_vec),
        }
    }

    fn check(&self, name: &str, expected: &[usize]) -> Result<(), EncoderError> {
        let path = || self.file_of(name).to_owned();
        match self.find_shape(name) {
            None => Err(EncoderError::MissingTensor {
                path: path(),
                tensor: name.to_owned(),
            }),
            Some(found) if found != expected => Err(EncoderError::TensorShape {
                path: path(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found,
            }),
            Some(_) => Ok(()),
        }
    }
}
