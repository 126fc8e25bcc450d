//! An evaluation on the disk: `eval.json`, written last.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use lidit_scaling::scenes::Category;
use lidit_train::{Checkpoint, LevelLoss, ValidationRecord, Weights, write_atomically};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::config::EvalConfig;
use super::scenes::ScenesScores;
use crate::artist::EncodedBy;
use crate::outcome::Outcome;

/// The losses on the validation triples, beside `eval.json`.
pub const VALIDATION: &str = "validation.json";

const FILE: &str = "eval.json";
const FORMAT_VERSION: u32 = 2;

/// `eval.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    format_version: u32,
    lidit_version: String,
    /// Whose loss and pictures.
    subject: Subject,
    config: EvalConfig,
    /// Who encoded the prompts.
    encoded_by: EncodedBy,
    /// `null` without `[validation]`, and where it is not finite.
    val_loss: Option<f64>,
    val_loss_se: Option<f64>,
    /// `null` where it was not asked for.
    prompt_gain: Option<f64>,
    prompt_gain_se: Option<f64>,
    validation_digest: Option<String>,
    /// The loss at each time.
    levels: Vec<LevelLoss>,
    /// `null` without `[scenes]`.
    scenes: Option<ScenesScores>,
    seconds: f64,
}

/// Which weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Optimizer steps.
    pub step: u64,
    /// `raw` or `ema:HALF_LIFE`.
    weights: String,
    /// SHA-256 of the checkpoint's file of them.
    sha256: String,
}

impl Subject {
    /// The `weights` of `checkpoint`.
    pub fn of(checkpoint: &Checkpoint, weights: Weights) -> Result<Self> {
        Ok(Self {
            step: checkpoint.manifest().step,
            weights: checkpoint.named(weights)?.to_string(),
            sha256: checkpoint.weights_digest(weights)?,
        })
    }
}

impl Evaluation {
    /// All that was found.
    pub fn new(
        subject: Subject,
        config: EvalConfig,
        encoded_by: EncodedBy,
        validation: Option<&ValidationRecord>,
        scenes: Option<ScenesScores>,
        took: Duration,
    ) -> Self {
        let gain = validation.and_then(|record| record.prompt_gain.as_ref());
        Self {
            format_version: FORMAT_VERSION,
            lidit_version: env!("CARGO_PKG_VERSION").to_owned(),
            subject,
            config,
            encoded_by,
            val_loss: validation.map(|record| record.val_loss).filter(|loss| loss.is_finite()),
            val_loss_se: validation.map(|record| record.se).filter(|se| se.is_finite()),
            prompt_gain: gain.map(|gain| gain.mean).filter(|gain| gain.is_finite()),
            prompt_gain_se: gain.map(|gain| gain.se).filter(|se| se.is_finite()),
            validation_digest: validation.map(|record| record.digest.clone()),
            levels: validation.map_or(Vec::new(), |record| record.levels.clone()),
            scenes,
            seconds: took.as_secs_f64(),
        }
    }

    /// The finished evaluation in `out`; `None` where there is none that this program reads.
    pub fn read(out: &Path) -> Result<Option<Self>> {
        let path = out.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let read: Result<Self, _> = serde_json::from_slice(&bytes);
        Ok(read.ok().filter(|read| read.format_version == FORMAT_VERSION))
    }

    /// Whether it is of the same weights, by the same config and program.
    pub fn is_of(&self, subject: &Subject, config: &EvalConfig) -> bool {
        self.subject == *subject && self.is_by(config) && self.lidit_version == env!("CARGO_PKG_VERSION")
    }

    /// Whether it is by `config`, whose weights are named.
    pub fn is_by(&self, config: &EvalConfig) -> bool {
        json!(self.config) == json!(config)
    }

    /// Optimizer steps of the weights.
    pub fn step(&self) -> u64 {
        self.subject.step
    }

    /// What the judge says, where it was asked.
    pub fn scenes(&self) -> Option<&ScenesScores> {
        self.scenes.as_ref()
    }

    /// Makes `out` ready: what is left of an earlier evaluation goes, `eval.json` first.
    pub fn clear(out: &Path) -> Result<()> {
        let pictures = out.join("pictures");
        fs::create_dir_all(&pictures).with_context(|| format!("creating {}", pictures.display()))?;
        let mut old = vec![out.join(FILE), out.join(VALIDATION), out.join("grid.png")];
        for entry in fs::read_dir(&pictures).with_context(|| format!("listing {}", pictures.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_ours = |category: Category| name.starts_with(category.name());
            if path.extension().is_some_and(|end| end == "png") && Category::ALL.into_iter().any(is_ours) {
                old.push(path);
            }
        }
        for path in old {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes `eval.json` into `out`, whole or not at all.
    pub fn write(&self, out: &Path) -> Result<()> {
        write_atomically(&out.join(FILE), &serde_json::to_vec_pretty(self)?)
    }

    /// What the command says of it.
    pub fn outcome(&self, out: &Path) -> Outcome {
        let Subject { step, weights, .. } = &self.subject;
        let mut text = vec![format!("step {step}, {weights}: {}", out.join(FILE).display())];
        if let (Some(loss), Some(se)) = (self.val_loss, self.val_loss_se) {
            text.push(format!("validation loss {loss:.5}, standard error {se:.5}"));
        }
        if let (Some(gain), Some(se)) = (self.prompt_gain, self.prompt_gain_se) {
            text.push(format!("prompts gain {gain:.5} of it, standard error {se:.5}"));
        }
        text.extend(self.scenes.as_ref().map(ScenesScores::table));
        let scenes = self.scenes.as_ref().map(
            |scenes| json!({ "counts": scenes.counts, "categories": scenes.categories, "quartiles": scenes.quartiles }),
        );
        let json = json!({
            "step": step,
            "weights": weights,
            "val_loss": self.val_loss,
            "val_loss_se": self.val_loss_se,
            "prompt_gain": self.prompt_gain,
            "prompt_gain_se": self.prompt_gain_se,
            "validation_digest": self.validation_digest,
            "scenes": scenes,
            "out": out,
        });
        Outcome::done(text.join("\n"), json)
    }
}
