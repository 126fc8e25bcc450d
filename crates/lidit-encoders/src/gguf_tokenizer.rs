//! The tokenizer of a GGUF file, as llama.cpp reads it.

use std::collections::{BTreeMap, HashSet};

use sha2::{Digest, Sha256};
use tokenizers::models::bpe::Vocab;
use tokenizers::normalizers::{NFC, Precompiled, Prepend, Replace};
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

use crate::EncoderError;
use crate::added_tokens::AddedToken;
use crate::chat_template::ChatTemplate;
use crate::gguf::GgufFile;
use crate::subword::{BytePairs, unigram};
use crate::tokenizer::{Ends, Tokenizer, TokenizerParts};
use crate::tokenizer_class::{QWEN2_WORDS, byte_level_words, t5_words};
use crate::vocabulary::{Scheme, TokenKind, Vocabulary, Words};
use crate::weights_digest::hex;

/// GPT-2's words.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Llama 3's words: digits by threes.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Words of Mistral's Tekken: capitals begin one.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Tokenizer {
    /// Builds the tokenizer from the `tokenizer.*` metadata.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, EncoderError> {
        let vocabulary = Vocabulary::from_gguf(file)?;
        let wrong = |reason: String| EncoderError::Tokenizer {
            path: file.path().to_owned(),
            reason,
        };
        let charsmap = match vocabulary.scheme {
            Scheme::Unigram => file.find_bytes("tokenizer.ggml.precompiled_charsmap")?,
            Scheme::ByteLevel(_) | Scheme::SentencePiece { .. } => None,
        };
        let unknown = file.find_count("tokenizer.ggml.unknown_token_id")?;
        let source = file.find_text("tokenizer.chat_template")?;
        let mut tokens = BTreeMap::new();
        for name in ["bos", "eos", "unknown", "padding"] {
            let id = file.find_count(&format!("tokenizer.ggml.{name}_token_id"))?;
            let name = match name {
                "unknown" => "unk_token".to_owned(),
                "padding" => "pad_token".to_owned(),
                name => format!("{name}_token"),
            };
            tokens.extend(
                id.and_then(|id| vocabulary.tokens.get(id))
                    .map(|text| (name, text.clone())),
            );
        }
        let digest = vocabulary.digest(charsmap.as_deref(), unknown, source.as_deref());
        let parts = TokenizerParts {
            normalizers: vocabulary.normalizers(charsmap.as_deref()).map_err(wrong)?,
            pre_tokenizer: vocabulary.pre_tokenizer().map_err(wrong)?,
            added: vocabulary.added(),
            ends: Ends {
                before: vocabulary.bos.into_iter().collect(),
                after: vocabulary.eos.into_iter().collect(),
            },
            chat_template: source.map(|source| ChatTemplate { source, tokens }),
            digest,
            model: vocabulary.model(unknown).map_err(wrong)?,
        };
        Self::new(parts).map_err(wrong)
    }
}

impl Vocabulary {
    fn model(self, unknown: Option<usize>) -> Result<ModelWrapper, String> {
        match self.scheme {
            Scheme::Unigram => {
                let hidden = self.ids_of(|kind| !kind.is_text());
                let scores = self.scores.iter().map(|&score| f64::from(score));
                let pieces = self.tokens.into_iter().zip(scores).collect();
                Ok(unigram(pieces, unknown, false, &hidden)?.into())
            }
            Scheme::ByteLevel(words) => {
                let pairs = BytePairs {
                    vocab: self.pieces().collect::<Vocab>(),
                    ignore_merges: matches!(words, Words::Llama3 | Words::Tekken),
                    merges: self.merges,
                    ..BytePairs::default()
                };
                Ok(pairs.build(&HashSet::new())?.into())
            }
            Scheme::SentencePiece { .. } => {
                let pairs = BytePairs {
                    vocab: self.pieces().collect::<Vocab>(),
                    byte_fallback: true,
                    merges: self.merges,
                    ..BytePairs::default()
                };
                Ok(pairs.build(&HashSet::new())?.into())
            }
        }
    }

