//! The vocabulary of a GGUF file: tokens, their kinds, and the merges that build them.

use std::collections::HashMap;

use crate::EncoderError;
use crate::gguf::GgufFile;

/// The tokens of a model and the order in which pairs merge.
pub struct Vocabulary {
    /// Text of each token, by id.
    pub tokens: Vec<String>,
    /// Kind of each token, by id.
    pub kinds: Vec<TokenKind>,
    /// Pairs, the first to merge first.
    pub merges: Vec<(String, String)>,
    /// The token that starts every sequence, if the file asks for one.
    pub bos: Option<u32>,
    /// How text becomes the first pieces.
    pub scheme: Scheme,
}

/// How text is cut before pairs merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Digits one by one, then GPT-2's words, then bytes as letters (`gpt2` with pre-tokenizer `smollm`).
    ByteLevelSmollm,
    /// Characters with `▁` for the space; characters without a token become their bytes (`llama`).
    SentencePiece,
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
        let merges = match scheme {
            Scheme::ByteLevelSmollm => listed_merges(file)?,
            Scheme::SentencePiece => {
                let scores = file.floats("tokenizer.ggml.scores")?;
                if scores.len() != tokens.len() {
                    return Err(wrong(format!("{} tokens but {} scores", tokens.len(), scores.len())));
                }
                merges_from_scores(&tokens, &kinds, &scores)
            }
        };
        // llama.cpp's defaults: SentencePiece models start with a BOS, byte-level ones do not.
        let add_bos = file.find_flag("tokenizer.ggml.add_bos_token")?;
        let bos = if add_bos.unwrap_or(scheme == Scheme::SentencePiece) {
            Some(file.count("tokenizer.ggml.bos_token_id")? as u32)
        } else {
            None
        };
        if bos.is_some_and(|id| id as usize >= tokens.len()) {
            return Err(wrong(format!("the BOS id is beyond its {} tokens", tokens.len())));
        }
        Ok(Self {
            tokens,
            kinds,
            merges,
            bos,
            scheme,
        })
    }

    /// Tokens that text can become: all but control, unknown and unused ones.
    pub fn pieces(&self) -> impl Iterator<Item = (String, u32)> {
        let kinds = &[TokenKind::Normal, TokenKind::Byte, TokenKind::UserDefined];
        self.with_kind(kinds).map(|(text, id)| (text.to_owned(), id))
    }

    /// Tokens found whole in any text.
    pub fn user_defined(&self) -> impl Iterator<Item = &str> {
        self.with_kind(&[TokenKind::UserDefined]).map(|(text, _)| text)
    }

    /// Tokens that only templates make.
    pub fn controls(&self) -> impl Iterator<Item = (&str, u32)> {
        self.with_kind(&[TokenKind::Control])
    }

    fn with_kind(&self, kinds: &'static [TokenKind]) -> impl Iterator<Item = (&str, u32)> {
        let all = self.tokens.iter().zip(&self.kinds).zip(0_u32..);
        all.filter(move |((_, kind), _)| kinds.contains(kind))
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
        let pre = file.find_text("tokenizer.ggml.pre")?.unwrap_or_default();
        let scheme = match (model.as_str(), pre.as_str()) {
            ("gpt2", "smollm") => Self::ByteLevelSmollm,
            ("llama", _) => Self::SentencePiece,
            _ => {
                return Err(wrong(format!(
                    "unknown kind `{model}` with pre-tokenizer `{pre}`; known are gpt2 with smollm, and llama"
                )));
            }
        };
        let prefix = file.find_flag("tokenizer.ggml.add_space_prefix")?;
        if scheme == Self::SentencePiece && prefix != Some(false) {
            return Err(wrong(
                "a space before the text (add_space_prefix) is not supported".into(),
            ));
        }
        Ok(scheme)
    }
}

impl TokenKind {
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
