//! What a run has on its disk about the way to a step.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use lidit_data::{MicroBatch, Share};

use super::{Recorded, ReplayedBatch, slice};
use crate::config::RunConfig;
use crate::history::{self, Arithmetic, Event};
use crate::incident::{Incident, MicroBatchReport};
use crate::metrics;
use crate::run_dir::RunDir;
use crate::stream_log;

/// What a run has on its disk about the way to a step.
pub(super) struct Record {
    /// The run's, as the last attempt chose it.
    pub config: RunConfig,
    attempts: Vec<Attempt>,
    /// Of the step.
    pub incident: Option<Incident>,
    /// Loss and norm of the step.
    pub numbers: Option<Recorded>,
    /// Steps that updated nothing, whatever a replay makes of them.
    pub skipped: BTreeSet<u64>,
    step: u64,
}

/// How an attempt at a run computed.
pub(super) struct Attempt {
    /// Steps done when it began.
    from: u64,
    /// Processes.
    pub world_size: usize,
    device: String,
    arithmetic: Arithmetic,
}

impl Record {
    pub fn read(run: &RunDir, step: u64) -> Result<Self> {
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
    pub fn attempt(&self, step: u64) -> Result<&Attempt> {
        let mut attempts = self.attempts.iter().rev();
        let attempt = attempts.find(|attempt| attempt.from < step);
        attempt.with_context(|| format!("history.jsonl has no attempt that made step {step}"))
    }

    /// The run's config with what the attempt that made `step` had chosen.
    pub fn config_of(&self, step: u64) -> Result<RunConfig> {
        let arithmetic = &self.attempt(step)?.arithmetic;
        let mut config = self.config.clone();
        config.train.micro_batch = arithmetic.micro_batch;
        config.train.recompute_blocks = arithmetic.recompute_blocks;
        config.train.sharding = arithmetic.sharding;
        Ok(config)
    }

    /// Makes this process compute with as many threads as rank 0 had at the step; says where that is not all.
    pub fn take_threads(&self) -> Vec<String> {
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

    pub fn other_devices(&self, device: &str) -> Option<String> {
        let kind = |name: &str| name.split(':').next().unwrap_or_default().to_owned();
        let attempt = self.attempt(self.step).ok()?;
        (kind(&attempt.device) != kind(device)).then(|| {
            format!(
                "the run computed on {}, this process on {device}: numbers agree to about 1e-5",
                attempt.device
            )
        })
    }

    pub fn compare(&self, ranks: &[Vec<MicroBatch>], reports: Vec<MicroBatchReport>) -> Vec<ReplayedBatch> {
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
    pub fn ranks(&self, batch: &MicroBatch) -> Vec<Vec<MicroBatch>> {
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
