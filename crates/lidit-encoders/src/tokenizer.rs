//! Text to token ids, with the tokenizer of a Hugging Face folder or of a GGUF file.

use std::collections::HashSet;
use std::ops::Range;

use tokenizers::normalizer::Range as StringRange;
use tokenizers::{
    Model, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper, OffsetType, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper,
};

use crate::EncoderError;
use crate::added_tokens::{AddedToken, AddedTokens, Found, Place};
use crate::chat_template::ChatTemplate;

/// A tokenizer whose control tokens only templates can produce.
///
/// The steps are those of Hugging Face's `tokenizers`: added tokens are cut out of the text, the rest is normalised,
/// cut into words and given to the model. All segments pass them as one text.
pub struct Tokenizer {
    model: ModelWrapper,
    normalizers: Vec<NormalizerWrapper>,
    words: Option<PreTokenizerWrapper>,
    added: AddedTokens,
    added_normalized: AddedTokens,
    ends: Ends,
    num_tokens: usize,
    chat_template: Option<ChatTemplate>,
    digest: String,
}

/// Ids that the tokenizer puts around every text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// The BOS, where the model has one.
    pub before: Vec<u32>,
    /// The EOS, where the model wants one: T5's `</s>`.
    pub after: Vec<u32>,
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
    /// Bytes of the text; empty for the ids of [`Ends`].
    ///
    /// Every step carries, for each byte of the text as it stands, the character of the original that it came from,
    /// so these are exact whatever a normaliser does: tokens that share a character share its bytes, an inserted `▁`
    /// has those of the character it was put before, and what a normaliser drops, or composes onto the character
    /// before, belongs to no token.
    pub bytes: Range<usize>,
}

/// What a tokenizer is made of.
pub(crate) struct TokenizerParts {
    pub model: ModelWrapper,
    pub normalizers: Vec<NormalizerWrapper>,
    pub pre_tokenizer: Option<PreTokenizerWrapper>,
    pub added: Vec<AddedToken>,
    pub ends: Ends,
    pub chat_template: Option<ChatTemplate>,
    pub digest: String,
}

impl Tokenizer {
    /// Fails with a reason that names no file.
    pub(crate) fn new(parts: TokenizerParts) -> Result<Self, String> {
        let num_tokens = num_tokens(&parts.model, &parts.added);
        let (normalized, raw): (Vec<_>, Vec<_>) = parts.added.into_iter().partition(|token| token.normalized);
        let mut tokenizer = Self {
            model: parts.model,
            normalizers: parts.normalizers,
            words: parts.pre_tokenizer,
            added: AddedTokens::new(raw.into_iter().map(|token| (token.text.clone(), token))),
            added_normalized: AddedTokens::default(),
            ends: parts.ends,
            num_tokens,
            chat_template: parts.chat_template,
            digest: parts.digest,
        };
        let normalized = normalized.into_iter().map(|token| {
            let mut text = NormalizedString::from(token.text.as_str());
            tokenizer.normalize(&mut text).map_err(|e| e.to_string())?;
            Ok((text.get().to_owned(), token))
        });
        tokenizer.added_normalized = AddedTokens::new(normalized.collect::<Result<Vec<_>, String>>()?);
        Ok(tokenizer)
    }

    /// The ids around every text.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// One more than the highest id that a caption can become. Control tokens may lie beyond: Gemma 3's text models
    /// have no row for the image token that their tokenizer lists.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// The model's own chat template, if its files have one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    /// SHA-256, hexadecimal, over all that decides which ids a text becomes, the chat template included.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The tokens of the joined segments, between the tokenizer's [`Ends`].
    pub fn encode(&self, segments: &[Segment]) -> Result<Vec<Token>, EncoderError> {
        let end = segments.iter().map(|segment| segment.text().len()).sum();
        let at = |byte: usize| move |&id: &u32| Token { id, bytes: byte..byte };
        let mut tokens: Vec<_> = self.ends.before.iter().map(at(0)).collect();
        tokens.extend(self.encode_bare(segments)?);
        tokens.extend(self.ends.after.iter().map(at(end)));
        Ok(tokens)
    }

