//! A prompt encoder without its weights: tokens, price and fingerprint.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::llm::Llm;
use crate::model_files::ModelFiles;
use crate::template::{Prompt, PromptTemplate, TemplateConfig};
use crate::tokenizer::Tokenizer;
use crate::weights_digest::{hex, weights_digest};
use crate::{EncoderError, LayerChoice, LlmShape, PromptEncoder};

/// The type in which the matrix products of a language model are computed; states and norms are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 16-bit brain floats; half the memory, and fast only on a GPU.
    Bf16,
}

/// Everything that determines a prompt encoder's states. Headers are read and checked, weights are not loaded.
pub struct EncoderSpec {
    path: PathBuf,
    /// The files that hold the weights.
    files: Vec<PathBuf>,
    shape: LlmShape,
    choice: LayerChoice,
    tokenizer: Tokenizer,
    config: TemplateConfig,
    template: PromptTemplate,
    precision: Precision,
    prefix_ids: Vec<u32>,
}

impl EncoderSpec {
    /// Reads the headers and the tokenizer of a GGUF file or of a folder in the Hugging Face layout.
    pub fn open(
        path: &Path,
        choice: LayerChoice,
        config: TemplateConfig,
        precision: Precision,
    ) -> Result<Self, EncoderError> {
        let files = ModelFiles::open(path)?;
        let shape = files.shape()?;
        choice.depth(&shape)?;
        let tokenizer = files.tokenizer()?;
        if tokenizer.num_tokens() > shape.vocab_size {
            let tensor = files.naming(&shape).embedding(&shape);
            return Err(EncoderError::Vocabulary {
                path: files.file_of(&tensor).to_owned(),
                tensor,
                tokens: tokenizer.num_tokens(),
                rows: shape.vocab_size,
            });
        }
        let template = config.for_tokenizer(&tokenizer)?;
        let mut prefix_ids = template.prefix_ids(&tokenizer)?;
        // A BOS alone is not worth a pass of its own.
        if !shape.is_causal() || prefix_ids.len() < 2 {
            prefix_ids.clear();
        }
        Ok(Self {
            path: path.to_owned(),
            files: files.files(),
            shape,
            choice,
            tokenizer,
            config,
            template,
            precision,
            prefix_ids,
        })
    }

    /// Loads the weights onto `device`.
    pub fn load(self, device: &Device) -> Result<PromptEncoder, EncoderError> {
        let files = ModelFiles::open(&self.path)?;
        let llm = Llm::load(&files, self.choice, self.precision, device)?;
        PromptEncoder::new(self, llm)
    }

    /// The model's shape.
    pub fn shape(&self) -> &LlmShape {
        &self.shape
    }

    /// How many layers are computed.
    pub fn depth(&self) -> Result<usize, EncoderError> {
        self.choice.depth(&self.shape)
    }

    /// The tokens that prompts begin with, as far as their states don't depend on the caption.
    pub fn prefix_ids(&self) -> &[u32] {
        &self.prefix_ids
    }

    /// Leading tokens whose states are left out.
    pub fn num_skipped(&self) -> usize {
        usize::from(self.config.drop_first_token)
    }

    /// The tokens of a caption's prompt.
    pub fn prompt(&self, caption: &str) -> Result<Prompt, EncoderError> {
        self.template.prompt(&self.tokenizer, caption)
    }

    /// SHA-256 over everything that determines the states: weights, architecture, template, layer, tokenizer,
    /// precision, truncation. In `digests`, a folder, the digests of weight files are remembered by path, size and time.
    pub fn fingerprint(&self, digests: Option<&Path>) -> Result<String, EncoderError> {
        let parts = [
            "lidit prompt encoder 2".to_owned(),
            weights_digest(&self.files, digests)?,
            self.shape.architecture.name().to_owned(),
            self.config.canonical(),
            self.choice.canonical(&self.shape)?,
            self.tokenizer.digest().to_owned(),
            format!("{:?}", self.precision),
        ];
        let mut hash = Sha256::new();
        for part in parts {
            // Preceded by its length, so that no two lists of parts read the same.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        Ok(hex(&hash.finalize()))
    }
}

impl Precision {
    /// The tensor type of the weights.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}
