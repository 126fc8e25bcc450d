//! Captions to conditioning: frozen language models and the memory of what they said, or features written before.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use lidit_data::{LoadedStep, LoaderConfig, Wanted};
use lidit_encoders::{EncoderSpec, LlmConfig, PromptEncoder, PromptStates};
use lidit_model::{Conditioning, PromptBatch, PromptRow, TextTokens};

use crate::cache;
use crate::config::EncodersConfig;
use crate::features::FeatureStore;
use crate::synthetic::SyntheticInputs;

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
    /// Caption tokens that were cut off, over samples and encoders.
    pub num_cut: usize,
}

/// What knows the states of a run's prompts.
pub struct Conditioner {
    source: Source,
    device: Device,
}

enum Source {
    /// The frozen language models themselves.
    Models {
        encoders: Vec<PromptEncoder>,
        memory: HashMap<String, Prompt>,
    },
    /// What they said before.
    Features(Box<FeatureStore>),
    /// Nobody: their states are made up.
    Synthetic(Arc<SyntheticInputs>),
}

/// Reads the headers of one of the language models of `config`, which lies at `path`.
pub(crate) fn open_spec(config: &EncodersConfig, llm: &LlmConfig, path: &Path) -> Result<EncoderSpec> {
    Ok(EncoderSpec::open(
        path,
        llm.choice()?,
        config.template(),
        config.precision,
    )?)
}

/// What identifies an encoder's output. Digests of weights are remembered in the cache folder.
pub(crate) fn fingerprint(spec: &EncoderSpec) -> Result<String> {
    Ok(spec.fingerprint(Some(&cache::dir()?.join("digests")))?)
}

/// Loads every language model of `config` onto `device`; `locate` turns a model's name or path into its file.
pub(crate) fn load_encoders(
    config: &EncodersConfig,
    device: &Device,
    locate: &dyn Fn(&str) -> Result<PathBuf>,
) -> Result<Vec<PromptEncoder>> {
    let device = device.clone().without_autodiff();
    let encoders = config.llm.iter().enumerate().map(|(i, llm)| {
        let path = locate(&llm.model).with_context(|| format!("encoders.llm.{i}.model"))?;
        let encoder = open_spec(config, llm, &path).and_then(|spec| Ok(spec.load(&device)?));
        encoder.with_context(|| format!("loading encoders.llm.{i} from {}", path.display()))
    });
    encoders.collect()
}

impl Conditioner {
    /// Loads every language model of `config` onto `device`; `locate` turns a model's name or path into its file.
    pub fn load(config: &EncodersConfig, device: &Device, locate: &dyn Fn(&str) -> Result<PathBuf>) -> Result<Self> {
        let source = Source::Models {
            encoders: load_encoders(config, device, locate)?,
            memory: HashMap::new(),
        };
        Ok(Self::new(source, device))
    }

    /// Reads states from `store`; no language model is loaded.
    pub fn from_features(store: FeatureStore, device: &Device) -> Self {
        Self::new(Source::Features(Box::new(store)), device)
    }

    /// Takes states and pictures that are made up; nothing is loaded.
    pub(crate) fn synthetic(inputs: Arc<SyntheticInputs>, device: &Device) -> Self {
        Self::new(Source::Synthetic(inputs), device)
    }

    fn new(source: Source, device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        Self { source, device }
    }

    /// What the network must know of its conditioning.
    pub fn conditioning(&self, config: &EncodersConfig) -> Conditioning {
        Conditioning {
            context_dims: self.dims(),
            input_norm: config.input_norm,
            pooling: config.pooling,
        }
    }

    /// What identifies the encoders' output, in config order: the same from models and from their features.
    pub fn fingerprints(&self) -> Result<Vec<String>> {
        match &self.source {
            Source::Models { encoders, .. } => encoders.iter().map(|encoder| fingerprint(encoder.spec())).collect(),
            Source::Features(store) => Ok(store.fingerprints()),
            Source::Synthetic(_) => bail!("made-up states have no fingerprint"),
        }
    }

    /// Encodes `captions` now and keeps their states, those aside that it has kept before. `on_progress` hears how many are
    /// done. Features know them already.
    ///
    /// The chunks depend on `captions` alone, so that a resumed run remembers the same bits.
    pub fn remember(&mut self, captions: &[String], mut on_progress: impl FnMut(usize)) -> Result<()> {
        let Source::Models { encoders, memory } = &mut self.source else {
            return Ok(());
        };
        let mut wanted: Vec<&String> = captions.iter().collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.retain(|caption| !memory.contains_key(*caption));
        let mut done = 0;
        for chunk in wanted.chunks(CHUNK) {
            let texts: Vec<&str> = chunk.iter().map(|text| text.as_str()).collect();
            for (text, prompt) in texts.iter().zip(encode(encoders, &texts)?) {
                memory.insert((*text).to_owned(), Arc::new(prompt));
            }
            done += chunk.len();
            on_progress(done);
        }
        Ok(())
    }

    /// Starts to read a rank's steps ahead, where states are read.
    pub fn start(&mut self, config: LoaderConfig) -> Result<()> {
        match &mut self.source {
            Source::Models { .. } | Source::Synthetic(_) => Ok(()),
            Source::Features(store) => store.start(config),
        }
    }