    /// The tokens of the joined segments and nothing else, for templates that write their own BOS.
    pub fn encode_bare(&self, segments: &[Segment]) -> Result<Vec<Token>, EncoderError> {
        let joined = Joined::new(segments);
        let tokens = self.tokenize(&joined);
        tokens.map_err(|e| EncoderError::Tokenize { reason: e.to_string() })
    }

    fn tokenize(&self, joined: &Joined) -> tokenizers::Result<Vec<Token>> {
        let mut pieces = PreTokenizedString::from(joined.text.as_str());
        pieces.split(|_, piece| Ok(cut(&piece, &self.added, joined)))?;
        pieces.split(|_, mut piece| {
            self.normalize(&mut piece)?;
            Ok(cut(&piece, &self.added_normalized, joined))
        })?;
        if let Some(words) = &self.words {
            words.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| self.model.tokenize(piece.get()))?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::Byte)?;
        let ids = encoding.get_ids().iter().zip(encoding.get_offsets());
        let tokens = ids.map(|(&id, &(from, to))| Token { id, bytes: from..to });
        Ok(tokens.collect())
    }

    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        for normalizer in &self.normalizers {
            if let NormalizerWrapper::Precompiled(charsmap) = normalizer {
                // The crate's own step loses count of characters that vanish at the very beginning.
                let vanishes = |c: &char| charsmap.normalize_string(c.encode_utf8(&mut [0; 4])).is_empty();
                let vanished = text.get().chars().take_while(vanishes).count();
                if vanished > 0 {
                    let rest: Vec<_> = text.get().chars().skip(vanished).map(|c| (c, 0)).collect();
                    text.transform(rest, vanished);
                }
            }
            normalizer.normalize(text)?;
        }
        Ok(())
    }
}

impl<'a> Segment<'a> {
    /// Its text.
    pub fn text(&self) -> &'a str {
        match self {
            Self::Template(text) | Self::Plain(text) => text,
        }
    }
}

/// The segments as one text.
struct Joined {
    text: String,
    /// End of each segment, and whose it is.
    ends: Vec<(usize, Place)>,
}

impl Joined {
    fn new(segments: &[Segment]) -> Self {
        let mut text = String::new();
        let ends = segments.iter().map(|segment| {
            text.push_str(segment.text());
            let place = match segment {
                Segment::Template(_) => Place::Template,
                Segment::Plain(_) => Place::Plain,
            };
            (text.len(), place)
        });
        let ends = ends.collect();
        Self { text, ends }
    }

    fn place(&self, bytes: &Range<usize>) -> Place {
        match self.ends.iter().find(|(end, _)| bytes.start < *end) {
            Some((end, place)) if bytes.end <= *end => *place,
            _ => Place::Across,
        }
    }
}

/// `piece` cut before and after each added token that is found in it.
fn cut(
    piece: &NormalizedString,
    added: &AddedTokens,
    joined: &Joined,
) -> Vec<(NormalizedString, Option<Vec<tokenizers::Token>>)> {
    let shift = piece.offsets_original().0;
    let place = |bytes: Range<usize>| match piece.convert_offsets(StringRange::Normalized(bytes)) {
        Some(bytes) => joined.place(&(shift + bytes.start..shift + bytes.end)),
        None => Place::Across,
    };
    let mut parts = Vec::new();
    let mut push = |bytes: Range<usize>, found: Option<&Found>| {
        let tokens = found.map(|found| {
            let offsets = (found.bytes.start - bytes.start, found.bytes.end - bytes.start);
            vec![tokenizers::Token::new(found.id, String::new(), offsets)]
        });
        parts.extend(piece.slice(StringRange::Normalized(bytes)).map(|part| (part, tokens)));
    };
    let mut start = 0;
    for found in added.find(piece.get(), place) {
        push(start..found.taken.start, None);
        push(found.taken.clone(), Some(&found));
        start = found.taken.end;
    }
    push(start..piece.get().len(), None);
    parts
}

fn num_tokens(model: &ModelWrapper, added: &[AddedToken]) -> usize {
    let control: HashSet<u32> = added
        .iter()
        .filter(|token| token.special)
        .map(|token| token.id)
        .collect();
    let of_model = model.get_vocab().into_values().filter(|id| !control.contains(id));
    let of_text = added.iter().filter(|token| !token.special).map(|token| token.id);
    of_model.chain(of_text).max().map_or(0, |id| id as usize + 1)
}
