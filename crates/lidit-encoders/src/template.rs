//! How a caption becomes a prompt.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::EncoderError;
use crate::chat_template::{ChatTemplate, Message};
use crate::tokenizer::{Ends, Segment, Token, Tokenizer};

/// Stand in for the parts of a prompt while a chat template is rendered; no template changes or trims them.
const SYSTEM: &str = "\u{e000}\u{e001}\u{e000}";
const INSTRUCTION: &str = "\u{e000}\u{e002}\u{e000}";
const CAPTION: &str = "\u{e000}\u{e003}\u{e000}";

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

/// The text around a caption.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Text {
    before: String,
    after: String,
    /// Bytes of `before` that are the system prompt.
    system: Range<usize>,
    /// Bytes of `before` that are the instruction.
    instruction: Range<usize>,
    /// Bytes of `before` that are ours and not the chat template's: these two and the newlines that follow them.
    words: Vec<Range<usize>>,
}

/// A [`TemplateConfig`] made ready for one model's tokenizer.
pub struct PromptTemplate {
    text: Text,
    /// Ids around the text.
    ends: Ends,
    /// What the words of a neutral prefix are replaced by.
    filler: Option<u32>,
    max_caption_tokens: usize,
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

    /// All fields as one text, for fingerprints; the chat template is part of [`Tokenizer::digest`].
    pub fn canonical(&self) -> String {
        let fields = serde_json::json!({
            "format": self.format,
            "prefix": self.prefix,
            "system_prompt": self.system_prompt,
            "instruction": self.instruction,
            "max_caption_tokens": self.max_caption_tokens,
            "drop_first_token": self.drop_first_token,
        });
        fields.to_string()
    }

    /// The template for the model that `tokenizer` belongs to; fails where its chat template does.
    pub fn for_tokenizer(&self, tokenizer: &Tokenizer) -> Result<PromptTemplate, EncoderError> {
        if self.max_caption_tokens == 0 {
            return Err(EncoderError::NoCaptionTokens);
        }
        let (text, ends) = match (self.format, self.prefix) {
            (PromptFormat::Plain, PrefixKind::None) => (Text::default(), tokenizer.ends().clone()),
            (PromptFormat::Plain, _) => (self.lines(), tokenizer.ends().clone()),
            // As in transformers, a chat has the control tokens that its template writes and no others.
            (PromptFormat::Chat, _) => (self.chat(tokenizer)?, Ends::default()),
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

    fn lines(&self) -> Text {
        let system = 0..self.system_prompt.len();
        let instruction = system.end + 1..system.end + 1 + self.instruction.len();
        let before = format!("{}\n{}\n", self.system_prompt, self.instruction);
        Text {
            words: vec![0..before.len()],
            before,
            after: String::new(),
            system,
            instruction,
        }
    }

    fn chat(&self, tokenizer: &Tokenizer) -> Result<Text, EncoderError> {
        let template = tokenizer.chat_template().ok_or(EncoderError::NoChatTemplate)?;
        let [system, instruction] = match self.prefix {
            PrefixKind::None => [""; 2],
            PrefixKind::Instruction | PrefixKind::Neutral => [self.system_prompt.as_str(), self.instruction.as_str()],
        };
        let text = Chat {
            template,
            system,
            instruction,
        }
        .text();
        text.map_err(|reason| EncoderError::ChatTemplate { reason })
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

/// What is put into a chat template.
struct Chat<'a> {
    template: &'a ChatTemplate,
    system: &'a str,
    instruction: &'a str,
}

/// Who says the system prompt.
#[derive(Clone, Copy)]
enum SystemTurn {
    Own,
    Users,
}

impl Chat<'_> {
    fn text(&self) -> Result<Text, String> {
        if self.system.is_empty() {
            return self.with_turn(SystemTurn::Users);
        }
        // Some templates raise an error at a system turn, others pass over it.
        match self.render(SystemTurn::Own, [SYSTEM, INSTRUCTION]) {
            Ok(text) if text.contains(SYSTEM) => self.with_turn(SystemTurn::Own),
            _ => self.with_turn(SystemTurn::Users),
        }
    }

    /// Renders the chat with stand-ins for all parts, which shows the template's own text, and with the words
    /// themselves, which shows what it makes of them: it may trim them, and may do otherwise for other words.
    fn with_turn(&self, turn: SystemTurn) -> Result<Text, String> {
        let stand_in = |words: &str, mark| if words.is_empty() { "" } else { mark };
        let [system, instruction] = [stand_in(self.system, SYSTEM), stand_in(self.instruction, INSTRUCTION)];
        let frame = self.render(turn, [system, instruction])?;
        let (frame, after) = split_once(&frame, CAPTION, "caption")?;
        let (head, frame) = match system {
            "" => ("", frame),
            mark => split_once(frame, mark, "system prompt")?,
        };
        let (middle, tail) = match instruction {
            "" => (frame, ""),
            mark => split_once(frame, mark, "instruction")?,
        };
        let real = self.render(turn, [self.system, self.instruction])?;
        let (before, real_after) = split_once(&real, CAPTION, "caption")?;
        if real_after != after {
            return Err("the chat template's text after the caption depends on the instruction".into());
        }
        for system in trimmed(self.system) {
            for instruction in trimmed(self.instruction) {
                if before == [head, system, middle, instruction, tail].concat() {
                    let system = head.len()..head.len() + system.len();
                    let start = system.end + middle.len();
                    let instruction = start..start + instruction.len();
                    return Ok(Text::chat(before, after, system, instruction, turn));
                }
            }
        }
        Err("the chat template changes the words of the system prompt or of the instruction".into())
    }

    fn render(&self, turn: SystemTurn, [system, instruction]: [&str; 2]) -> Result<String, String> {
        let lines = |lines: &[&str]| {
            let said: Vec<_> = lines.iter().filter(|line| !line.is_empty()).copied().collect();
            said.join("\n")
        };
        let message = |role, content| Message { role, content };
        match turn {
            SystemTurn::Own => {
                let user = lines(&[instruction, CAPTION]);
                self.template
                    .render(&[message("system", system), message("user", &user)])
            }
            SystemTurn::Users => {
                let user = lines(&[system, instruction, CAPTION]);
                self.template.render(&[message("user", &user)])
            }
        }
    }
}

/// `text` around `mark`, which must be in it exactly once.
fn split_once<'a>(text: &'a str, mark: &str, name: &str) -> Result<(&'a str, &'a str), String> {
    let parts: Vec<_> = text.split(mark).collect();
    match parts[..] {
        [before, after] => Ok((before, after)),
        [_] => Err(format!(
            "the chat template leaves out the {name}, or puts it after the caption"
        )),
        _ => Err(format!("the chat template writes the {name} {} times", parts.len() - 1)),
    }
}

/// What a template may make of `words`.
fn trimmed(words: &str) -> [&str; 4] {
    [words, words.trim_end(), words.trim_start(), words.trim()]
}

impl Text {
    fn chat(before: &str, after: &str, system: Range<usize>, instruction: Range<usize>, turn: SystemTurn) -> Self {
        let words = match turn {
            SystemTurn::Users if !system.is_empty() => vec![system.start..before.len()],
            _ => vec![system.clone(), instruction.start..before.len()],
        };
        Self {
            before: before.to_owned(),
            after: after.to_owned(),
            system,
            instruction,
            words,
        }
    }
}
