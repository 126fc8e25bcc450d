//! Saving in the background, agreed upon by all ranks.
//!
//! # Protocol
//! Every rank has a thread that writes, and a training thread; only training threads talk to other ranks, and all of them
//! make the same collectives in the same order. A save is in one phase at a time, the same one on all ranks:
//!
//! 1. **Idle.** At a save the training threads copy the state to host memory ([`CheckpointWriter::start`]), hand it to
//!    their writing threads and train on.
//! 2. **Writing.** Each thread writes its files into the hidden folder `.step-N.ATTEMPT.partial`, waits until they are on
//!    the disk, and leaves a file there that lists them with the digests of what it had in memory.
//! 3. **Committing**, once all have. Rank 0's thread puts the lists together to the manifest, writes it last, renames the
//!    folder to `step-N`, reads every file of it back, and then deletes checkpoints that need not stay. The others have
//!    nothing to do. Then the save is over.
//!
//! How far a rank is ([`Progress`]) travels with the sums that a step reduces anyway, so that all ranks learn in the same
//! step that the phase is over, or that somebody failed; then the one that failed says why, and all fail. Before the next
//! save, and before the run leaves, the training threads wait for the save under way ([`CheckpointWriter::wait`]): they
//! ask each other again and again, so that a slow disk meets no deadline of a collective. There is never more than one
//! copy of the state.
//!
//! # Why nothing is torn
//! Readers know whole folders alone: `step-N` comes into being by one rename, after everything in it is on the disk, and
//! ends by one. A process that is killed leaves hidden folders, which nobody reads and the next attempt removes. Older
//! checkpoints are deleted after the newest was read back. When training fails for another reason while a save is
//! written, the thread finishes its part, and rank 0 commits if it finds the lists of all others.

mod desk;

use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lidit_dist::World;

use self::desk::{Desk, Order, Work};
use crate::checkpoint_folder::CheckpointFolder;
use crate::config::{Sharding, TrainConfig};
use crate::retention::Retention;
use crate::snapshot::Snapshot;

/// How long a rank waits for its own thread before it tells the others how far it is.
const POLL: Duration = Duration::from_millis(100);
/// A wait that is longer is worth a word.
const LONG: Duration = Duration::from_secs(20);

/// Writes checkpoints while training goes on. Every rank has one.
pub struct CheckpointWriter {
    rank: usize,
    orders: Option<Sender<Order>>,
    reports: Receiver<Result<Work, String>>,
    thread: Option<JoinHandle<()>>,
    pending: Option<Pending>,
}

/// How far ranks are with the phase of the save under way: of one rank, or summed over all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Ranks that have done their work.
    pub done: f64,
    /// Ranks that can't.
    pub failed: f64,
}

/// A checkpoint that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Optimizer steps made.
    pub step: u64,
    /// What the training thread lost, with the wait for an earlier save.
    pub stall: Duration,
    /// What rank 0's thread worked: its files, the manifest, reading all back, deleting old ones.
    pub write: Duration,
    /// Of all files; 0 on other ranks than 0.
    pub bytes: u64,
}

/// A save under way.
struct Pending {
    saved: Saved,
    phase: Phase,
    own: Own,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Writing,
    Committing,
}

/// How far this rank is with the phase.
enum Own {
    UnderWay,
    Done,
    Failed(String),
}

impl CheckpointWriter {
    /// Starts the writing thread for the checkpoints in `folder`. A collective.
    ///
    /// # Errors
    /// This rank can't write there.
    pub fn open(folder: &Path, train: &TrainConfig, world: &World) -> Result<Self> {
        let writers = match train.sharding {
            Sharding::None => 1,
            Sharding::Zero1 => world.size(),
        };
        Self::with(
            folder,
            Retention::new(train.keep_last, train.keep_every),
            writers,
            world,
        )
    }

    /// As [`open`](Self::open), for one process that keeps its newest checkpoint.
    pub(crate) fn open_keeping_one(folder: &Path, world: &World) -> Result<Self> {
        Self::with(folder, Retention::new(1, 0), 1, world)
    }

