//! One thing that was looked at.

use serde::{Deserialize, Serialize};

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As a run needs it.
    Ok,
    /// A run may work, worse than it could.
    Warning,
    /// A run would fail.
    Failed,
}

/// How ranks' answers are put together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Ranks that found the same share a line.
    Plain,
    /// Ranks that found something else than the others have failed.
    Agreed,
    /// A rate or a margin; the rank with the least speaks for all.
    Least(f64),
}

/// One thing that was looked at, by one rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do about it; empty where there is nothing to do.
    pub advice: String,
    /// How ranks' answers are put together.
    pub kind: Kind,
}

impl Check {
    /// All is well.
    pub fn ok(name: &str, found: impl Into<String>) -> Self {
        Self::new(name, Status::Ok, found, "")
    }

    /// A run may work.
    pub fn warning(name: &str, found: impl Into<String>, advice: &str) -> Self {
        Self::new(name, Status::Warning, found, advice)
    }

    /// A run would fail.
    pub fn failed(name: &str, found: impl Into<String>, advice: &str) -> Self {
        Self::new(name, Status::Failed, found, advice)
    }

    /// As [`ok`](Self::ok), but all ranks must have found the same.
    pub fn agreed(name: &str, found: impl Into<String>) -> Self {
        Self {
            kind: Kind::Agreed,
            ..Self::ok(name, found)
        }
    }

    /// The check with a rate or a margin, in units of its own, by which ranks are compared.
    pub fn of(self, amount: f64) -> Self {
        Self {
            kind: Kind::Least(amount),
            ..self
        }
    }

    fn new(name: &str, status: Status, found: impl Into<String>, advice: &str) -> Self {
        Self {
            name: name.to_owned(),
            status,
            // One line a check, whatever an error says.
            found: found.into().split_whitespace().collect::<Vec<_>>().join(" "),
            advice: advice.to_owned(),
            kind: Kind::Plain,
        }
    }
}

/// `1 rank`, `2 ranks`.
pub fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