    fn normalizers(&self, charsmap: Option<&[u8]>) -> Result<Vec<NormalizerWrapper>, String> {
        let spaces = || Replace::new(" ", "\u{2581}").map_err(|e| e.to_string());
        Ok(match self.scheme {
            // llama.cpp leaves it out; transformers, and the model's training, have it.
            Scheme::ByteLevel(Words::Qwen2) => vec![NFC.into()],
            Scheme::ByteLevel(_) => Vec::new(),
            Scheme::SentencePiece { space_prefix: false } => vec![spaces()?.into()],
            Scheme::SentencePiece { space_prefix: true } => {
                vec![Prepend::new("\u{2581}".into()).into(), spaces()?.into()]
            }
            Scheme::Unigram => {
                let checked = charsmap.map(checked_charsmap).transpose()?;
                checked.into_iter().map(NormalizerWrapper::from).collect()
            }
        })
    }

    fn pre_tokenizer(&self) -> Result<Option<PreTokenizerWrapper>, String> {
        let words: &[&str] = match self.scheme {
            Scheme::SentencePiece { .. } => return Ok(None),
            Scheme::Unigram => return Ok(Some(t5_words())),
            Scheme::ByteLevel(Words::Gpt2) => &[GPT2],
            Scheme::ByteLevel(Words::Default) => &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
            Scheme::ByteLevel(Words::Smollm) => &[r"\p{N}", GPT2],
            Scheme::ByteLevel(Words::Llama3) => &[LLAMA3],
            Scheme::ByteLevel(Words::Qwen2) => &[QWEN2_WORDS],
            Scheme::ByteLevel(Words::Tekken) => &[TEKKEN],
        };
        byte_level_words(words, false).map(Some)
    }

    /// Control tokens, and those that are found whole in any text.
    fn added(&self) -> Vec<AddedToken> {
        let control = self
            .with_kind(TokenKind::Control)
            .map(|(text, id)| AddedToken::new(id, text, true));
        let whole = self
            .with_kind(TokenKind::UserDefined)
            .map(|(text, id)| AddedToken::new(id, text, false));
        control.chain(whole).collect()
    }

    fn digest(&self, charsmap: Option<&[u8]>, unknown: Option<usize>, template: Option<&str>) -> String {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(format!("{:?} {:?} {:?} {unknown:?}", self.scheme, self.bos, self.eos).as_bytes());
        add(charsmap.unwrap_or_default());
        add(template.unwrap_or_default().as_bytes());
        for (text, kind) in self.tokens.iter().zip(&self.kinds) {
            add(text.as_bytes());
            add(format!("{kind:?}").as_bytes());
        }
        for score in &self.scores {
            add(&score.to_le_bytes());
        }
        for (left, right) in &self.merges {
            add(left.as_bytes());
            add(right.as_bytes());
        }
        hex(&hash.finalize())
    }
}

/// A `SentencePiece` table of characters: the length in bytes of a double array of 32-bit units, the array, and texts
/// that its leaves point to, each ended by a zero. Every step that a text could take is checked to stay inside.
fn checked_charsmap(blob: &[u8]) -> Result<Precompiled, String> {
    let broken = || "its precompiled_charsmap is damaged".to_owned();
    let (head, rest) = blob.split_first_chunk::<4>().ok_or_else(broken)?;
    let (array, texts) = rest
        .split_at_checked(u32::from_le_bytes(*head) as usize)
        .ok_or_else(broken)?;
    let units: Vec<usize> = array
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
        .collect();
    let texts = std::str::from_utf8(texts).map_err(|_| broken())?;
    let offset = |unit: usize| (unit >> 10) << ((unit & (1 << 9)) >> 6);
    let mut seen = vec![false; units.len()];
    let mut open = vec![offset(*units.first().ok_or_else(broken)?)];
    while let Some(node) = open.pop() {
        if (node | 0xFF) >= units.len() {
            return Err(broken());
        }
        for byte in 1..=0xFF {
            let child = node ^ byte;
            let unit = units[child];
            if unit & ((1 << 31) | 0xFF) != byte || std::mem::replace(&mut seen[child], true) {
                continue;
            }
            let next = child ^ offset(unit);
            if (unit >> 8) & 1 == 1 {
                let leaf = units.get(next).ok_or_else(broken)? & ((1 << 31) - 1);
                if !texts.is_char_boundary(leaf) {
                    return Err(broken());
                }
            }
            open.push(next);
        }
    }
    Precompiled::from(blob).map_err(|_| broken())
}