    /// As [`open`](Self::open), where the first `writers` ranks write files.
    fn with(folder: &Path, retention: Retention, writers: usize, world: &World) -> Result<Self> {
        let folder = CheckpointFolder::open(folder, world)?;
        let (orders, received) = mpsc::channel();
        let (report, reports) = mpsc::channel();
        let desk = Desk {
            rank: world.rank(),
            writers,
            folder,
            retention,
            written: None,
        };
        let thread = thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || desk.serve(&received, &report))
            .context("starting the thread that writes checkpoints")?;
        Ok(Self {
            rank: world.rank(),
            orders: Some(orders),
            reports,
            thread: Some(thread),
            pending: None,
        })
    }

    /// Begins to write `snapshot`, whose making began at `begun`: what training waited since then is the save's stall.
    ///
    /// # Errors
    /// Another save is under way: [`wait`](Self::wait) for it before the state is copied.
    pub fn start(&mut self, snapshot: Snapshot, begun: Instant) -> Result<()> {
        ensure!(self.pending.is_none(), "two saves at once: a bug of lidit");
        let step = snapshot.manifest.step;
        let own = if snapshot.weights.is_some() || snapshot.optimizer.is_some() {
            self.order(Order::Write(Box::new(snapshot)))
        } else {
            Own::Done
        };
        self.pending = Some(Pending {
            saved: Saved {
                step,
                stall: begun.elapsed(),
                write: Duration::ZERO,
                bytes: 0,
            },
            phase: Phase::Writing,
            own,
        });
        Ok(())
    }

    /// How far this rank is; to be summed over ranks and given to [`advance`](Self::advance).
    pub fn progress(&mut self) -> Progress {
        self.listen(Duration::ZERO);
        match self.pending.as_ref().map(|pending| &pending.own) {
            None | Some(Own::UnderWay) => Progress::default(),
            Some(Own::Done) => Progress { done: 1.0, failed: 0.0 },
            Some(Own::Failed(_)) => Progress { done: 0.0, failed: 1.0 },
        }
    }

    /// Goes on to the next phase when `total`, the sum over ranks, says that this one is over. Answers the checkpoint
    /// when it is whole.
    ///
    /// # Errors
    /// Some rank failed. All ranks fail with the same message, which names it.
    pub fn advance(&mut self, total: Progress, world: &World) -> Result<Option<Saved>> {
        let Some(pending) = &self.pending else { return Ok(None) };
        if total.failed > 0.0 {
            return Err(self.failure(world)?);
        }
        if total.done < world.size() as f64 {
            return Ok(None);
        }
        if pending.phase == Phase::Committing {
            return Ok(self.pending.take().map(|pending| pending.saved));
        }
        let own = if self.rank == 0 {
            self.order(Order::Commit)
        } else {
            Own::Done
        };
        if let Some(pending) = &mut self.pending {
            (pending.phase, pending.own) = (Phase::Committing, own);
        }
        Ok(None)
    }

    /// Waits with all ranks until the save under way, if there is one, is over. A collective.
    ///
    /// # Errors
    /// As [`advance`](Self::advance).
    pub fn wait(&mut self, world: &World) -> Result<Option<Saved>> {
        let begun = Instant::now();
        let mut said = false;
        while self.pending.is_some() {
            self.listen(POLL);
            let own = self.progress();
            let mut total = [own.done, own.failed];
            world.sum_f64(&mut total)?;
            let [done, failed] = total;
            if let Some(saved) = self.advance(Progress { done, failed }, world)? {
                return Ok(Some(saved));
            }
            if !said && begun.elapsed() > LONG {
                said = true;
                eprintln!("rank {}: training waits for the checkpoint to be written", self.rank);
            }
        }
        Ok(None)
    }

    /// As [`wait`](Self::wait), before the run leaves: the wait is this save's own stall.
    ///
    /// # Errors
    /// As [`advance`](Self::advance).
    pub fn finish(&mut self, world: &World) -> Result<Option<Saved>> {
        let begun = Instant::now();
        let saved = self.wait(world)?;
        Ok(saved.map(|saved| Saved {
            stall: saved.stall + begun.elapsed(),
            ..saved
        }))
    }

    fn order(&self, order: Order) -> Own {
        match self.orders.as_ref().map(|orders| orders.send(order)) {
            Some(Ok(())) => Own::UnderWay,
            _ => Own::Failed(GONE.to_owned()),
        }
    }

    /// Takes what the thread reports within `patience`, if it has anything to report.
    fn listen(&mut self, patience: Duration) {
        let Some(pending) = &mut self.pending else { return };
        if !matches!(pending.own, Own::UnderWay) {
            return;
        }
        match self.reports.recv_timeout(patience) {
            Ok(Ok(work)) => {
                pending.saved.write += work.took;
                pending.saved.bytes = work.bytes;
                pending.own = Own::Done;
            }
            Ok(Err(why)) => pending.own = Own::Failed(why),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => pending.own = Own::Failed(GONE.to_owned()),
        }
    }

    /// Why the save failed, in the words of the highest rank that did. A collective.
    fn failure(&self, world: &World) -> Result<anyhow::Error> {
        let pending = self.pending.as_ref();
        let own = match pending.map(|pending| &pending.own) {
            Some(Own::Failed(why)) => Some(why),
            _ => None,
        };
        let mine = own.map_or(0, |_| world.rank() as u64 + 1);
        let rank = world.max(mine)?.saturating_sub(1);
        let mut why = own.cloned().unwrap_or_default().into_bytes();
        world.broadcast(&mut why, rank as usize)?;
        let step = pending.map_or(0, |pending| pending.saved.step);
        Ok(anyhow!(
            "rank {rank} could not save the checkpoint of step {step}; when the cause is gone, go on with --resume: {}",
            String::from_utf8_lossy(&why)
        ))
    }
}

/// What is said of a thread that is not there any more.
const GONE: &str = "the thread that writes checkpoints has panicked; its message is above";

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(pending) = self
            .pending
            .as_ref()
            .filter(|pending| matches!(pending.own, Own::UnderWay))
        {
            let step = pending.saved.step;
            eprintln!(
                "rank {}: leaves once its part of the checkpoint of step {step} is written",
                self.rank
            );
        }
        if let Some(thread) = self.thread.take() {
            // Its panic has been said where it happened.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
