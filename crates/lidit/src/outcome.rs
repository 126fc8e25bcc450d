//! What a command leaves behind.

use std::process::ExitCode;

use serde_json::Value;

/// The answer of a command: text for people, one JSON object for scripts, and how it ended.
pub struct Outcome {
    /// Printed on stdout without `--json`; empty when the command's work is its answer.
    pub text: String,
    /// Printed on one line, last on stdout, with `--json`.
    pub json: Value,
    /// The process's exit code.
    pub exit: Exit,
}

impl Outcome {
    /// A command that did what it was asked to.
    pub fn done(text: impl Into<String>, json: Value) -> Self {
        Self {
            text: text.into(),
            json,
            exit: Exit::Done,
        }
    }
}

/// How a command that did not fail ended. Errors exit with 1 (76 for a lost peer), wrong usage with 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 75: stopped on purpose, resumable.
    Stopped,
    /// 76: a peer failed or timed out.
    PeerFailed,
    /// Another code, handed on from a process that this command ran.
    Code(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Stopped => 75,
            Exit::PeerFailed => 76,
            Exit::Code(code) => code,
        })
    }
}
