//! Captions in, states of a frozen LLM out.

use std::ops::Range;
use std::path::Path;

use burn::tensor::{DType, Device};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::EncoderError;
use crate::gguf::{GgufFile, hex};
use crate::llm::Llm;
use crate::template::{Prompt, PromptTemplate, TemplateConfig};
use crate::tokenizer::Tokenizer;

/// Padded tokens a batch may have. Large enough that matrix products run at full speed on two cores,
/// small enough that a batch's activations stay in tens of megabytes.
const BATCH_TOKENS: usize = 1024;

/// One frozen LLM of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmConfig {
    /// A path or a fetched name.
    pub model: String,
    /// Index into Hugging Face's `hidden_states`; the paper takes -3.
    pub layer: i32,
}

/// The type in which the matrix products of an LLM are computed; states and norms are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 16-bit brain floats; half the memory, and fast only on a GPU.
    Bf16,
}

/// A frozen LLM with its tokenizer and template.
pub struct PromptEncoder {
    llm: Llm,
    tokenizer: Tokenizer,
    template: PromptTemplate,
    prefix: Prefix,
    fingerprint: String,
}

/// What every prompt begins with, computed once: the tokens and states of the text before the caption.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prefix {
    /// The tokens, BOS included.
    pub ids: Vec<u32>,
    /// `[ids.len(), dim]`, row-major.
    pub states: Vec<f32>,
}

/// A prompt's states, on the host, without padding.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptStates {
    /// The tokens, BOS and instruction included.
    pub ids: Vec<u32>,
    /// `[ids.len(), dim]`, row-major.
    pub states: Vec<f32>,
    /// Width of a state.
    pub dim: usize,
    /// How many leading tokens are those of [`PromptEncoder::prefix`]; their states are its states, bit for bit.
    pub shared: usize,
    /// The tokens that contain at least one byte of the caption.
    pub caption: Range<usize>,
    /// Caption tokens that the template's limit cut off.
    pub num_cut: usize,
}

impl PromptEncoder {
    /// Loads a GGUF file onto `device`; `layer` as in [`LlmConfig`].
    pub fn load(
        path: &Path,
        layer: i32,
        template: TemplateConfig,
        precision: Precision,
        device: &Device,
    ) -> Result<Self, EncoderError> {
        let file = GgufFile::open(path)?;
        let llm = Llm::from_gguf(&file, layer, precision, device)?;
        let tokenizer = Tokenizer::from_gguf(&file)?;
        if tokenizer.num_tokens() > llm.config().vocab_size {
            return Err(EncoderError::Vocabulary {
                path: path.to_owned(),
                tensor: "token_embd.weight".into(),
                tokens: tokenizer.num_tokens(),
                rows: llm.config().vocab_size,
            });
        }
        let assembled = template.for_tokenizer(&tokenizer)?;
        let parts = [
            "lidit prompt encoder 1".to_owned(),
            file.digest()?,
            llm.config().architecture.name().to_owned(),
            template.canonical(),
            llm.depth().to_string(),
            tokenizer.digest().to_owned(),
            format!("{precision:?}"),
        ];
        Ok(Self {
            llm,
            tokenizer,
            template: assembled,
            prefix: Prefix::default(),
            fingerprint: fingerprint(&parts),
        })
    }

    /// Width of a state.
    pub fn dim(&self) -> usize {
        self.llm.config().hidden_size
    }

    /// The decoder.
    pub fn llm(&self) -> &Llm {
        &self.llm
    }

    /// What prompts share; empty where nothing is reused.
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// SHA-256 over everything that determines the states: weights, architecture, template, layer,
    /// tokenizer, precision, truncation.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    /// The tokens of a caption's prompt, without running the model.
    pub fn prompt(&self, caption: &str) -> Result<Prompt, EncoderError> {
        self.template.prompt(&self.tokenizer, caption)
    }

    /// The states of each caption's prompt, in the order given.
    pub fn encode(&self, captions: &[&str]) -> Result<Vec<PromptStates>, EncoderError> {
        let prompts = captions.iter().map(|caption| self.prompt(caption));
        self.run(prompts.collect::<Result<_, _>>()?)
    }

    /// The states of raw token ids, taken as they are: no BOS, no template, no limit.
    pub fn encode_ids(&self, prompts: &[&[u32]]) -> Result<Vec<PromptStates>, EncoderError> {
        let prompts = prompts.iter().map(|ids| Prompt {
            ids: ids.to_vec(),
            system: 0..0,
            instruction: 0..0,
            caption: 0..ids.len(),
            num_cut: 0,
        });
        self.run(prompts.collect())
    }

    /// Neighbours in length share a batch, so that little is padded.
    fn run(&self, prompts: Vec<Prompt>) -> Result<Vec<PromptStates>, EncoderError> {
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&index| (prompts[index].ids.len(), index));
        let mut states = vec![Vec::new(); prompts.len()];
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(batch_size(rest, &prompts));
            let ids: Vec<_> = batch.iter().map(|&index| prompts[index].ids.as_slice()).collect();
            for (&index, rows) in batch.iter().zip(self.llm.forward(&ids)?) {
                states[index] = rows;
            }
            rest = later;
        }
        let dim = self.dim();
        let all = prompts.into_iter().zip(states).map(|(prompt, states)| PromptStates {
            ids: prompt.ids,
            states,
            dim,
            shared: 0,
            caption: prompt.caption,
            num_cut: prompt.num_cut,
        });
        Ok(all.collect())
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

/// How many of the first prompts of `order`, which is sorted by length, fill a batch.
fn batch_size(order: &[usize], prompts: &[Prompt]) -> usize {
    let fits = |&(count, &index): &(usize, &usize)| (count + 1) * prompts[index].ids.len() <= BATCH_TOKENS;
    order.iter().enumerate().take_while(fits).count().max(1)
}

/// Each part is preceded by its length, so that no two lists of parts read the same.
fn fingerprint(parts: &[String]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}
