//! Captions to conditioning: frozen language models, and the memory of what they said.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use burn::tensor::Device;
use lidit_encoders::{PromptEncoder, PromptStates};
use lidit_model::{Conditioning, PromptBatch, PromptRow, TextTokens};

use crate::cache;
use crate::config::EncodersConfig;

/// Prompts encoded at once when a set is encoded ahead.
const CHUNK: usize = 16;

/// One caption's states from every language model, in config order.
type Prompt = Arc<Vec<PromptStates>>;

/// A batch's conditioning.
pub struct Conditioned {
    /// One an encoder: what the network takes.
    pub batches: Vec<PromptBatch>,
    /// One a sample, then one an encoder: what it costs.
    pub tokens: Vec<Vec<TextTokens>>,
}

/// The frozen encoders of a run.
pub struct Conditioner {
    encoders: Vec<PromptEncoder>,
    memory: HashMap<String, Prompt>,
    device: Device,
}

impl Conditioner {
    /// Loads every language model of `config` onto `device`; `locate` turns a model's name or path into its file.
    pub fn load(config: &EncodersConfig, device: &Device, locate: &dyn Fn(&str) -> Result<PathBuf>) -> Result<Self> {
        let device = device.clone().without_autodiff();
        let encoders = config
            .llm
            .iter()
            .enumerate()
            .map(|(i, llm)| {
                let path = locate(&llm.model).with_context(|| format!("encoders.llm.{i}.model"))?;
                PromptEncoder::load(&path, llm.choice()?, config.template(), config.precision, &device)
                    .with_context(|| format!("loading encoders.llm.{i} from {}", path.display()))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            encoders,
            memory: HashMap::new(),
            device,
        })
    }

    /// What the network must know of its conditioning.
    pub fn conditioning(&self, config: &EncodersConfig) -> Conditioning {
        Conditioning {
            context_dims: self.encoders.iter().map(PromptEncoder::dim).collect(),
            input_norm: config.input_norm,
            pooling: config.pooling,
        }
    }

    /// What identifies the encoders' output, in config order.
    pub fn fingerprints(&self) -> Result<Vec<String>> {
        let digests = cache::dir()?.join("digests");
        let fingerprint = |encoder: &PromptEncoder| Ok(encoder.spec().fingerprint(Some(&digests))?);
        self.encoders.iter().map(fingerprint).collect()
    }

    /// Encodes `captions` now and keeps their states. `on_progress` hears how many are done.
    ///
    /// The chunks depend on `captions` alone, so that a resumed run remembers the same bits.
    pub fn remember(&mut self, captions: &[String], mut on_progress: impl FnMut(usize)) -> Result<()> {
        let mut wanted: Vec<&String> = captions.iter().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut done = 0;
        for chunk in wanted.chunks(CHUNK) {
            let texts: Vec<&str> = chunk.iter().map(|text| text.as_str()).collect();
            for (text, prompt) in texts.iter().zip(self.encode(&texts)?) {
                self.memory.insert((*text).to_owned(), Arc::new(prompt));
            }
            done += chunk.len();
            on_progress(done);
        }
        Ok(())
    }

    /// The conditioning of a batch: from memory if every caption is there, else encoded together.
    pub fn condition(&self, captions: &[&str]) -> Result<Conditioned> {
        let remembered: Option<Vec<Prompt>> = captions
            .iter()
            .map(|caption| self.memory.get(*caption).cloned())
            .collect();
        let prompts = match remembered {
            Some(prompts) => prompts,
            None => self.encode(captions)?.into_iter().map(Arc::new).collect(),
        };
        let tokens = prompts
            .iter()
            .map(|prompt| prompt.iter().map(count_tokens).collect())
            .collect();
        let batches = (0..self.encoders.len())
            .map(|encoder| {
                let rows: Vec<PromptRow<'_>> = prompts.iter().map(|prompt| row(&prompt[encoder])).collect();
                PromptBatch::from_rows(&rows, self.encoders[encoder].dim(), &self.device)
            })
            .collect();
        Ok(Conditioned { batches, tokens })
    }

    /// Each caption's states from every encoder.
    fn encode(&self, captions: &[&str]) -> Result<Vec<Vec<PromptStates>>> {
        let mut prompts: Vec<Vec<PromptStates>> = captions.iter().map(|_| Vec::new()).collect();
        for encoder in &self.encoders {
            for (prompt, states) in prompts.iter_mut().zip(encoder.encode(captions)?) {
                prompt.push(states);
            }
        }
        Ok(prompts)
    }
}

fn row(states: &PromptStates) -> PromptRow<'_> {
    PromptRow {
        states: &states.states,
        caption: states.caption.clone(),
    }
}

fn count_tokens(states: &PromptStates) -> TextTokens {
    TextTokens {
        prompt: states.ids.len(),
        caption: states.caption.len(),
    }
}
