//! Text to token ids, with the tokenizer that a GGUF file carries.

use std::collections::HashMap;
use std::ops::Range;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::Replace;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, NormalizerWrapper};

use crate::EncoderError;
use crate::gguf::GgufFile;
use crate::vocabulary::{Scheme, Vocabulary};

/// A tokenizer whose control tokens only templates can produce.
///
/// Matches llama.cpp and Hugging Face token by token: byte-level BPE with its pre-tokenizer, or
/// `SentencePiece` BPE whose merges follow from its scores.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    controls: ControlTokens,
    bos: Option<u32>,
    num_tokens: usize,
    scheme: Scheme,
}

/// A piece of a prompt; neighbouring pieces are tokenized as one text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// Text of ours, in which control tokens such as `<|im_start|>` are recognised.
    Template(&'a str),
    /// Text of others, a caption: whatever it contains is plain text.
    Plain(&'a str),
}

/// A token and the bytes of the joined segments that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Row of the embedding.
    pub id: u32,
    /// Bytes of the text; empty for the BOS. Tokens that share a character share its bytes.
    pub bytes: Range<usize>,
}

impl Tokenizer {
    /// Builds the tokenizer from the `tokenizer.ggml.*` metadata.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, EncoderError> {
        let vocabulary = Vocabulary::from_gguf(file)?;
        let wrong = |e: tokenizers::Error| EncoderError::Tokenizer {
            path: file.path().to_owned(),
            reason: e.to_string(),
        };
        let model = BPE::builder()
            .vocab_and_merges(vocabulary.pieces().collect::<Vocab>(), vocabulary.merges.clone())
            .byte_fallback(vocabulary.scheme == Scheme::SentencePiece)
            .build()
            .map_err(wrong)?;
        let mut inner = tokenizers::Tokenizer::new(model);
        match vocabulary.scheme {
            Scheme::ByteLevelSmollm => {
                let digits = PreTokenizerWrapper::Digits(Digits::new(true));
                let bytes = PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, true));
                inner.with_pre_tokenizer(Some(Sequence::new(vec![digits, bytes])));
            }
            Scheme::SentencePiece => {
                let spaces = Replace::new(" ", "\u{2581}").map_err(wrong)?;
                inner.with_normalizer(Some(NormalizerWrapper::Replace(spaces)));
            }
        }
        let whole: Vec<_> = vocabulary
            .user_defined()
            .map(|text| AddedToken::from(text, false).normalized(false))
            .collect();
        inner.add_tokens(&whole);
        Ok(Self {
            inner,
            controls: ControlTokens::new(vocabulary.controls()),
            bos: vocabulary.bos,
            num_tokens: vocabulary.tokens.len(),
            scheme: vocabulary.scheme,
        })
    }

    /// Not yet.
    pub fn from_folder(folder: &std::path::Path) -> Result<Self, EncoderError> {
        Err(EncoderError::Tokenizer {
            path: folder.to_owned(),
            reason: "folders are not read".into(),
        })
    }

    /// The token that starts every sequence, where the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Size of the vocabulary: every id is below it.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// What fingerprints hash.
    pub fn digest(&self) -> String {
        format!("{:?}", self.scheme)
    }

    /// The kind of tokenizer.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The tokens of the joined segments, BOS first where the model has one.
    pub fn encode(&self, segments: &[Segment]) -> Result<Vec<Token>, EncoderError> {
        let (text, controls) = self.controls.find(segments);
        let mut tokens = Vec::new();
        tokens.extend(self.bos.map(|id| Token { id, bytes: 0..0 }));
        let mut start = 0;
        for control in controls {
            self.encode_plain(&text, start..control.bytes.start, &mut tokens)?;
            start = control.bytes.end;
            tokens.push(control);
        }
        self.encode_plain(&text, start..text.len(), &mut tokens)?;
        Ok(tokens)
    }

    fn encode_plain(&self, text: &str, range: Range<usize>, tokens: &mut Vec<Token>) -> Result<(), EncoderError> {
        let encoding = self.inner.encode(&text[range.clone()], false);
        let encoding = encoding.map_err(|e| EncoderError::Tokenize { reason: e.to_string() })?;
        let ids = encoding.get_ids().iter().zip(encoding.get_offsets());
        tokens.extend(ids.map(|(&id, &(from, to))| Token {
            id,
            bytes: range.start + from..range.start + to,
        }));
        Ok(())
    }
}

/// The texts that templates may turn into control tokens, longest first for each first byte.
struct ControlTokens {
    by_first_byte: HashMap<u8, Vec<(String, u32)>>,
}

impl ControlTokens {
    fn new<'a>(controls: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let mut by_first_byte: HashMap<u8, Vec<(String, u32)>> = HashMap::new();
        for (text, id) in controls {
            if let Some(&first) = text.as_bytes().first() {
                by_first_byte.entry(first).or_default().push((text.to_owned(), id));
            }
        }
        for list in by_first_byte.values_mut() {
            list.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        }
        Self { by_first_byte }
    }

    /// The joined text, and the control tokens in it; each lies within one template segment.
    fn find(&self, segments: &[Segment]) -> (String, Vec<Token>) {
        let mut text = String::new();
        let mut found = Vec::new();
        for segment in segments {
            match segment {
                Segment::Plain(plain) => text.push_str(plain),
                Segment::Template(template) => {
                    self.find_in(template, text.len(), &mut found);
                    text.push_str(template);
                }
            }
        }
        (text, found)
    }

    fn find_in(&self, template: &str, offset: usize, found: &mut Vec<Token>) {
        let bytes = template.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            let candidates = self.by_first_byte.get(&bytes[at]);
            let control =
                candidates.and_then(|list| list.iter().find(|(text, _)| bytes[at..].starts_with(text.as_bytes())));
            if let Some((text, id)) = control {
                let bytes = offset + at..offset + at + text.len();
                found.push(Token { id: *id, bytes });
                at += text.len();
            } else {
                at += 1;
            }
        }
    }
}
