//! What rank 0 writes and shows while a run trains. The other ranks have a recorder that does nothing.

use std::time::Duration;

use anyhow::{Context, Result};
use image::RgbImage;
use lidit_dist::World;
use serde_json::json;

use crate::checkpoint_writer::Saved;
use crate::config::RunConfig;
use crate::dashboard::View;
use crate::goodput::Goodput;
use crate::history::{self, Arithmetic, Event, History};
use crate::incident::{self, Incident};
use crate::loss_bins::LossBins;
use crate::loss_watch::{IncidentKind, LossWatch};
use crate::metrics::{self, Metrics, StepRecord, Watch};
use crate::readable::readable_bytes;
use crate::run_dir::RunDir;
use crate::state::TrainState;
use crate::step_stats::StepStats;
use crate::stop::Stop;
use crate::stream_log::{StepSamples, StreamLog};
use crate::tensorboard::Ending;
use crate::train::Ended;
use crate::validation::{self, ValidationRecord};

/// The records of one attempt at a run.
pub struct Recorder {
    lead: Option<Lead>,
}

/// Rank 0's part.
struct Lead {
    run_dir: RunDir,
    history: History,
    metrics: Option<Metrics>,
    stream: Option<StreamLog>,
    world_size: usize,
    view: View,
    stop: Stop,
    goodput: Goodput,
    pace: Pace,
    step: u64,
}

/// Sums since the last logged step, and totals of the run.
#[derive(Default)]
struct Pace {
    steps: u32,
    loss_bins: LossBins,
    images: usize,
    seconds: f64,
    waited: f64,
    save_stall: f64,
    save_write: Option<f64>,
    total_seconds: f64,
    useful_seconds: f64,
    total_flops: f64,
    samples_an_epoch: f64,
    total_tokens: u64,
    global_batch: u64,
    log_every: u64,
    checkpoint_every: u64,
    steps_in_run: u64,
}

impl Recorder {
    /// Opens the history on rank 0.
    pub fn open(run_dir: &RunDir, view: View, world: &World, stop: &Stop) -> Result<Self> {
        if world.rank() > 0 {
            return Ok(Self { lead: None });
        }
        run_dir.clear_result()?;
        // Both as the attempt before left them: what it did beyond its last checkpoint took time, too.
        let logged = metrics::read(&run_dir.metrics())?.last().map(|last| last.wall_seconds);
        let goodput = Goodput::begin(&history::read(&run_dir.history())?, logged);
        let mut history = History::open(run_dir)?;
        history.record(Event::Opened {
            wall_ms: goodput.before_ms(),
        })?;
        Ok(Self {
            lead: Some(Lead {
                run_dir: RunDir::attach(run_dir.root())?,
                history,
                metrics: None,
                stream: None,
                world_size: world.size(),
                view,
                stop: stop.clone(),
                goodput,
                pace: Pace::default(),
                step: 0,
            }),
        })
    }

    /// Says how many prompts are encoded.
    pub fn encoding(&self, done: usize, total: usize) {
        if self.lead.is_some() {
            eprintln!("encoded {done}/{total} prompts");
        }
    }

    /// Everything is loaded; training begins after `state.step` steps. `samples` is the data set's size. Returns how many
    /// unusable samples the steps before have met, on rank 0.
    pub fn begin(
        &mut self,
        config: &RunConfig,
        state: &TrainState,
        device: &str,
        arithmetic: &Arithmetic,
        samples: u64,
    ) -> Result<u64> {
        let Some(lead) = &mut self.lead else { return Ok(0) };
        lead.history.record(Event::started(
            state.step,
            lead.world_size,
            env!("CARGO_PKG_VERSION"),
            device,
            arithmetic.clone(),
        ))?;
        incident::cut_back(&lead.run_dir, state.step)?;
        validation::cut_back(&lead.run_dir, state.step)?;
        let name = lead
            .run_dir
            .root()
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let watch = Watch {
            view: lead.view,
            stop: lead.stop.interrupter(),
            name: &name,
            steps: config.train.steps,
            done: state.step,
        };
        let mut metrics = Metrics::open(&lead.run_dir, &watch)?;
        metrics.config(&config.to_toml()?.parse()?)?;
        lead.pace = Pace {
            total_seconds: metrics.last().map_or(0.0, |last| last.seconds),
            useful_seconds: metrics.last().map_or(0.0, |last| last.useful_seconds),
            total_flops: metrics.last().map_or(0.0, |last| last.flops),
            total_tokens: metrics.last().map_or(0, |last| last.tokens_seen),
            samples_an_epoch: samples as f64,
            global_batch: config.train.global_batch as u64,
            log_every: config.train.log_every,
            checkpoint_every: config.train.checkpoint_every,
            steps_in_run: config.train.steps,
            ..Pace::default()
        };
        lead.step = state.step;
        lead.metrics = Some(metrics);
        let (stream, unusable) = StreamLog::open(&lead.run_dir, state.step)?;
        lead.stream = Some(stream);
        Ok(unusable)
    }

