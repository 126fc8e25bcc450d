//! One step of a run again, on one process: what it computed, whether it is the same, and what broke it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor};
use lidit_data::{Dataset, Loader, LoaderConfig, MicroBatch, Share};
use lidit_dist::World;
use lidit_model::{Conditioning, LiDit};
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::conditioner::Conditioner;
use crate::config::RunConfig;
use crate::gradients::{Ownership, add_rank, norm_of_ranks};
use crate::history::{self, Arithmetic, Event};
use crate::incident::{Incident, MicroBatchReport};
use crate::latents::LatentSpace;
use crate::layout::FlatLayout;
use crate::loss_watch::IncidentKind;
use crate::metrics;
use crate::run_dir::RunDir;
use crate::schedule::LrSchedule;
use crate::state::{Identity, TrainState};
use crate::step::{LocalSums, Stepper};
use crate::stop::Stop;
use crate::stream_log;
use crate::suspect::{Suspect, locate};
use crate::train::{conditioner, remember};

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

/// What a run has on its disk about the way to a step.
struct Record {
    config: RunConfig,
    attempts: Vec<Attempt>,
    incident: Option<Incident>,
    numbers: Option<Recorded>,
    /// Steps that updated nothing, whatever a replay makes of them.
    skipped: BTreeSet<u64>,
    step: u64,
}

/// How an attempt at a run computed.
struct Attempt {
    /// Steps done when it began.
    from: u64,
    world_size: usize,
    device: String,
    arithmetic: Arithmetic,
}

impl Record {
    fn read(run: &RunDir, step: u64) -> Result<Self> {
        let root = run.root().display();
        let text = run.read_config()?;
        let text = text.with_context(|| format!("{root} holds no config.toml: is it a run directory?"))?;
        let lines = stream_log::read(run)?;
        let last = lines.last().map_or(0, |line| line.step);
        ensure!(
            (1..=last).contains(&step),
            "step {step} is not among the steps 1 to {last} of the run in {root}"
        );
        let attempts = history::read(&run.history())?
            .into_iter()
            .filter_map(|line| match line.event {
                Event::Started {
                    step,
                    world_size,
                    device,
                    arithmetic,
                    ..
                } => Some(Attempt {
                    from: step,
                    world_size,
                    device,
                    arithmetic,
                }),
                _ => None,
            });
        let incident = Incident::read(run, step)?;
        let logged = metrics::read(&run.metrics())?;
        let numbers = match &incident {
            Some(incident) => Some((incident.loss, incident.grad_norm)),
            None => logged
                .iter()
                .find(|line| line.step == step)
                .map(|line| (line.loss, line.grad_norm)),
        };
        let record = Self {
            config: RunConfig::from_table(text.parse()?, &[])?,
            attempts: attempts.collect(),
            incident,
            skipped: logged
                .iter()
                .filter(|line| line.skipped)
                .map(|line| line.step)
                .collect(),
            numbers: numbers.map(|(loss, grad_norm)| Recorded { loss, grad_norm }),
            step,
        };
        for line in lines.iter().filter(|line| line.step <= step) {
            let attempt = record.attempt(line.step)?;
            ensure!(
                attempt.world_size == line.world_size,
                "{}: step {} was trained by {} processes, {} says {}",
                run.stream().display(),
                line.step,
                line.world_size,
                run.history().display(),
                attempt.world_size
            );
        }
        Ok(record)
    }

    /// Who made a step of the surviving lineage: the last attempt that began before it.
    fn attempt(&self, step: u64) -> Result<&Attempt> {
        let mut attempts = self.attempts.iter().rev();
        let attempt = attempts.find(|attempt| attempt.from < step);
        attempt.with_context(|| format!("history.jsonl has no attempt that made step {step}"))
    }

    /// The run's config with what the attempt that made `step` had chosen.
    fn config_of(&self, step: u64) -> Result<RunConfig> {
        let arithmetic = &self.attempt(step)?.arithmetic;
        let mut config = self.config.clone();
        config.train.micro_batch = arithmetic.micro_batch;
        config.train.recompute_blocks = arithmetic.recompute_blocks;
        config.train.sharding = arithmetic.sharding;
        Ok(config)
    }

