//! `metrics.jsonl` of an autoencoder's training.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::loss::Terms;
use crate::jsonl::{self, JsonLines};

const FORMAT_VERSION: u32 = 1;
const FILE: &str = "metrics.jsonl";

/// One logged step; means over its usable pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaeRecord {
    /// 1.
    pub format_version: u32,
    /// Steps done, this one included.
    pub step: u64,
    /// Passes over the data set, with fraction.
    pub epoch: f64,
    /// The weighted sum of the terms.
    pub loss: f64,
    /// L1 or L2, as `loss.reconstruction` says.
    pub reconstruction: f64,
    /// Divergence to the standard normal, mean over latents, in nats.
    pub kl: f64,
    /// Distance of `EfficientNet` features; 0 where there is none.
    pub perceptual: f64,
    /// Peak signal-to-noise ratio in dB, of sampled latents.
    pub psnr: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// The rate of this step.
    pub lr: f64,
    /// Wall clock since the first step, over all attempts that survive.
    pub seconds: f64,
}

/// The file, open for appending.
pub struct VaeLog {
    lines: JsonLines,
    last: Option<VaeRecord>,
    seconds: f64,
    pictures: u64,
}

impl VaeLog {
    /// Opens the file of `out`; what was logged after step `done` belongs to no saved state and goes.
    pub fn open(out: &Path, done: u64, pictures: u64) -> Result<Self> {
        let path = out.join(FILE);
        let kept = jsonl::retain(&path, |line: &VaeRecord| line.step <= done)?;
        let last = kept.into_iter().next_back();
        Ok(Self {
            lines: JsonLines::open(&path)?,
            seconds: last.as_ref().map_or(0.0, |record| record.seconds),
            last,
            pictures,
        })
    }

    /// The last logged step.
    pub fn last(&self) -> Option<&VaeRecord> {
        self.last.as_ref()
    }

    /// What `step` says; its time counts from here on.
    pub fn step(
        &mut self,
        step: u64,
        sums: &Terms,
        batch: usize,
        [grad_norm, lr]: [f64; 2],
        time: Duration,
    ) -> VaeRecord {
        self.seconds += time.as_secs_f64();
        let mean = |sum: f64| sum / sums.usable.max(1.0);
        VaeRecord {
            format_version: FORMAT_VERSION,
            step,
            epoch: step as f64 * batch as f64 / self.pictures.max(1) as f64,
            loss: mean(sums.loss),
            reconstruction: mean(sums.reconstruction),
            kl: mean(sums.kl),
            perceptual: mean(sums.perceptual),
            // Values reach from -1 to 1, so the peak is 2.
            psnr: 10.0 * (4.0 / mean(sums.squared_error)).log10(),
            grad_norm,
            lr,
            seconds: self.seconds,
        }
    }

    /// Writes a line.
    pub fn append(&mut self, record: &VaeRecord) -> Result<()> {
        self.lines.append(record)?;
        self.last = Some(record.clone());
        Ok(())
    }

    /// Waits until every line is on the disk.
    pub fn sync(&self) -> Result<()> {
        self.lines.sync()
    }
}
