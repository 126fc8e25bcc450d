//! One step of a run again, on one process: what it computed, whether it is the same, and what broke it.

mod loaded;
mod record;
mod suspect;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::Device;
use lidit_data::MicroBatch;
use serde::Serialize;

use self::loaded::Loaded;
use self::record::Record;
pub use self::suspect::Suspect;
use self::suspect::locate;
use crate::config::RunConfig;
use crate::incident::MicroBatchReport;
use crate::loss_watch::IncidentKind;
use crate::run_dir::RunDir;
use crate::state::TrainState;

/// Which step of which run, and where to compute it.
pub struct ReplayRequest<'a> {
    /// The run; nothing in it is changed.
    pub run: &'a RunDir,
    /// Steps done after the one to look at, counted from 1.
    pub step: u64,
    /// Where to compute, without autodiff.
    pub device: Device,
    /// What `--device` said, to be compared with what the run said.
    pub device_name: String,
    /// Turns a language model's name or path into its file.
    pub locate: &'a dyn Fn(&str) -> Result<PathBuf>,
    /// Hears of every step that is gone through.
    pub on_step: &'a dyn Fn(u64),
}

/// A step that was gone through again. Numbers that are not finite are `null` in JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Replay {
    /// Which.
    pub step: u64,
    /// What the run found wrong with it.
    pub kind: Option<IncidentKind>,
    /// Steps done by the checkpoint that the replay began with; 0 for the run's first weights.
    pub from: u64,
    /// Ranks whose work was done in turn.
    pub world_size: usize,
    /// Mean loss over the global batch's usable samples.
    pub loss: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// What the run has recorded of the same, where it has.
    pub recorded: Option<Recorded>,
    /// Whether every number and every bit of a gradient that the run has recorded is the same; `None` if it has none.
    pub equal: Option<bool>,
    /// The largest relative difference among recorded losses and norms that are finite.
    pub largest_difference: Option<f64>,
    /// Every rank's, in order.
    pub micro_batches: Vec<ReplayedBatch>,
    /// The sample that broke the step, the first of them; of a spike the one with the largest gradient.
    pub sample: Option<Suspect>,
    /// All that broke it, alone.
    pub samples: Vec<u64>,
    /// The part of the network where that sample's numbers broke first.
    pub layer: Option<String>,
    /// In which pass.
    pub pass: Option<Pass>,
    /// What stood in the way of bit-equality, and what the numbers mean.
    pub notes: Vec<String>,
}

/// Loss and norm as the run recorded them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Recorded {
    /// NaN where it was not finite.
    pub loss: f64,
    /// NaN where it was not finite.
    pub grad_norm: f64,
}

/// A micro-batch again.
#[derive(Clone, Debug, Serialize)]
pub struct ReplayedBatch {
    /// Whose.
    pub rank: usize,
    /// Its number among that rank's.
    pub micro_batch: usize,
    /// What came out now.
    #[serde(flatten)]
    pub report: MicroBatchReport,
    /// What came out then, where it was recorded.
    pub recorded: Option<MicroBatchReport>,
    /// Whether samples and gradient's bits are the same.
    pub equal: Option<bool>,
}

/// Where numbers broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// The weights are not finite already.
    Weights,
    /// What enters the network, or what leaves one of its parts; or the loss.
    Forward,
    /// The gradient of a part, all parts after it being finite.
    Backward,
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Weights => "which has weights that are not finite",
            Self::Forward => "in the forward pass",
            Self::Backward => "in the backward pass",
        })
    }
}

/// Goes from the newest checkpoint before the step through every rank's micro-batches in turn, sums in rank order, and
/// takes the step apart.
///
/// # Errors
/// The run's lineage has no such step; its data, encoders or checkpoints can't be read or are others.
pub fn replay(request: &ReplayRequest<'_>) -> Result<Replay> {
    let record = Record::read(request.run, request.step)?;
    let mut notes = record.take_threads();
    notes.extend(record.other_devices(&request.device_name));
    let (mut loaded, mut state) = Loaded::prepare(request, &record)?;
    let from = state.step;
    while state.step + 1 < request.step {
        (request.on_step)(state.step + 1);
        loaded.go_through(&mut state, &record)?;
    }
    (request.on_step)(request.step);
    let (attempt, config) = (record.attempt(request.step)?, record.config_of(request.step)?);
    let ranks = attempt.ranks(&loaded.next_batch()?);
    let mut reports = Vec::new();
    let outcome = loaded.work(&state, &config, attempt, &ranks, |batch, gradient, sums| {
        reports.push(MicroBatchReport::of(batch, sums.loss, gradient));
    })?;
    let mut replay = Replay {
        step: request.step,
        kind: record.incident.as_ref().map(|incident| incident.kind),
        from,
        world_size: ranks.len(),
        loss: outcome.loss,
        grad_norm: outcome.grad_norm,
        recorded: record.numbers,
        equal: None,
        largest_difference: None,
        micro_batches: record.compare(&ranks, reports),
        sample: None,
        samples: Vec::new(),
        layer: None,
        pass: None,
        notes,
    };
    replay.judge_equality();
    replay.blame(&loaded, &state, &config, &ranks)?;
    Ok(replay)
}

