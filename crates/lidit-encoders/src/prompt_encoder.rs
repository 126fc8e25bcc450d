//! Captions in, states of a frozen language model out.

use std::ops::Range;
use std::path::Path;

use burn::tensor::Device;

use crate::encoder_spec::EncoderSpec;
use crate::llm::{Beginning, Llm, Shared};
use crate::template::{Prompt, TemplateConfig};
use crate::{EncoderError, LayerChoice, Precision};

/// Padded tokens a batch may have. Large enough that matrix products run at full speed on two cores,
/// small enough that a batch's activations stay in tens of megabytes.
const BATCH_TOKENS: usize = 1024;

/// A frozen language model with its tokenizer and template. What all prompts begin with is computed once.
pub struct PromptEncoder {
    spec: EncoderSpec,
    llm: Llm,
    beginning: Beginning,
    prefix: Prefix,
}

/// What every prompt begins with: the tokens and states of the text before the caption.
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
    /// Loads a model onto `device`: [`EncoderSpec::open`] and [`EncoderSpec::load`] in one.
    pub fn load(
        path: &Path,
        choice: LayerChoice,
        template: TemplateConfig,
        precision: Precision,
        device: &Device,
    ) -> Result<Self, EncoderError> {
        EncoderSpec::open(path, choice, template, precision)?.load(device)
    }

    /// Computes what all prompts begin with.
    pub(crate) fn new(spec: EncoderSpec, llm: Llm) -> Result<Self, EncoderError> {
        let beginning = llm.begin(spec.prefix_ids())?;
        let skipped = spec.num_skipped().min(beginning.ids.len());
        let prefix = Prefix {
            ids: beginning.ids[skipped..].to_vec(),
            states: beginning.states[skipped * llm.shape().hidden_size..].to_vec(),
        };
        Ok(Self {
            spec,
            llm,
            beginning,
            prefix,
        })
    }

    /// Without what prompts share: each prompt is computed from its first token on. For comparisons.
    pub fn without_reuse(mut self) -> Result<Self, EncoderError> {
        self.beginning = self.llm.begin(&[])?;
        self.prefix = Prefix::default();
        Ok(self)
    }

    /// Width of a state.
    pub fn dim(&self) -> usize {
        self.llm.shape().hidden_size
    }

    /// The language model.
    pub fn llm(&self) -> &Llm {
        &self.llm
    }

    /// Everything but the weights.
    pub fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    /// What prompts share; empty where nothing is reused.
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// The tokens of a caption's prompt, without running the model.
    pub fn prompt(&self, caption: &str) -> Result<Prompt, EncoderError> {
        self.spec.prompt(caption)
    }

    /// The states of each caption's prompt, in the order given.
    pub fn encode(&self, captions: &[&str]) -> Result<Vec<PromptStates>, EncoderError> {
        let prompts = captions.iter().map(|caption| self.prompt(caption));
        self.run(&prompts.collect::<Result<Vec<_>, _>>()?)
    }

    /// The states of raw token ids, taken as they are: no BOS, no template, no limit.
    pub fn encode_ids(&self, prompts: &[&[u32]]) -> Result<Vec<PromptStates>, EncoderError> {
        let prompts: Vec<_> = prompts.iter().map(|ids| Prompt::of_ids(ids)).collect();
        self.run(&prompts)
    }

    /// Prompts that share as much and are of similar length are computed together, so that little is padded.
    fn run(&self, prompts: &[Prompt]) -> Result<Vec<PromptStates>, EncoderError> {
        let shared: Vec<_> = prompts.iter().map(|prompt| self.num_shared(&prompt.ids)).collect();
        let rest = |index: usize| &prompts[index].ids[shared[index]..];
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&index| (shared[index], rest(index).len(), index));
        let mut states = vec![Vec::new(); prompts.len()];
        for same in order.chunk_by(|&a, &b| shared[a] == shared[b]) {
            let mut left = same;
            while let Some(&first) = left.first() {
                let (batch, later) = left.split_at(batch_size(left.iter().map(|&index| rest(index).len())));
                let ids: Vec<_> = batch.iter().map(|&index| rest(index)).collect();
                let shared = Shared {
                    beginning: &self.beginning,
                    count: shared[first],
                };
                for (&index, rows) in batch.iter().zip(self.llm.forward(&ids, Some(shared))?) {
                    states[index] = rows;
                }
                left = later;
            }
        }
        let all = prompts.iter().zip(shared).zip(states);
        Ok(all
            .map(|((prompt, shared), own)| self.join(prompt, shared, &own))
            .collect())
    }

    /// How many leading tokens are those that all prompts begin with; a token may span the end of the instruction.
    fn num_shared(&self, ids: &[u32]) -> usize {
        let pairs = self.beginning.ids.iter().zip(ids);
        pairs.take_while(|(shared, own)| shared == own).count()
    }

    /// The shared states before the prompt's own, and all without the tokens that the template skips.
    fn join(&self, prompt: &Prompt, shared: usize, own: &[f32]) -> PromptStates {
        let dim = self.dim();
        let skipped = self.spec.num_skipped().min(prompt.ids.len());
        let from_shared = &self.beginning.states[skipped.min(shared) * dim..shared * dim];
        let own = &own[skipped.saturating_sub(shared) * dim..];
        let shift = |token: usize| token.saturating_sub(skipped);
        PromptStates {
            ids: prompt.ids[skipped..].to_vec(),
            states: [from_shared, own].concat(),
            dim,
            shared: shift(shared),
            caption: shift(prompt.caption.start)..shift(prompt.caption.end),
            num_cut: prompt.num_cut,
        }
    }
}

/// How many of the first prompts fill a batch, by their lengths, which ascend.
fn batch_size(lengths: impl Iterator<Item = usize>) -> usize {
    let fits = |&(count, len): &(usize, usize)| (count + 1) * len <= BATCH_TOKENS;
    lengths.enumerate().take_while(fits).count().max(1)
}
