//! How a caption becomes a prompt.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::EncoderError;
use crate::prompt_text::PromptText;
use crate::tokenizer::{Ends, Segment, Token, Tokenizer};

/// What surrounds a caption, and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateConfig {
    /// Lines, or the model's own chat template.
    pub format: PromptFormat,
    /// What is said before the caption.
    pub prefix: PrefixKind,
    /// What the model is told it is.
    pub system_prompt: String,
    /// What the model is told to do with the caption.
    pub instruction: String,
    /// Caption tokens beyond these are cut; nothing else ever is.
    pub max_caption_tokens: usize,
    /// Leave out the states of the prompt's first token, the attention sink.
    pub drop_first_token: bool,
}

/// How the parts of a prompt are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptFormat {
    /// The paper's (section 2): system prompt, newline, instruction, newline, caption.
    Plain,
    /// The model's chat template: the system prompt is the system turn; instruction, newline and caption are the
    /// user's. Where the template has no system turn, the system prompt is the first line of the user's.
    Chat,
}

/// What is said before the caption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrefixKind {
    /// System prompt and instruction.
    Instruction,
    /// As many tokens as `Instruction` has, at the same places, that say nothing: the control for what the words mean.
    Neutral,
    /// Nothing: the control for the whole prefix.
    None,
}

/// A caption's prompt as tokens. Its spans are apart: a token that spans a border counts for the later part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Rows of the embedding.
    pub ids: Vec<u32>,
    /// The tokens that contain at least one byte of the system prompt.
    pub system: Range<usize>,
    /// The tokens that contain at least one byte of the instruction.
    pub instruction: Range<usize>,
    /// The tokens that contain at least one byte of the caption; empty for an empty caption.
    pub caption: Range<usize>,
    /// Caption tokens that were cut.
    pub num_cut: usize,
}

/// A [`TemplateConfig`] made ready for one model's tokenizer.
pub struct PromptTemplate {
    text: PromptText,
    /// Ids around the text.
    ends: Ends,
    /// What the words of a neutral prefix are replaced by.
    filler: Option<u32>,
    max_caption_tokens: usize,
}

impl Prompt {
    /// Raw token ids, all of them caption.
    pub fn of_ids(ids: &[u32]) -> Self {
        Self {
            ids: ids.to_vec(),
            system: 0..0,
            instruction: 0..0,
            caption: 0..ids.len(),
            num_cut: 0,
        }
    }
}

impl TemplateConfig {
    /// A template that leaves prompts alone: no prefix, no limit.
    pub fn bare() -> Self {
        Self {
            format: PromptFormat::Plain,
            prefix: PrefixKind::None,
            system_prompt: String::new(),
            instruction: String::new(),
            max_caption_tokens: usize::MAX,
            drop_first_token: false,
        }
    }

    /// All fields, in order, as JSON, for fingerprints; the chat template is part of [`Tokenizer::digest`].
    pub fn canonical(&self) -> String {
        let fields = serde_json::json!([
            self.format,
            self.prefix,
            self.system_prompt,
            self.instruction,
            self.max_caption_tokens,
            self.drop_first_token,
        ]);
        fields.to_string()
    }

    /// The template for the model that `tokenizer` belongs to; fails where its chat template does.
    pub fn for_tokenizer(&self, tokenizer: &Tokenizer) -> Result<PromptTemplate, EncoderError> {
        if self.max_caption_tokens == 0 {
            return Err(EncoderError::NoCaptionTokens);
        }
        let [system, instruction] = match self.prefix {
            PrefixKind::None => [""; 2],
            PrefixKind::Instruction | PrefixKind::Neutral => [self.system_prompt.as_str(), self.instruction.as_str()],
        };
        let (text, ends) = match (self.format, self.prefix) {
            (PromptFormat::Plain, PrefixKind::None) => (PromptText::default(), tokenizer.ends().clone()),
            (PromptFormat::Plain, _) => (PromptText::lines(system, instruction), tokenizer.ends().clone()),
            (PromptFormat::Chat, _) => {
                let template = tokenizer.chat_template().ok_or(EncoderError::NoChatTemplate)?;
                let text = PromptText::chat(template, system, instruction);
                // As in transformers, a chat has the control tokens that its template writes and no others.
                (
                    text.map_err(|reason| EncoderError::ChatTemplate { reason })?,
                    Ends::default(),
                )
            }
        };
        let filler = match self.prefix {
            PrefixKind::Neutral => Some(filler(tokenizer)?),
            PrefixKind::Instruction | PrefixKind::None => None,
        };
        Ok(PromptTemplate {
            text,
            ends,
            filler,
            max_caption_tokens: self.max_caption_tokens,
        })
    }
}

