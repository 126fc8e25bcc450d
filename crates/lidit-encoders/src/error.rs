//! What can go wrong while a frozen encoder is loaded or used.

use std::io;
use std::path::{Path, PathBuf};

/// Every failure of this crate. Messages name the file and the tensor, key or value.
#[derive(Debug, thiserror::Error)]
pub enum EncoderError {
    /// The file cannot be opened or read.
    #[error("cannot read `{path}`")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The bytes are not what the file should be.
    #[error("`{path}` is not a readable {format} file ({reason}): fetch or convert it again")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should be.
        format: &'static str,
        /// What the reader met.
        reason: String,
    },
    /// A tensor's bytes lie beyond the end of the file.
    #[error("`{path}` is truncated: tensor `{tensor}` ends at byte {end}, the file has {len} bytes; fetch it again")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The first tensor, by name, that does not fit.
        tensor: String,
        /// One past its last byte.
        end: u64,
        /// The file's length in bytes.
        len: u64,
    },
    /// A metadata key is absent.
    #[error("`{path}` has no metadata key `{key}`")]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A metadata key has another type or a value that no model can have.
    #[error("`{path}`: metadata key `{key}` should be {expected}")]
    BadKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What was expected, and where it helps what was found.
        expected: String,
    },
    /// A metadata key that could change the results, and that nobody knows how.
    #[error("`{path}`: metadata key `{key}` is unknown to `{class}`: remove it if it changes nothing")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The class as the file names it.
        class: &'static str,
    },
    /// A tile that the latents' grid can't be cut into.
    #[error("a tile of {tile} pixels: it must be a multiple of {multiple}, four times the downsampling factor")]
    Tile {
        /// The side asked for, in pixels.
        tile: usize,
        /// What it must be a multiple of.
        multiple: usize,
    },
    /// A tensor that the architecture needs is absent.
    #[error("`{path}` has no tensor `{tensor}`, which its architecture needs")]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor has another shape than the metadata implies.
    #[error("`{path}`: tensor `{tensor}` has shape {found:?}, its metadata imply {expected:?}")]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Shape from the metadata, outermost dimension first.
        expected: Vec<usize>,
        /// Shape in the file, outermost dimension first.
        found: Vec<usize>,
    },
    /// A tensor of a type that weights don't have, such as whole numbers.
    #[error("`{path}`: tensor `{tensor}` has type {found}; weights are F32, F16 or BF16")]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
    },
    /// A folder without weights that can be read.
    #[error(
        "`{folder}` has neither `{stem}.safetensors` nor `{stem}.safetensors.index.json`: save the model with safetensors (pickled `.bin` files are not read)"
    )]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// What the weights should be called before their ending.
        stem: &'static str,
    },
    /// A tensor that the architecture does not know: ignoring it would give wrong states in silence.
    #[error("`{path}`: tensor `{tensor}` is unknown to architecture `{architecture}`")]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The architecture as the file names it.
        architecture: String,
    },
    /// The file's architecture is none of [`crate::LlmArchitecture`].
    #[error("`{path}`: unknown architecture `{architecture}`; known are {known}")]
    Architecture {
        /// The file.
        path: PathBuf,
        /// The architecture as the file names it.
        architecture: String,
        /// Those that could be loaded from such a file.
        known: String,
    },
    /// The file's tokenizer is of an unknown kind or contradicts itself.
    #[error("`{path}`: tokenizer: {reason}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A text that the tokenizer refuses.
    #[error("cannot tokenize the prompt: {reason}")]
    Tokenize {
        /// The tokenizer's reason.
        reason: String,
    },
    /// The tokenizer can produce ids that the embedding has no row for.
    #[error("`{path}`: the tokenizer has {tokens} tokens, tensor `{tensor}` has only {rows} rows")]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// The embedding tensor.
        tensor: String,
        /// Tokens in the vocabulary.
        tokens: usize,
        /// Rows of the embedding.
        rows: usize,
    },
    /// A layer index outside `hidden_states`.
    #[error(
        "layer {layer} is out of range: the model has {num_layers} layers, so -{} ..= {num_layers} are possible",
        num_layers + 1
    )]
    Layer {
        /// The layer asked for.
        layer: i32,
        /// Layers of the model.
        num_layers: usize,
    },
    /// A config that names both one layer and a mixture, or neither.
    #[error("model `{model}` needs either layer = K or layers = \"mean\"")]
    LayerChoice {
        /// The model.
        model: String,
    },
    /// A raw token id beyond the embedding.
    #[error("token id {id} is out of range: the embedding has {rows} rows")]
    TokenId {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        rows: usize,
    },
    /// A caption limit of zero would train on no text at all.
    #[error("max_caption_tokens is 0: a caption needs at least one token")]
    NoCaptionTokens,
    /// A chat prompt for a model whose files have no chat template.
    #[error("the model has no chat template: set encoders.format to `plain`")]
    NoChatTemplate,
    /// The model's chat template can't be used.
    #[error("chat template: {reason}; encoders.format = `plain` does without it")]
    ChatTemplate {
        /// What it did.
        reason: String,
    },
    /// The device failed to return the states.
    #[error("the device did not return the states: {reason}")]
    Device {
        /// The device's reason.
        reason: String,
    },
}

impl EncoderError {
    /// What the system said of `path`.
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    /// Why the bytes of `path` are not `format`.
    pub(crate) fn malformed(path: &Path, format: &'static str) -> impl Fn(String) -> Self + Copy {
        move |reason| Self::Malformed {
            path: path.to_owned(),
            format,
            reason,
        }
    }
}
