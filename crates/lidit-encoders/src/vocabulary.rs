//! The vocabulary of a GGUF file: tokens, their kinds, and the merges that build them.

use std::collections::{HashMap, HashSet};

use crate::EncoderError;
use crate::gguf::GgufFile;

/// The tokens of a model and how text becomes them.
pub struct Vocabulary {
    /// Text of each token, by id.
    pub tokens: Vec<String>,
    /// Kind of each token, by id.
    pub kinds: Vec<TokenKind>,
    /// How likely each token is, by id; byte-level vocabularies have none.
    pub scores: Vec<f32>,
    /// Pairs, the first to merge first; unigram vocabularies have none.
    pub merges: Vec<(String, String)>,
    /// The token that starts every sequence, if the file asks for one.
    pub bos: Option<u32>,
    /// The token that ends every sequence, if the file asks for one.
    pub eos: Option<u32>,
    /// How text becomes the first pieces.
    pub scheme: Scheme,
}

/// How text is cut before pairs merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Words by regular expressions, then bytes as letters (`gpt2`).
    ByteLevel(Words),
    /// Characters with `▁` for the space; characters without a token become their bytes (`llama`).
    SentencePiece {
        /// Every text begins with a space.
        space_prefix: bool,
    },
    /// Words that begin with `▁`, cut where the sum of scores is highest (`t5`).
    Unigram,
}

/// The words of a byte-level vocabulary, as `tokenizer.ggml.pre` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// `gpt-2`.
    Gpt2,
    /// `default`: GPT-2's, after punctuation and before digits by threes.
    Default,
    /// `smollm`: digits one by one, then GPT-2's.
    Smollm,
    /// `llama-bpe`: Llama 3.
    Llama3,
    /// `qwen2`: Qwen 2 and 3.
    Qwen2,
    /// `tekken`: Mistral's.
    Tekken,
}

/// What a token is for, as `tokenizer.ggml.token_type` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Made by merging.
    Normal,
    /// Never made from text.
    Unknown,
    /// Made only by templates.
    Control,
    /// Found whole in any text before it is cut, such as runs of spaces.
    UserDefined,
    /// Never made from text.
    Unused,
    /// One byte of a character that has no token.
    Byte,
}

impl Vocabulary {
    /// Reads the `tokenizer.ggml.*` metadata.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, EncoderError> {
        let wrong = |reason: String| EncoderError::Tokenizer {
            path: file.path().to_owned(),
            reason,
        };
        let tokens = file.texts("tokenizer.ggml.tokens")?;
        let kinds: Option<Vec<_>> = file
            .counts("tokenizer.ggml.token_type")?
            .into_iter()
            .map(TokenKind::from_number)
            .collect();
        let kinds = kinds.ok_or_else(|| wrong("token types are numbered 1 to 6".into()))?;
        if kinds.len() != tokens.len() {
            return Err(wrong(format!(
                "{} tokens but {} token types",
                tokens.len(),
                kinds.len()
            )));
        }
        let scheme = Scheme::from_gguf(file)?;
        let scores = match scheme {
            Scheme::ByteLevel(_) => Vec::new(),
            Scheme::SentencePiece { .. } | Scheme::Unigram => file.floats("tokenizer.ggml.scores")?,
        };
        if !scores.is_empty() && scores.len() != tokens.len() {
            return Err(wrong(format!("{} tokens but {} scores", tokens.len(), scores.len())));
        }
        let merges = match scheme {
            Scheme::ByteLevel(_) => listed_merges(file)?,
            Scheme::SentencePiece { .. } => merges_from_scores(&tokens, &kinds, &scores),
            Scheme::Unigram => Vec::new(),
        };
        let (add_bos, add_eos) = scheme.default_ends();
        let end = |flag: &str, default: bool, id: &str| -> Result<Option<u32>, EncoderError> {
            if !file.find_flag(flag)?.unwrap_or(default) {
                return Ok(None);
            }
            let id = file.count(id)?;
            if id >= tokens.len() {
                return Err(wrong(format!(
                    "a BOS or EOS id, {id}, is beyond its {} tokens",
                    tokens.len()
                )));
            }
            Ok(Some(id as u32))
        };
        let bos = end("tokenizer.ggml.add_bos_token", add_bos, "tokenizer.ggml.bos_token_id")?;
        let eos = end("tokenizer.ggml.add_eos_token", add_eos, "tokenizer.ggml.eos_token_id")?;
        Ok(Self {
            tokens,
            kinds,
            scores,
            merges,
            bos,
            eos,
            scheme,
        })
    }

    /// Tokens that text can become: all but control, unknown and unused ones.
    pub fn pieces(&self) -> impl Iterator<Item = (String, u32)> {
        let text = self.with_kinds(TokenKind::is_text);
        text.map(|(text, id)| (text.to_owned(), id))
    }

    /// Texts and ids of the tokens of one kind.
    pub fn with_kind(&self, wanted: TokenKind) -> impl Iterator<Item = (&str, u32)> {
        self.with_kinds(move |kind| kind == wanted)
    }

    /// The ids of the tokens whose kind is wanted.
    pub fn ids_of(&self, wanted: impl Fn(TokenKind) -> bool) -> HashSet<u32> {
        self.with_kinds(wanted).map(|(_, id)| id).collect()
    }

    fn with_kinds(&self, wanted: impl Fn(TokenKind) -> bool) -> impl Iterator<Item = (&str, u32)> {
        let all = self.tokens.iter().zip(&self.kinds).zip(0_u32..);
        all.filter(move |((_, kind), _)| wanted(**kind))
            .map(|((text, _), id)| (text.as_str(), id))
    }
}

