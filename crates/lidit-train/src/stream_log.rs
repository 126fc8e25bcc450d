//! What a run trained on, step by step: the record that `lidit data audit` checks.

use std::path::Path;

use anyhow::{Result, bail};
use lidit_data::SampleSum;
use serde::{Deserialize, Serialize};

use crate::jsonl::{self, JsonLines};
use crate::run_dir::RunDir;

/// The version of a line of `stream.jsonl`.
pub const FORMAT_VERSION: u32 = 1;

/// One step of the surviving lineage, summed over what the ranks had in their hands, not over what they should have had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepSamples {
    /// Always `FORMAT_VERSION` of this file.
    pub format_version: u32,
    /// Steps done, this one included.
    pub step: u64,
    /// Processes that took part.
    pub world_size: usize,
    /// Samples, unusable ones included.
    pub samples: u64,
    /// Of those, the ones that had no usable picture or caption.
    pub unusable: u64,
    /// [`SampleSum::words`] of all samples.
    pub sum: [u64; 2],
}

/// `stream.jsonl`, open for appending.
pub(crate) struct StreamLog {
    lines: JsonLines,
}

impl StepSamples {
    /// A step's line.
    pub fn new(step: u64, world_size: usize, unusable: u64, sum: SampleSum) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            step,
            world_size,
            samples: sum.samples,
            unusable,
            sum: sum.words,
        }
    }

    /// What was summed.
    pub fn sample_sum(&self) -> SampleSum {
        SampleSum {
            samples: self.samples,
            words: self.sum,
        }
    }
}

impl StreamLog {
    /// Opens a run's record for an attempt that goes on after `done` steps; later lines belong to no checkpoint and go.
    /// Also returns how many unusable samples were met before.
    pub(crate) fn open(run: &RunDir, done: u64) -> Result<(Self, u64)> {
        let kept = jsonl::retain(&run.stream(), |line: &StepSamples| line.step <= done)?;
        check_versions(&run.stream(), &kept)?;
        let unusable = kept.iter().map(|line| line.unusable).sum();
        let lines = JsonLines::open(&run.stream())?;
        Ok((Self { lines }, unusable))
    }

    /// Appends a step.
    pub(crate) fn log(&mut self, line: &StepSamples) -> Result<()> {
        self.lines.append(line)
    }

    /// Waits until every line is on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.lines.sync()
    }
}

/// Reads a run's record.
pub(crate) fn read(run: &RunDir) -> Result<Vec<StepSamples>> {
    let lines = jsonl::read(&run.stream())?;
    check_versions(&run.stream(), &lines)?;
    Ok(lines)
}

fn check_versions(path: &Path, lines: &[StepSamples]) -> Result<()> {
    if let Some(line) = lines.iter().find(|line| line.format_version != FORMAT_VERSION) {
        bail!(
            "{} has format_version {}, this program writes {FORMAT_VERSION}",
            path.display(),
            line.format_version
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_after_the_checkpoint_go_and_unusable_samples_are_counted_on() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path()).unwrap();
        let (mut log, before) = StreamLog::open(&run, 0).unwrap();
        assert_eq!(before, 0);
        let lines: Vec<StepSamples> = (1..=5)
            .map(|step| StepSamples::new(step, 2, step, SampleSum::default()))
            .collect();
        for line in &lines {
            log.log(line).unwrap();
        }
        let (_, before) = StreamLog::open(&run, 3).unwrap();
        assert_eq!(before, 6);
        assert_eq!(read(&run).unwrap(), lines[..3]);
    }
}