    /// Makes this process compute with as many threads as rank 0 had at the step; says where that is not all.
    fn take_threads(&self) -> Vec<String> {
        let Ok(attempt) = self.attempt(self.step) else {
            return Vec::new();
        };
        let wanted = attempt.arithmetic.threads.first().copied().unwrap_or(1);
        // Fails where threads were started before, as in a test of many.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(wanted).build_global();
        let have = rayon::current_num_threads();
        let others = self.attempts.iter().filter(|attempt| attempt.from < self.step);
        let mut threads: Vec<usize> = others
            .flat_map(|attempt| attempt.arithmetic.threads.iter().copied())
            .collect();
        threads.sort_unstable();
        threads.dedup();
        let differ = threads.iter().any(|&count| count != have);
        let note = format!(
            "the run's ranks computed with {threads:?} threads, this process with {have}: sums may be rounded otherwise"
        );
        differ.then_some(note).into_iter().collect()
    }

    fn other_devices(&self, device: &str) -> Option<String> {
        let kind = |name: &str| name.split(':').next().unwrap_or_default().to_owned();
        let attempt = self.attempt(self.step).ok()?;
        (kind(&attempt.device) != kind(device)).then(|| {
            format!(
                "the run computed on {}, this process on {device}: numbers agree to about 1e-5",
                attempt.device
            )
        })
    }

    fn compare(&self, ranks: &[Vec<MicroBatch>], reports: Vec<MicroBatchReport>) -> Vec<ReplayedBatch> {
        let places = ranks.iter().enumerate();
        let places = places.flat_map(|(rank, batches)| (0..batches.len()).map(move |index| (rank, index)));
        places
            .zip(reports)
            .map(|((rank, micro_batch), report)| {
                let then = self.incident.as_ref().and_then(|incident| incident.ranks.get(rank));
                let recorded = then.and_then(|then| then.micro_batches.get(micro_batch)).cloned();
                let same = |then: &MicroBatchReport| {
                    (&then.ids, &then.epochs, &then.gradient) == (&report.ids, &report.epochs, &report.gradient)
                };
                ReplayedBatch {
                    rank,
                    micro_batch,
                    equal: recorded.as_ref().map(same),
                    recorded,
                    report,
                }
            })
            .collect()
    }
}

impl Attempt {
    /// Deals a global batch out to ranks and micro-batches as the attempt did.
    fn ranks(&self, batch: &MicroBatch) -> Vec<Vec<MicroBatch>> {
        let world_size = self.world_size;
        let shares = (0..world_size).map(|rank| Share { rank, world_size }.of(batch.len()));
        let micro_batches = |share: std::ops::Range<usize>| {
            let starts = share.clone().step_by(self.arithmetic.micro_batch);
            starts
                .map(|start| slice(batch, start..(start + self.arithmetic.micro_batch).min(share.end)))
                .collect()
        };
        shares.map(micro_batches).collect()
    }
}