impl Scheme {
    fn from_gguf(file: &GgufFile) -> Result<Self, EncoderError> {
        let wrong = |reason: String| EncoderError::Tokenizer {
            path: file.path().to_owned(),
            reason,
        };
        let model = file.text("tokenizer.ggml.model")?;
        let pre = file
            .find_text("tokenizer.ggml.pre")?
            .unwrap_or_else(|| "default".into());
        let space_prefix = file.find_flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        match model.as_str() {
            "gpt2" => Words::named(&pre).map(Self::ByteLevel).ok_or_else(|| {
                wrong(format!(
                    "unknown pre-tokenizer `{pre}`; known are gpt-2, default, smollm, llama-bpe, qwen2 and tekken"
                ))
            }),
            "llama" => Ok(Self::SentencePiece { space_prefix }),
            "t5" => {
                let collapse = file
                    .find_flag("tokenizer.ggml.remove_extra_whitespaces")?
                    .unwrap_or(true);
                if !(space_prefix && collapse) {
                    return Err(wrong(
                        "a t5 vocabulary that keeps white space as it is is not supported".into(),
                    ));
                }
                Ok(Self::Unigram)
            }
            _ => Err(wrong(format!("unknown kind `{model}`; known are gpt2, llama and t5"))),
        }
    }

    /// llama.cpp's defaults for `add_bos_token` and `add_eos_token`.
    fn default_ends(self) -> (bool, bool) {
        match self {
            Self::SentencePiece { .. } | Self::ByteLevel(Words::Llama3 | Words::Tekken) => (true, false),
            Self::ByteLevel(_) => (false, false),
            Self::Unigram => (false, true),
        }
    }
}

impl Words {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "gpt-2" => Self::Gpt2,
            "default" => Self::Default,
            "smollm" => Self::Smollm,
            "llama-bpe" | "llama3" | "llama-v3" => Self::Llama3,
            "qwen2" => Self::Qwen2,
            "tekken" => Self::Tekken,
            _ => return None,
        })
    }
}

impl TokenKind {
    /// Whether text can become such a token.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Normal | Self::Byte | Self::UserDefined)
    }

    fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

fn listed_merges(file: &GgufFile) -> Result<Vec<(String, String)>, EncoderError> {
    let lines = file.texts("tokenizer.ggml.merges")?;
    let pairs = lines.into_iter().map(|line| {
        let pair = line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
        pair.ok_or_else(|| EncoderError::Tokenizer {
            path: file.path().to_owned(),
            reason: format!("merge `{line}` is not two tokens with a space between"),
        })
    });
    pairs.collect()
}

/// `SentencePiece` merges the pair whose union scores highest. As Hugging Face's converter does, every
/// split of a token into two tokens is a merge; splits of one token follow each other, longer first parts first.
fn merges_from_scores(tokens: &[String], kinds: &[TokenKind], scores: &[f32]) -> Vec<(String, String)> {
    let normal = |id: &usize| kinds[*id] == TokenKind::Normal;
    let ids: HashMap<&str, usize> = (0..tokens.len())
        .filter(normal)
        .map(|id| (tokens[id].as_str(), id))
        .collect();
    let mut merges = Vec::new();
    for id in (0..tokens.len()).filter(normal) {
        let token = tokens[id].as_str();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                merges.push((id, left, right));
            }
        }
    }
    merges.sort_by(|a, b| {
        let by_score = scores[b.0].total_cmp(&scores[a.0]);
        by_score.then(a.0.cmp(&b.0)).then(b.1.len().cmp(&a.1.len()))
    });
    merges
        .into_iter()
        .map(|(_, left, right)| (left.to_owned(), right.to_owned()))
        .collect()
}
