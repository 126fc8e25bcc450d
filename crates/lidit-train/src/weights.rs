//! Which of a checkpoint's weights are meant.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::manifest::{MODEL_FILE, ema_file};

/// Which of a checkpoint's weights to use, as `--weights` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Weights {
    /// The trained weights themselves.
    Raw,
    /// A moving average; the longest half-life if none is named.
    Ema(Option<u64>),
}

impl Weights {
    /// The same with its half-life, of a run that has `half_lives`; `None` if it lacks this one.
    pub fn among(self, half_lives: &[u64]) -> Option<Self> {
        match self {
            Self::Raw => Some(self),
            Self::Ema(None) => half_lives.iter().max().map(|&longest| Self::Ema(Some(longest))),
            Self::Ema(Some(half_life)) => half_lives.contains(&half_life).then_some(self),
        }
    }

    /// Whether these are the weights that `name` says, which names a half-life where there is one.
    pub(crate) fn is(self, name: &str) -> bool {
        match self {
            Self::Ema(None) => name.starts_with("ema:"),
            exact => exact.to_string() == name,
        }
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw => write!(f, "raw"),
            Self::Ema(None) => write!(f, "ema"),
            Self::Ema(Some(half_life)) => write!(f, "ema:{half_life}"),
        }
    }
}

impl FromStr for Weights {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "raw" => Ok(Self::Raw),
            None if text == "ema" => Ok(Self::Ema(None)),
            Some(("ema", half_life)) => {
                Ok(Self::Ema(Some(half_life.parse().with_context(|| {
                    format!("`{half_life}` is not a half-life in samples")
                })?)))
            }
            _ => bail!("`{text}` is not raw, ema or ema:HALF_LIFE"),
        }
    }
}

impl TryFrom<String> for Weights {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Weights> for String {
    fn from(weights: Weights) -> Self {
        weights.to_string()
    }
}

impl Checkpoint {
    /// The flat vector that `weights` names.
    pub fn weights(&self, weights: Weights) -> Result<Vec<f32>> {
        match self.named(weights)? {
            Weights::Ema(Some(half_life)) => self.ema(half_life),
            Weights::Raw | Weights::Ema(None) => self.masters(),
        }
    }

    /// `weights` with its half-life.
    pub fn named(&self, weights: Weights) -> Result<Weights> {
        let named = weights.among(&self.manifest().ema_half_lives);
        match (named, weights) {
            (None, Weights::Ema(None)) => bail!(
                "checkpoint {} has no weight average: use --weights raw",
                self.dir().display()
            ),
            // One that is not there is named when its file is looked for.
            (named, weights) => Ok(named.unwrap_or(weights)),
        }
    }

    /// SHA-256 of the file that holds `weights`, in hex, as the manifest says it.
    pub fn weights_digest(&self, weights: Weights) -> Result<String> {
        let name = self.file_of(weights)?;
        let file = self.manifest().files.iter().find(|file| file.name == name);
        let file = file.with_context(|| format!("checkpoint {} has no {name}", self.dir().display()))?;
        Ok(file.sha256.clone())
    }

    /// The name of the file that holds `weights`.
    pub(crate) fn file_of(&self, weights: Weights) -> Result<String> {
        Ok(match self.named(weights)? {
            Weights::Ema(Some(half_life)) => ema_file(half_life),
            Weights::Raw | Weights::Ema(None) => MODEL_FILE.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_read_back_and_an_average_may_leave_its_half_life_open() {
        for text in ["raw", "ema", "ema:48"] {
            assert_eq!(text.parse::<Weights>().unwrap().to_string(), text);
        }
        for typo in ["", "ema:", "ema:x", "avg", "raw:1"] {
            assert!(typo.parse::<Weights>().is_err(), "{typo}");
        }
        assert!(Weights::Ema(None).is("ema:48") && Weights::Ema(Some(48)).is("ema:48") && Weights::Raw.is("raw"));
        assert_eq!(Weights::Ema(None).among(&[4, 48]), Some(Weights::Ema(Some(48))));
        assert_eq!(Weights::Ema(Some(5)).among(&[4, 48]), None);
        assert_eq!(
            (Weights::Ema(None).among(&[]), Weights::Raw.among(&[])),
            (None, Some(Weights::Raw))
        );
        assert!(!Weights::Ema(None).is("raw") && !Weights::Ema(Some(4)).is("ema:48") && !Weights::Raw.is("ema:48"));
    }
}
