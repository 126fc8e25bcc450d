//! The tokenizer of a Hugging Face folder, as transformers 5 loads it.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokenizers::models::bpe::{Merges, Vocab};
use tokenizers::{Encoding, NormalizerWrapper, PostProcessor, PostProcessorWrapper, PreTokenizerWrapper};

use crate::EncoderError;
use crate::added_tokens::AddedToken;
use crate::chat_template::ChatTemplate;
use crate::subword::{BytePairs, unigram};
use crate::tokenizer::{Ends, Tokenizer, TokenizerParts};
use crate::tokenizer_class::TokenizerClass;
use crate::tokenizer_config::{TokenFlags, TokenizerConfig};
use crate::weights_digest::hex;

/// `tokenizer.json`, less what only decoding needs.
#[derive(Deserialize)]
pub struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<ListedToken>,
    pub normalizer: Option<NormalizerWrapper>,
    pub pre_tokenizer: Option<PreTokenizerWrapper>,
    pub post_processor: Option<PostProcessorWrapper>,
    pub model: ModelFile,
}

/// The model of a `tokenizer.json`; BPE has ids and merges, Unigram has scores.
#[derive(Deserialize)]
pub struct ModelFile {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    vocab: VocabFile,
    merges: Option<Vec<Merge>>,
    pub unk_token: Option<String>,
    pub unk_id: Option<usize>,
    pub fuse_unk: Option<bool>,
    pub byte_fallback: Option<bool>,
    pub ignore_merges: Option<bool>,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum VocabFile {
    Ids(Vocab),
    Scores(Vec<(String, f64)>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

#[derive(Deserialize)]
struct ListedToken {
    id: u32,
    #[serde(flatten)]
    token: TokenFlags,
}

/// `config.json`, of which only the architecture's name matters here.
#[derive(Default, Deserialize)]
struct ModelConfig {
    model_type: Option<String>,
    tokenizer_class: Option<String>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` of `folder`; only the first must be
    /// there.
    ///
    /// Ids are those of transformers 5. There, what is put around a text is what `tokenizer.json`'s post-processor
    /// says, whatever `add_bos_token` and `add_eos_token` say beside it; and the classes of Llama 2, Gemma, Qwen 2
    /// and T5 build their own normaliser and pre-tokenizer, whatever `tokenizer.json` says.
    pub fn from_folder(folder: &Path) -> Result<Self, EncoderError> {
        let path = folder.join("tokenizer.json");
        let wrong = |reason: String| EncoderError::Tokenizer {
            path: path.clone(),
            reason,
        };
        let mut hash = Sha256::new();
        let text = read(&path, &mut hash)?.ok_or_else(|| {
            wrong("the file is missing; `save_pretrained` of transformers' AutoTokenizer writes it".into())
        })?;
        let mut file: TokenizerFile = parse(&path, &text)?;
        let config: TokenizerConfig = read_json(&folder.join("tokenizer_config.json"), &mut hash)?;
        let model: ModelConfig = read_json(&folder.join("config.json"), &mut Sha256::new())?;
        let hub = config.tokenizer_class.as_deref().or(model.tokenizer_class.as_deref());
        let class = TokenizerClass::of(hub, model.model_type.as_deref(), text.contains("\"ByteLevel\""));
        drop(text);
        let named = config.named_tokens(class);
        class.rebuild(&mut file, &config, &named).map_err(wrong)?;
        let source = read(&folder.join("chat_template.jinja"), &mut hash)?.or_else(|| config.default_template());
        hash.update(format!("{class:?}"));
        let added = file.added(&config, &named);
        let mut ends = file.ends().map_err(wrong)?;
        if class == TokenizerClass::T5 {
            let eos = added.iter().find(|token| Some(&token.text) == named.get("eos_token"));
            ends = Ends {
                before: Vec::new(),
                after: vec![
                    eos.ok_or_else(|| wrong("its end-of-text token is not in the vocabulary".into()))?
                        .id,
                ],
            };
        }
        let chat_template = source.map(|source| ChatTemplate { source, tokens: named });
        let parts = TokenizerParts {
            model: file.model.build(&added).map_err(wrong)?,
            normalizers: flatten(file.normalizer),
            pre_tokenizer: file.pre_tokenizer,
            added,
            ends,
            chat_template,
            digest: hex(&hash.finalize()),
        };
        Self::new(parts).map_err(wrong)
    }
}

impl TokenizerFile {
    /// The tokens found whole: those of `tokenizer.json`, then those of the config, whose flags win, then the named.
    fn added(&self, config: &TokenizerConfig, named: &BTreeMap<String, String>) -> Vec<AddedToken> {
        let listed = self.added_tokens.iter().map(|listed| (listed.id, &listed.token));
        let decoder = config
            .added_tokens_decoder
            .iter()
            .flatten()
            .map(|(id, token)| (*id, token));
        let mut added: Vec<AddedToken> = Vec::new();
        for (id, token) in listed.chain(decoder) {
            let id = self.model.id(&token.content).unwrap_or(id);
            added.retain(|other| other.text != token.content);
            added.push(AddedToken {
                id,
                text: token.content.clone(),
                special: token.special,
                normalized: token.normalized,
                single_word: token.single_word,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
            });
        }
        for text in named.values().cloned().chain(config.extra_tokens()) {
            if let Some(token) = added.iter_mut().find(|token| token.text == text) {
                token.special = true;
            } else if let Some(id) = self.model.id(&text) {
                added.push(AddedToken::new(id, text, true));
            }
        }
        added
    }

    /// What the post-processor puts around a text, found by giving it one.
    fn ends(&self) -> Result<Ends, String> {
        const TEXT: u32 = u32::MAX;
        let Some(processor) = &self.post_processor else {
            return Ok(Ends::default());
        };
        let token = tokenizers::Token::new(TEXT, String::new(), (0, 0));
        let around = processor.process(Encoding::from_tokens(vec![token], 0), None, true);
        let around = around.map_err(|e| format!("its post-processor fails: {e}"))?;
        let ids = around.get_ids();
        let at = ids
            .iter()
            .position(|&id| id == TEXT)
            .ok_or("its post-processor leaves the text out")?;
        Ok(Ends {
            before: ids[..at].to_vec(),
            after: ids[at + 1..].to_vec(),
        })
    }
}

impl ModelFile {
    pub fn is_bpe(&self) -> bool {
        matches!(self.vocab, VocabFile::Ids(_))
    }

    fn id(&self, text: &str) -> Option<u32> {
        match &self.vocab {
            VocabFile::Ids(vocab) => vocab.get(text).copied(),
            VocabFile::Scores(pieces) => pieces.iter().position(|(piece, _)| piece == text).map(|id| id as u32),
        }
    }

    fn build(self, added: &[AddedToken]) -> Result<tokenizers::ModelWrapper, String> {
        let control = || added.iter().filter(|token| token.special);
        let byte_fallback = self.byte_fallback.unwrap_or(false);
        match (self.kind.as_deref().unwrap_or("BPE"), self.vocab) {
            ("BPE", VocabFile::Ids(vocab)) => {
                let merges = self.merges.ok_or("its model has no merges")?;
                let pairs = BytePairs {
                    vocab,
                    merges: merges.into_iter().map(Merge::pair).collect::<Result<Merges, _>>()?,
                    // Dropout, which makes tokens random, is for training a model alone.
                    unk_token: self.unk_token,
                    fuse_unk: self.fuse_unk.unwrap_or(false),
                    byte_fallback,
                    ignore_merges: self.ignore_merges.unwrap_or(false),
                    continuing_subword_prefix: self.continuing_subword_prefix,
                    end_of_word_suffix: self.end_of_word_suffix,
                };
                let control: HashSet<_> = control().map(|token| token.text.as_str()).collect();
                Ok(pairs.build(&control)?.into())
            }
            (_, VocabFile::Scores(pieces)) => {
                let control: HashSet<_> = control().map(|token| token.id).collect();
                Ok(unigram(pieces, self.unk_id, byte_fallback, &control)?.into())
            }
            (kind, VocabFile::Ids(_)) => Err(format!("unknown model `{kind}`; known are BPE and Unigram")),
        }
    }
}

impl Merge {
    fn pair(self) -> Result<(String, String), String> {
        match self {
            Self::Pair(left, right) => Ok((left, right)),
            Self::Line(line) => match line.split_once(' ') {
                Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
                None => Err(format!("the merge `{line}` is not two tokens with a space between")),
            },
        }
    }
}

fn flatten(normalizer: Option<NormalizerWrapper>) -> Vec<NormalizerWrapper> {
    match normalizer {
        Some(NormalizerWrapper::Sequence(sequence)) => {
            sequence.into_iter().flat_map(|one| flatten(Some(one))).collect()
        }
        Some(one) => vec![one],
        None => Vec::new(),
    }
}

/// The file's text, if there is one; it becomes part of the digest.
fn read(path: &Path, hash: &mut Sha256) -> Result<Option<String>, EncoderError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(EncoderError::io(path)(error)),
    };
    let bytes = text.as_deref().unwrap_or_default();
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
    Ok(text)
}

fn read_json<T: DeserializeOwned + Default>(path: &Path, hash: &mut Sha256) -> Result<T, EncoderError> {
    read(path, hash)?.map_or_else(|| Ok(T::default()), |text| parse(path, &text))
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, EncoderError> {
    serde_json::from_str(text).map_err(|e| EncoderError::Tokenizer {
        path: path.to_owned(),
        reason: format!("not readable: {e}"),
    })
}