impl PromptTemplate {
    /// The text before the caption.
    pub fn before(&self) -> &str {
        &self.text.before
    }

    /// The text after the caption.
    pub fn after(&self) -> &str {
        &self.text.after
    }

    /// The ids of the text before the caption alone, BOS included. A prompt may part from them near the end, where
    /// a token spans the border.
    pub fn prefix_ids(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, EncoderError> {
        let tokens = tokenizer.encode_bare(&[Segment::Template(&self.text.before)])?;
        let ids = tokens.iter().map(|token| self.id(token));
        Ok(self.ends.before.iter().copied().chain(ids).collect())
    }

    /// Tokenizes the whole prompt at once, as the model expects it. Spans come from the bytes that each token stands
    /// for, never from tokenizing a part alone.
    pub fn prompt(&self, tokenizer: &Tokenizer, caption: &str) -> Result<Prompt, EncoderError> {
        let text = &self.text;
        let tokens = tokenizer.encode_bare(&[
            Segment::Template(&text.before),
            Segment::Plain(caption),
            Segment::Template(&text.after),
        ])?;
        let end = text.before.len() + caption.len();
        let span = tokens_in(&tokens, &(text.before.len()..end));
        let instruction = before(tokens_in(&tokens, &text.instruction), span.start);
        let system = before(tokens_in(&tokens, &text.system), instruction.start);
        let kept = span.len().min(self.max_caption_tokens);
        // A token that reaches into the text after the caption is never cut.
        let reaches_out = span.end > span.start && tokens[span.end - 1].bytes.end > end;
        let cut_to = span.end - usize::from(reaches_out);
        let cut = cut_to - (span.len() - kept)..cut_to;
        let ids = tokens.iter().enumerate().filter(|(index, _)| !cut.contains(index));
        let ids = ids.map(|(_, token)| self.id(token));
        let ends = &self.ends;
        let shifted = |span: Range<usize>| span.start + ends.before.len()..span.end + ends.before.len();
        Ok(Prompt {
            ids: ends
                .before
                .iter()
                .copied()
                .chain(ids)
                .chain(ends.after.iter().copied())
                .collect(),
            system: shifted(system),
            instruction: shifted(instruction),
            caption: shifted(span.start..span.start + kept),
            num_cut: cut.len(),
        })
    }

    /// The token's id; in a neutral prefix, the filler for a token that lies within our words.
    fn id(&self, token: &Token) -> u32 {
        let within = |words: &Range<usize>| token.bytes.start >= words.start && token.bytes.end <= words.end;
        match self.filler {
            Some(filler) if self.text.words.iter().any(within) => filler,
            _ => token.id,
        }
    }
}

/// The tokens that contain at least one byte of `bytes`, which lie side by side; where there are none, the place
/// where they would be.
fn tokens_in(tokens: &[Token], bytes: &Range<usize>) -> Range<usize> {
    let inside = |token: &Token| token.bytes.start < bytes.end && token.bytes.end > bytes.start;
    let first = tokens.iter().position(inside);
    let start = first.or_else(|| tokens.iter().position(|token| token.bytes.start >= bytes.start));
    let start = start.unwrap_or(tokens.len());
    let end = tokens.iter().rposition(inside).map_or(start, |last| last + 1);
    start..end
}

/// The part of `span` before token `end`.
fn before(span: Range<usize>, end: usize) -> Range<usize> {
    span.start.min(end)..span.end.min(end)
}

/// A token that says nothing: a newline's; where newlines make no token (T5 drops them), a full stop's.
fn filler(tokenizer: &Tokenizer) -> Result<u32, EncoderError> {
    for text in ["\n", "."] {
        if let Some(token) = tokenizer.encode_bare(&[Segment::Template(text)])?.last() {
            return Ok(token.id);
        }
    }
    Err(EncoderError::Tokenize {
        reason: "neither a newline nor a full stop makes a token to fill a neutral prefix with".into(),
    })
}