    /// The loss of the last step in the run's metrics.
    pub fn last_loss(&self) -> Option<f64> {
        self.lead.as_ref()?.metrics.as_ref()?.last().map(|record| record.loss)
    }

    /// What the losses up to step `done` were like, by the metrics' line of that step. A collective: rank 0 tells the
    /// others. Without the line (nobody has removed it, or the run begins) it starts anew.
    pub fn loss_watch(&self, done: u64, world: &World) -> Result<LossWatch> {
        let last = self.lead.as_ref().and_then(|lead| lead.metrics.as_ref()?.last());
        let watch = last.filter(|last| last.step == done).map(|last| last.watch);
        let mut bytes = serde_json::to_vec(&watch.unwrap_or_default())?;
        world.broadcast(&mut bytes, 0)?;
        serde_json::from_slice(&bytes).context("the losses' mean and variance from rank 0")
    }

    /// A step can't be trusted: what is known of it is on the disk when this returns.
    pub fn incident(&mut self, mut incident: Incident) -> Result<()> {
        let Some(lead) = &mut self.lead else { return Ok(()) };
        incident.attempt = lead.history.attempt();
        incident.write(&lead.run_dir)?;
        let Some(metrics) = &mut lead.metrics else {
            return Ok(());
        };
        let step = incident.step;
        let what = match incident.kind {
            IncidentKind::NonFinite => format!("step {step} is skipped: its loss or gradient is not finite"),
            IncidentKind::Spike => format!("the loss of step {step} has a spike"),
        };
        metrics.note(&format!("{what}, see incidents/step-{step}.json"), "")
    }

    /// A step was evaluated: its record is on the disk when this returns.
    pub fn validated(&mut self, record: &ValidationRecord, took: Duration) -> Result<()> {
        let Some(lead) = &mut self.lead else { return Ok(()) };
        record.write(&lead.run_dir)?;
        match &mut lead.metrics {
            Some(metrics) => metrics.validated(record, took.as_secs_f64()),
            None => Ok(()),
        }
    }

    /// A step is done, `watch` has seen its loss; it is logged when its turn comes, when it was `validated`, or when it
    /// can't be trusted.
    pub fn step(
        &mut self,
        state: &TrainState,
        stats: &StepStats,
        took: Duration,
        waited: Duration,
        validated: Option<&ValidationRecord>,
    ) -> Result<()> {
        let step = state.step;
        let Some(lead) = &mut self.lead else { return Ok(()) };
        lead.step = step;
        lead.pace.add(stats, took, waited);
        if let Some(stream) = &mut lead.stream {
            let line = StepSamples::new(step, lead.world_size, stats.unusable(), stats.samples);
            stream.log(&line)?;
        }
        let Some(metrics) = &mut lead.metrics else {
            return Ok(());
        };
        if stats.stop || stats.finding.is_some() || validated.is_some() || lead.pace.is_due(step) {
            let wall_seconds = lead.goodput.wall_seconds();
            let mut record = lead.pace.record(state, stats, wall_seconds);
            record.val_loss = validated.map(|validated| validated.val_loss);
            record.val_loss_se = validated.map(|validated| validated.se);
            metrics.log(&record)
        } else {
            metrics.advance(step)
        }
    }

    /// A sample grid was drawn.
    pub fn grid(&mut self, step: u64, grid: &RgbImage) -> Result<()> {
        let Some(lead) = &mut self.lead else { return Ok(()) };
        lead.run_dir.write_sample_grid(step, grid)?;
        match &mut lead.metrics {
            Some(metrics) => metrics.image(step, "samples", grid),
            None => Ok(()),
        }
    }

    /// Everything logged so far is on the disk when this returns: called before a checkpoint becomes visible.
    pub fn sync(&self) -> Result<()> {
        let Some(lead) = &self.lead else { return Ok(()) };
        lead.stream.as_ref().map_or(Ok(()), StreamLog::sync)?;
        lead.metrics.as_ref().map_or(Ok(()), Metrics::sync)
    }

    /// A save has held up training.
    pub fn stalled(&mut self, stall: Duration) {
        if let Some(lead) = &mut self.lead {
            lead.pace.save_stall += stall.as_secs_f64();
        }
    }

    /// A checkpoint is complete.
    pub fn saved(&mut self, saved: &Saved) -> Result<()> {
        let Some(lead) = &mut self.lead else { return Ok(()) };
        let Saved {
            step,
            stall,
            write,
            bytes,
        } = *saved;
        lead.pace.save_write = Some(write.as_secs_f64());
        lead.history.record(Event::Saved {
            step,
            stall_ms: stall.as_millis() as u64,
            write_ms: write.as_millis() as u64,
            bytes,
        })?;
        let numbers = format!(
            "of step {step}: {} written in {:.2} s, training waited {:.2} s",
            readable_bytes(bytes as f64),
            write.as_secs_f64(),
            stall.as_secs_f64()
        );
        match &mut lead.metrics {
            Some(metrics) => metrics.note("saved a checkpoint", &numbers),
            None => Ok(()),
        }
    }