    /// Goes on to the samples of `step`, in the order in which the loader hands steps out. Samples without the latents
    /// that stand for their pictures can't be used.
    pub fn next_step(&mut self, step: &mut LoadedStep) -> Result<()> {
        match &mut self.source {
            Source::Models { .. } | Source::Synthetic(_) => Ok(()),
            Source::Features(store) => store.next_step(step),
        }
    }

    /// Goes on to some samples, in no step's order. Where latents stand for their pictures, names one without.
    pub(crate) fn hold(&mut self, ids: &[u64]) -> Result<Option<u64>> {
        match &mut self.source {
            Source::Models { .. } | Source::Synthetic(_) => Ok(None),
            Source::Features(store) => store.hold(ids),
        }
    }

    /// What the loader must read: with latents at hand, captions alone.
    pub fn wanted(&self) -> Wanted {
        match &self.source {
            Source::Features(store) if store.has_latents() => Wanted::Captions,
            _ => Wanted::All,
        }
    }

    /// The latents of samples of the step at hand, `[B, C, H, W]`, zeros where a picture can't be used; `None` where
    /// none are stored.
    pub fn latents(&self, ids: &[u64], shape: [usize; 4]) -> Result<Option<Vec<f32>>> {
        match &self.source {
            Source::Features(store) if store.has_latents() => store.latents(ids, shape).map(Some),
            Source::Synthetic(inputs) => Ok(Some(inputs.pictures(ids))),
            _ => Ok(None),
        }
    }

    /// The conditioning of samples of the step at hand, by their ids and the captions that were drawn for them.
    pub fn condition_samples(&self, ids: &[u64], captions: &[&str]) -> Result<Conditioned> {
        match &self.source {
            Source::Models { .. } => self.condition(captions),
            Source::Features(store) => {
                let samples = ids.iter().zip(captions);
                let prompts = samples.map(|(id, caption)| store.sample(*id, caption).map(Arc::new));
                Ok(self.lay_out(&prompts.collect::<Result<Vec<_>>>()?))
            }
            Source::Synthetic(inputs) => {
                let prompts: Vec<Prompt> = ids.iter().map(|id| inputs.prompt(*id)).collect();
                Ok(self.lay_out(&prompts))
            }
        }
    }

    /// The conditioning of free prompts: from memory if all are there, else encoded together. Features know the run's own
    /// prompts and the empty one.
    pub fn condition(&self, captions: &[&str]) -> Result<Conditioned> {
        let prompts = match &self.source {
            Source::Models { encoders, memory } => {
                let remembered: Option<Vec<Prompt>> =
                    captions.iter().map(|caption| memory.get(*caption).cloned()).collect();
                match remembered {
                    Some(prompts) => prompts,
                    None => encode_each_once(encoders, captions)?,
                }
            }
            Source::Features(store) => {
                let prompts = captions.iter().map(|caption| store.prompt(caption).map(Arc::new));
                prompts.collect::<Result<_>>()?
            }
            Source::Synthetic(inputs) => (0..captions.len() as u64).map(|sample| inputs.prompt(sample)).collect(),
        };
        Ok(self.lay_out(&prompts))
    }

    fn lay_out(&self, prompts: &[Prompt]) -> Conditioned {
        let states = || prompts.iter().flat_map(|prompt| prompt.iter());
        let batches = self.dims().into_iter().enumerate().map(|(encoder, dim)| {
            let rows: Vec<PromptRow<'_>> = prompts.iter().map(|prompt| row(&prompt[encoder])).collect();
            PromptBatch::from_rows(&rows, dim, &self.device)
        });
        Conditioned {
            batches: batches.collect(),
            tokens: prompts
                .iter()
                .map(|prompt| prompt.iter().map(count_tokens).collect())
                .collect(),
            num_cut: states().map(|states| states.num_cut).sum(),
        }
    }

    fn dims(&self) -> Vec<usize> {
        match &self.source {
            Source::Models { encoders, .. } => encoders.iter().map(PromptEncoder::dim).collect(),
            Source::Features(store) => store.dims(),
            Source::Synthetic(inputs) => inputs.dims().to_vec(),
        }
    }
}

/// As [`encode`], a caption that comes again at no further cost.
fn encode_each_once(encoders: &[PromptEncoder], captions: &[&str]) -> Result<Vec<Prompt>> {
    let (mut texts, mut places) = (Vec::new(), HashMap::new());
    for caption in captions {
        places.entry(*caption).or_insert_with(|| {
            texts.push(*caption);
            texts.len() - 1
        });
    }
    let prompts: Vec<Prompt> = encode(encoders, &texts)?.into_iter().map(Arc::new).collect();
    Ok(captions
        .iter()
        .map(|caption| prompts[places[caption]].clone())
        .collect())
}

/// Each caption's states from every encoder.
fn encode(encoders: &[PromptEncoder], captions: &[&str]) -> Result<Vec<Vec<PromptStates>>> {
    let mut prompts: Vec<Vec<PromptStates>> = captions.iter().map(|_| Vec::new()).collect();
    for encoder in encoders {
        for (prompt, states) in prompts.iter_mut().zip(encoder.encode(captions)?) {
            prompt.push(states);
        }
    }
    Ok(prompts)
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
