//! The proof, from a run's own records, that no sample was lost or repeated.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use lidit_data::{Dataset, SampleOrder, SampleSum, Share};
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::config::RunConfig;
use crate::history::{self, Event};
use crate::run_dir::RunDir;
use crate::state::SampleDigest;
use crate::stream_log;

/// What an audit that found nothing wrong has proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Steps of the surviving lineage, each of which trained on exactly its samples.
    pub steps: u64,
    /// Samples of those steps.
    pub samples: u64,
    /// Of those, the ones that could not be used.
    pub unusable: u64,
    /// Passes that every sample of its source and size has had, from the part with the fewest.
    pub whole_epochs: u64,
    /// Attempts at the run.
    pub attempts: u32,
    /// Which steps were trained by how many processes.
    pub worlds: Vec<WorldSpan>,
    /// Checkpoints whose digest of all samples agrees.
    pub checkpoints: Vec<u64>,
}

/// Consecutive steps by the same number of processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorldSpan {
    /// The first.
    pub first_step: u64,
    /// The last.
    pub last_step: u64,
    /// How many processes.
    pub world_size: usize,
}

/// Holds a run's records against the stream that its config and data define.
///
/// Three things are proved, each from its own source: every step's sum over the samples that the ranks had in their hands
/// (`stream.jsonl`) is that of the stream; the stream itself meets every sample exactly once an epoch, counted here; and
/// the digest of all samples in each checkpoint is that of the stream up to it.
///
/// # Errors
/// The first thing that doesn't hold, with its step and sample; or records that can't be read.
pub fn audit(run: &RunDir) -> Result<Audit> {
    let text = run
        .read_config()?
        .with_context(|| format!("{} holds no config.toml: is it a run directory?", run.root().display()))?;
    let config = RunConfig::from_table(text.parse()?, &[])?;
    let dataset = Dataset::open(&config.data)?;
    let order = dataset.order(config.train.seed, config.train.global_batch);
    let lines = stream_log::read(run)?;
    ensure!(
        !lines.is_empty(),
        "{} holds no step: nothing was trained yet, or an older lidit trained it without this record",
        run.stream().display()
    );
    let mut checkpoints = checkpoints(run, &dataset)?;
    let mut digest = SampleDigest::default();
    let mut passes = Passes::new(&order, dataset.rows());
    let mut worlds: Vec<WorldSpan> = Vec::new();
    let mut verified = Vec::new();
    for (step, line) in (0..).zip(&lines) {
        ensure!(
            line.step == step + 1,
            "{} goes from step {step} to step {}: {}",
            run.stream().display(),
            line.step,
            if line.step <= step {
                "a step was trained twice"
            } else {
                "steps are missing"
            }
        );
        let draws = order.draws(step, &Share::ALL);
        ensure!(
            line.sample_sum() == SampleSum::of_draws(&draws),
            "step {}: its {} samples are not the {} of the stream: some were lost, repeated or exchanged",
            line.step,
            line.samples,
            draws.len()
        );
        for draw in &draws {
            passes
                .meet(draw.part, draw.epoch, draw.id)
                .with_context(|| format!("step {}", line.step))?;
        }
        digest.extend(&order, step);
        if let Some(stored) = checkpoints.remove(&line.step) {
            ensure!(
                stored == digest.as_hex(),
                "the checkpoint of step {} has the digest {stored} of its samples, the stream has {}",
                line.step,
                digest.as_hex()
            );
            verified.push(line.step);
        }
        match worlds.last_mut() {
            Some(span) if span.world_size == line.world_size => span.last_step = line.step,
            _ => worlds.push(WorldSpan {
                first_step: line.step,
                last_step: line.step,
                world_size: line.world_size,
            }),
        }
    }
    if let Some(step) = checkpoints.keys().min() {
        anyhow::bail!(
            "there is a checkpoint of step {step}, but {} ends at step {}",
            run.stream().display(),
            lines.len()
        );
    }
    Ok(Audit {
        steps: lines.len() as u64,
        samples: lines.iter().map(|line| line.samples).sum(),
        unusable: lines.iter().map(|line| line.unusable).sum(),
        whole_epochs: passes.whole_epochs(),
        attempts: attempts(run)?,
        worlds,
        checkpoints: verified,
    })
}

/// The digest of all samples in each checkpoint, by step.
fn checkpoints(run: &RunDir, dataset: &Dataset) -> Result<HashMap<u64, String>> {
    let mut found = HashMap::new();
    for (step, checkpoint) in Checkpoint::list(&run.checkpoints())? {
        let checkpoint = checkpoint.with_context(|| format!("the checkpoint of step {step}"))?;
        let data = &checkpoint.manifest().data;
        ensure!(
            data.dataset == dataset.digest(),
            "the checkpoint of step {step} was trained on a data set with digest {}, data.path has {}",
            data.dataset,
            dataset.digest()
        );
        found.insert(step, data.digest.clone());
    }
    Ok(found)
}

fn attempts(run: &RunDir) -> Result<u32> {
    let started = history::read(&run.history())?.into_iter();
    Ok(started
        .filter(|line| matches!(line.event, Event::Started { .. }))
        .count() as u32)
}

/// Which samples each part has met in the epochs that are not complete.
struct Passes {
    lens: Vec<u64>,
    rows: u64,
    /// A bit a row, and how many are set, by part and epoch.
    open: HashMap<(usize, u64), (Vec<u64>, u64)>,
    whole: Vec<u64>,
}

impl Passes {
    fn new(order: &SampleOrder, rows: u64) -> Self {
        let lens = order.part_lens();
        Self {
            whole: vec![0; lens.len()],
            lens,
            rows,
            open: HashMap::new(),
        }
    }

    fn meet(&mut self, part: usize, epoch: u64, id: u64) -> Result<()> {
        ensure!(
            epoch >= self.whole[part],
            "sample {id} comes again in epoch {epoch}, which was complete"
        );
        let words = self.rows.div_ceil(64) as usize;
        let (met, count) = self.open.entry((part, epoch)).or_insert_with(|| (vec![0; words], 0));
        let (word, bit) = ((id / 64) as usize, 1 << (id % 64));
        ensure!(met[word] & bit == 0, "sample {id} comes twice in epoch {epoch}");
        met[word] |= bit;
        *count += 1;
        if *count == self.lens[part] {
            ensure!(
                epoch == self.whole[part],
                "epoch {epoch} is complete before epoch {}",
                self.whole[part]
            );
            self.whole[part] += 1;
            self.open.remove(&(part, epoch));
        }
        Ok(())
    }

    fn whole_epochs(&self) -> u64 {
        self.whole.iter().copied().min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_sample_met_twice_or_after_its_epoch_is_named() {
        let mut passes = Passes {
            lens: vec![3],
            rows: 100,
            open: HashMap::new(),
            whole: vec![0],
        };
        for id in [5, 99, 64] {
            passes.meet(0, 0, id).unwrap();
        }
        passes.meet(0, 1, 5).unwrap();
        assert_eq!(passes.whole_epochs(), 1);
        let message = passes.meet(0, 1, 5).unwrap_err().to_string();
        assert_eq!(message, "sample 5 comes twice in epoch 1");
        let message = passes.meet(0, 0, 64).unwrap_err().to_string();
        assert_eq!(message, "sample 64 comes again in epoch 0, which was complete");
    }
}
