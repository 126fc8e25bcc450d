//! The text around a caption, and where its parts are.

use std::ops::Range;

use crate::chat_template::{ChatTemplate, Message};

/// Stand in for the parts of a prompt while a chat template is rendered; no template changes or trims them.
const SYSTEM: &str = "\u{e000}\u{e001}\u{e000}";
const INSTRUCTION: &str = "\u{e000}\u{e002}\u{e000}";
const CAPTION: &str = "\u{e000}\u{e003}\u{e000}";

/// The text around a caption.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptText {
    /// Text before the caption.
    pub before: String,
    /// Text after the caption.
    pub after: String,
    /// Bytes of `before` that are the system prompt.
    pub system: Range<usize>,
    /// Bytes of `before` that are the instruction.
    pub instruction: Range<usize>,
    /// Bytes of `before` that are ours and not the chat template's: these two and the newlines that follow them.
    pub words: Vec<Range<usize>>,
}

impl PromptText {
    /// System prompt and instruction, a line each.
    pub fn lines(system: &str, instruction: &str) -> Self {
        let before = format!("{system}\n{instruction}\n");
        let start = system.len() + 1;
        Self {
            words: std::iter::once(0..before.len()).collect(),
            before,
            after: String::new(),
            system: 0..system.len(),
            instruction: start..start + instruction.len(),
        }
    }

    /// A model's chat template around system prompt, instruction and caption; the reason where it can't be used.
    pub fn chat(template: &ChatTemplate, system: &str, instruction: &str) -> Result<Self, String> {
        let chat = Chat {
            template,
            system,
            instruction,
        };
        chat.text()
    }

    fn placed(before: &str, after: &str, system: Range<usize>, instruction: Range<usize>, turn: SystemTurn) -> Self {
        let words = match turn {
            SystemTurn::Users if !system.is_empty() => std::iter::once(system.start..before.len()).collect(),
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
    fn text(&self) -> Result<PromptText, String> {
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
    fn with_turn(&self, turn: SystemTurn) -> Result<PromptText, String> {
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
                    return Ok(PromptText::placed(before, after, system, instruction, turn));
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
