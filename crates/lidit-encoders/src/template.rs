//! How a caption becomes a prompt.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::EncoderError;
use crate::tokenizer::{Segment, Token, Tokenizer};

/// What surrounds a caption, and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateConfig {
    /// Text before the caption; without it the caption stands alone.
    pub instruction: Option<Instruction>,
    /// Caption tokens beyond these are cut; the instruction never is.
    pub max_caption_tokens: usize,
    /// Leave out the state of the first token, the attention sink.
    pub drop_first_token: bool,
}

/// The paper's prefix (section 2): system prompt, newline, instruction, newline, caption.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instruction {
    /// What the model is told it is.
    pub system_prompt: String,
    /// What the model is told to do with the caption.
    pub instruction: String,
}

/// A caption's prompt as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Rows of the embedding.
    pub ids: Vec<u32>,
    /// The tokens that contain at least one byte of the caption; empty for an empty caption.
    pub caption: Range<usize>,
    /// Caption tokens that were cut.
    pub num_cut: usize,
}

impl Prompt {
    /// Raw token ids, all of them caption.
    pub fn of_ids(ids: &[u32]) -> Self {
        Self {
            ids: ids.to_vec(),
            caption: 0..ids.len(),
            num_cut: 0,
        }
    }
}

impl TemplateConfig {
    /// A template that leaves prompts alone: no instruction, no limit.
    pub fn plain() -> Self {
        Self {
            instruction: None,
            max_caption_tokens: usize::MAX,
            drop_first_token: false,
        }
    }

    /// The text before the caption.
    pub fn prefix(&self) -> String {
        self.instruction.as_ref().map_or_else(String::new, |text| {
            format!("{}\n{}\n", text.system_prompt, text.instruction)
        })
    }

    /// The tokens of the text before the caption alone, BOS included.
    pub fn prefix_ids(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, EncoderError> {
        Ok(self.prompt(tokenizer, "")?.ids)
    }

    /// What fingerprints hash.
    pub fn canonical(&self) -> String {
        format!("{self:?}")
    }

    /// Tokenizes the whole prompt at once, as the model expects it: a token may span the end of the
    /// instruction, and then counts as a caption token.
    pub fn prompt(&self, tokenizer: &Tokenizer, caption: &str) -> Result<Prompt, EncoderError> {
        let prefix = self.prefix();
        let tokens = tokenizer.encode(&[Segment::Template(&prefix), Segment::Plain(caption)])?;
        let bytes = prefix.len()..prefix.len() + caption.len();
        let span = tokens_in(&tokens, &bytes);
        let kept = span.len().min(self.max_caption_tokens);
        let num_cut = span.len() - kept;
        let cut = span.start + kept..span.end;
        let ids = tokens.iter().enumerate();
        let ids = ids.filter(|(index, _)| !cut.contains(index)).map(|(_, token)| token.id);
        Ok(Prompt {
            ids: ids.collect(),
            caption: span.start..span.start + kept,
            num_cut,
        })
    }
}

/// The tokens that contain at least one byte of `bytes`; they lie side by side.
fn tokens_in(tokens: &[Token], bytes: &Range<usize>) -> Range<usize> {
    let inside = |token: &Token| token.bytes.start < bytes.end && token.bytes.end > bytes.start;
    let start = tokens.iter().position(inside).unwrap_or(tokens.len());
    let end = tokens.iter().rposition(inside).map_or(start, |last| last + 1);
    start..end
}