/// Some samples of a micro-batch.
pub(crate) fn slice(batch: &MicroBatch, range: std::ops::Range<usize>) -> MicroBatch {
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

/// A run with everything loaded, on one process that plays all ranks.
struct Loaded {
    dataset: Dataset,
    conditioner: Conditioner,
    conditioning: Conditioning,
    latents: LatentSpace,
    layout: FlatLayout,
    ownership: Ownership,
    loader: Loader,
    world: World,
    stop: Stop,
    device: Device,
}

/// What the ranks make of a step together.
struct Outcome {
    /// The mean gradient, whole.
    mean: Tensor<1>,
    loss: f64,
    grad_norm: f64,
}

impl Loaded {
    /// Everything, and the state that the replay begins with.
    fn prepare(request: &ReplayRequest<'_>, record: &Record) -> Result<(Self, TrainState)> {
        let config = &record.config;
        let dataset = Dataset::open(&config.data)?;
        let latents = LatentSpace::open(&config.vae, &config.model, &request.device)?;
        let mut conditioner = conditioner(config, &dataset, &latents, &request.device, request.locate)?;
        let identity = Identity {
            dataset: dataset.digest().to_owned(),
            encoders: conditioner.fingerprints()?,
            vae: latents.fingerprint().to_owned(),
        };
        remember(&mut conditioner, config, &dataset, |_, _| ())?;
        let device = request.device.clone().autodiff();
        let conditioning = conditioner.conditioning(&config.encoders);
        let model = LiDit::init(&config.model, &conditioning, config.train.seed, &device);
        let layout = FlatLayout::of(&model);
        let world = World::solo();
        let ownership = Ownership::new(&config.train, &layout, world.rank(), world.size());
        let state = match newest_before(request.run, request.step)? {
            Some(checkpoint) => {
                identity.check(&checkpoint)?;
                TrainState::restore(&checkpoint, config, &layout, &ownership, model)?
            }
            None => match &config.start {
                Some(start) => start.state(config, &identity, &layout, &ownership, model)?,
                None => TrainState::new(config, &layout, &ownership, model),
            },
        };
        let stream = LoaderConfig {
            seed: config.train.seed,
            global_batch: config.train.global_batch,
            micro_batch: config.train.global_batch,
            share: Share::ALL,
            wanted: conditioner.wanted(),
            start_step: state.step,
        };
        let loader = Loader::new(dataset.clone(), stream)?;
        conditioner.start(stream)?;
        let loaded = Self {
            dataset,
            conditioner,
            conditioning,
            latents,
            layout,
            ownership,
            loader,
            world,
            stop: Stop::default(),
            device,
        };
        Ok((loaded, state))
    }

    fn stepper<'a>(&'a self, config: &'a RunConfig) -> Stepper<'a> {
        Stepper {
            config,
            conditioner: &self.conditioner,
            latents: &self.latents,
            conditioning: &self.conditioning,
            layout: &self.layout,
            ownership: &self.ownership,
            world: &self.world,
            device: &self.device,
            stop: &self.stop,
            fault: None,
        }
    }

    /// The global batch of the next step.
    fn next_batch(&mut self) -> Result<MicroBatch> {
        let mut loaded = self.loader.next_step()?;
        self.conditioner.next_step(&mut loaded)?;
        loaded.micro_batches.pop().context("a step without samples")
    }

    /// Every rank's micro-batches in turn, their sums in rank order; `each` sees every micro-batch.
    fn work(
        &self,
        state: &TrainState,
        config: &RunConfig,
        attempt: &Attempt,
        ranks: &[Vec<MicroBatch>],
        mut each: impl FnMut(&MicroBatch, &Tensor<1>, &LocalSums),
    ) -> Result<Outcome> {
        let stepper = self.stepper(config);
        let (mut gradient, mut sums) = (None, LocalSums::default());
        for micro_batches in ranks {
            let (own, own_sums) = stepper.accumulate(state, micro_batches, &mut each)?;
            gradient = Some(add_rank(gradient, own, config.train.reduce_dtype, attempt.world_size));
            sums.add(&own_sums);
        }
        let usable = sums.usable.max(1.0);
        let mean = gradient.context("a world without ranks")?.div_scalar(usable);
        Ok(Outcome {
            grad_norm: norm_of_ranks(&mean, config.train.sharding, attempt.world_size),
            loss: sums.loss / usable,
            mean,
        })
    }

    /// Repeats one step as it was: its update, or that it was skipped.
    fn go_through(&mut self, state: &mut TrainState, record: &Record) -> Result<()> {
        let step = state.step + 1;
        let batch = self.next_batch()?;
        if !record.skipped.contains(&step) {
            let (attempt, config) = (record.attempt(step)?, record.config_of(step)?);
            let Outcome { mean, loss, grad_norm } =
                self.work(state, &config, attempt, &attempt.ranks(&batch), |_, _, _| ())?;
            ensure!(
                loss.is_finite() && grad_norm.is_finite(),
                "step {step}, on the way, has loss {loss} and gradient norm {grad_norm} here, and the run made an update \
                 there: what follows can't be repeated; replay a step up to {step}, or one after a later checkpoint"
            );
            let lr = LrSchedule::new(&config.train).lr(state.step);
            self.stepper(&config).update(state, mean, grad_norm, lr)?;
        }
        state.step = step;
        Ok(())
    }
}

/// The newest checkpoint that verifies and was saved before `step` was made; says which ones do not verify.
fn newest_before(run: &RunDir, step: u64) -> Result<Option<Checkpoint>> {
    for (saved, checkpoint) in Checkpoint::list(&run.checkpoints())? {
        if saved >= step {
            continue;
        }
        match checkpoint.and_then(|checkpoint| checkpoint.verify().map(|()| checkpoint)) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(error) => eprintln!("warning: skipping the checkpoint of step {saved}: {error:#}"),
        }
    }
    Ok(None)
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