    /// A checkpoint is damaged and an older one is looked at.
    pub fn skipped(&mut self, step: u64, reason: String) -> Result<()> {
        let Some(lead) = &mut self.lead else { return Ok(()) };
        eprintln!("warning: skipping the checkpoint of step {step}: {reason}");
        lead.history.record(Event::Skipped { step, reason })
    }

    /// The attempt is over. `result.json` is written last, and only for a run that did all its steps.
    pub fn close(self, outcome: &Result<Ended>) -> Result<()> {
        let Some(mut lead) = self.lead else { return Ok(()) };
        match outcome {
            Err(error) => {
                // The error is what counts: what can't be written any more must not hide it.
                let _ = lead.history.record(Event::Failed {
                    step: lead.step,
                    error: format!("{error:#}"),
                });
                if let Some(metrics) = lead.metrics.take() {
                    let _ = metrics.finish(Ending::Failed);
                }
                Ok(())
            }
            Ok(ended) => lead.finish(ended),
        }
    }
}

impl Lead {
    fn finish(mut self, ended: &Ended) -> Result<()> {
        if let Some(metrics) = self.metrics.take() {
            metrics.finish(ended.ending)?;
        }
        if ended.ending != Ending::Done {
            return self.history.record(Event::Stopped {
                step: ended.step,
                reason: self.stop.reason(),
            });
        }
        self.history.record(Event::Finished { step: ended.step })?;
        let validated = ValidationRecord::read(&self.run_dir, ended.step)?;
        let gain = validated.as_ref().and_then(|record| record.prompt_gain.as_ref());
        let wall_seconds = self.goodput.wall_seconds();
        self.run_dir.write_result(&json!({
            "format_version": 1,
            "step": ended.step,
            "loss": ended.loss,
            "val_loss": validated.as_ref().map(|record| record.val_loss),
            "val_loss_se": validated.as_ref().map(|record| record.se),
            "prompt_gain": gain.map(|gain| gain.mean),
            "prompt_gain_se": gain.map(|gain| gain.se),
            "validation_digest": validated.as_ref().map(|record| &record.digest),
            "seconds": self.pace.total_seconds,
            "wall_seconds": wall_seconds,
            "goodput": self.pace.useful_seconds / wall_seconds,
            "flops": self.pace.total_flops,
        }))
    }
}

impl Pace {
    fn add(&mut self, stats: &StepStats, took: Duration, waited: Duration) {
        self.steps += 1;
        // One NaN would hide all losses since the last line.
        if !stats.is_skipped() {
            self.loss_bins += stats.loss_bins;
            self.useful_seconds += took.saturating_sub(waited).as_secs_f64();
        }
        self.images += stats.usable;
        self.seconds += took.as_secs_f64();
        self.waited += waited.as_secs_f64();
        self.total_seconds += took.as_secs_f64();
        self.total_flops += stats.flops;
        self.total_tokens += stats.image_tokens;
    }

    /// Steps that are saved are logged too: a resumed run's totals go on from the last line.
    fn is_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.log_every) || step.is_multiple_of(self.checkpoint_every) || step == self.steps_in_run
    }

    /// The line of the step that `state` has just made; the sums start anew.
    fn record(&mut self, state: &TrainState, stats: &StepStats, wall_seconds: f64) -> StepRecord {
        let step = state.step;
        let samples_seen = step * self.global_batch;
        let record = StepRecord {
            step,
            epoch: samples_seen as f64 / self.samples_an_epoch,
            samples_seen,
            tokens_seen: self.total_tokens,
            flops: self.total_flops,
            skipped: stats.is_skipped(),
            loss: stats.loss,
            loss_bins: self.loss_bins.means(),
            loss_bin_counts: self.loss_bins.counts(),
            grad_norm: stats.grad_norm,
            lr: stats.lr,
            caption_tokens_cut: stats.caption_tokens_cut,
            images_per_s: self.images as f64 / self.seconds,
            seconds: self.total_seconds,
            useful_seconds: self.useful_seconds,
            wall_seconds,
            goodput: self.useful_seconds / wall_seconds,
            step_s: self.seconds / f64::from(self.steps),
            data_wait_s: self.waited / f64::from(self.steps),
            save_stall_s: self.save_stall,
            save_write_s: self.save_write.take(),
            val_loss: None,
            val_loss_se: None,
            watch: state.watch,
        };
        (self.steps, self.images, self.seconds, self.waited) = (0, 0, 0.0, 0.0);
        self.save_stall = 0.0;
        self.loss_bins = LossBins::default();
        record
    }
}