impl Replay {
    fn judge_equality(&mut self) {
        let mut pairs = Vec::new();
        if let Some(recorded) = self.recorded {
            pairs.extend([(self.loss, recorded.loss), (self.grad_norm, recorded.grad_norm)]);
        }
        let mut equal: Vec<bool> = pairs.iter().map(|&(now, then)| is_same(now, then)).collect();
        for batch in &self.micro_batches {
            equal.extend(batch.equal);
            if let Some(then) = &batch.recorded {
                pairs.push((batch.report.loss, then.loss));
                pairs.push((batch.report.grad_norm, then.grad_norm));
            }
        }
        self.equal = (!equal.is_empty()).then(|| equal.iter().all(|&equal| equal));
        let differences = pairs
            .iter()
            .map(|&(now, then)| (read_back(now) - then).abs() / then.abs());
        self.largest_difference = differences.filter(|difference| difference.is_finite()).reduce(f64::max);
    }

    /// Names who broke the step: samples run alone, then the first of them part by part.
    fn blame(
        &mut self,
        loaded: &Loaded,
        state: &TrainState,
        config: &RunConfig,
        ranks: &[Vec<MicroBatch>],
    ) -> Result<()> {
        let stepper = loaded.stepper(config);
        let is_broken = !(self.loss.is_finite() && self.grad_norm.is_finite());
        if !is_broken && self.kind != Some(IncidentKind::Spike) {
            if self.kind == Some(IncidentKind::NonFinite) {
                let then = self.micro_batches.iter().filter_map(|batch| batch.recorded.as_ref());
                self.notes.push(if then.clone().all(MicroBatchReport::is_finite) {
                    "every micro-batch was finite, then and now: the step broke between the ranks' gradients and their \
                     sum (LIDIT_FAULT, memory, the network), not in the network's arithmetic"
                        .to_owned()
                } else {
                    "the step is finite now: what broke it does not repeat here".to_owned()
                });
            }
            return Ok(());
        }
        let mut suspects = Vec::new();
        for batch in &self.micro_batches {
            if is_broken && batch.report.is_finite() {
                continue;
            }
            let samples = &ranks[batch.rank][batch.micro_batch];
            for index in 0..samples.len() {
                suspects.push(Suspect::alone(
                    &stepper,
                    state,
                    &loaded.dataset,
                    samples,
                    index,
                    (batch.rank, batch.micro_batch),
                )?);
            }
        }
        let first = if is_broken {
            suspects.retain(|suspect| !suspect.is_finite());
            suspects
                .into_iter()
                .inspect(|suspect| self.samples.push(suspect.id))
                .reduce(|first, _| first)
        } else {
            suspects
                .into_iter()
                .reduce(|a, b| if b.grad_norm > a.grad_norm { b } else { a })
        };
        let samples: usize = ranks.iter().flatten().map(MicroBatch::len).sum();
        if samples > 1 && self.samples.len() == samples {
            let note =
                "every sample breaks alone: it is the network, not its data (too large a rate, too narrow a type)";
            self.notes.push(note.to_owned());
        }
        match &first {
            None => self
                .notes
                .push("no sample alone is not finite: only their sum is".to_owned()),
            Some(suspect) if is_broken => {
                let alone = slice(
                    &ranks[suspect.rank][suspect.micro_batch],
                    suspect.index..suspect.index + 1,
                );
                let (pass, layer) = locate(&stepper, state, &alone)?;
                (self.pass, self.layer) = (Some(pass), Some(layer));
            }
            Some(_) => {}
        }
        self.sample = first;
        Ok(())
    }
}

/// Whether a number is the one that was recorded: the same bits, or both not finite.
fn is_same(now: f64, then: f64) -> bool {
    let now = read_back(now);
    now.to_bits() == then.to_bits() || !(now.is_finite() || then.is_finite())
}

/// A number after the way that recorded ones went: JSON's reader may err in the last bit.
fn read_back(number: f64) -> f64 {
    let text = serde_json::to_string(&number).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or(f64::NAN)
}

/// Some samples of a micro-batch.
fn slice(batch: &MicroBatch, range: Range<usize>) -> MicroBatch {
    let volume = batch.pixels.len() / batch.len().max(1);
    MicroBatch {
        epochs: batch.epochs[range.clone()].to_vec(),
        ids: batch.ids[range.clone()].to_vec(),
        positions: batch.positions[range.clone()].to_vec(),
        pixels: batch.pixels[range.start * volume..range.end * volume].to_vec(),
        captions: batch.captions[range.clone()].to_vec(),
        weights: batch.weights[range].to_vec(),
        size: batch.size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_recorded_one_by_its_bits_or_by_being_none() {
        // JSON's reader gives this one another last bit.
        let odd = 7.562_886_238_098_145;
        for (now, then, same) in [
            (odd, read_back(odd), true),
            (1.0, 1.0 + f64::EPSILON, false),
            (f64::NAN, f64::NAN, true),
            (f64::INFINITY, f64::NAN, true),
            (1.0, f64::NAN, false),
            (f64::NAN, 1.0, false),
        ] {
            assert_eq!(is_same(now, then), same, "{now} and {then}");
        }
    }
}
