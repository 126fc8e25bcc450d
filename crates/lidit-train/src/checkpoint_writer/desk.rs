//! The thread that writes: carries out what the training thread orders, and reports.

use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::checkpoint_folder::CheckpointFolder;
use crate::retention::Retention;
use crate::snapshot::Snapshot;
use crate::written_part::WrittenPart;

/// What the writing thread works with.
pub struct Desk {
    pub rank: usize,
    /// Ranks that write files: the first ones.
    pub writers: usize,
    pub folder: CheckpointFolder,
    pub retention: Retention,
    /// What this rank has written and nobody has committed yet.
    pub written: Option<WrittenPart>,
}

impl Desk {
    /// Carries orders out until nobody gives any more.
    pub fn serve(mut self, orders: &Receiver<Order>, reports: &Sender<Result<Work, String>>) {
        for order in orders {
            let begun = Instant::now();
            let report = match self.carry_out(order) {
                Ok(bytes) => Ok(Work {
                    took: begun.elapsed(),
                    bytes,
                }),
                Err(error) => Err(format!("{error:#}")),
            };
            if reports.send(report).is_err() {
                break;
            }
        }
        self.save_what_is_left();
    }

    /// Bytes of the whole checkpoint, once it is one.
    pub fn carry_out(&mut self, order: Order) -> Result<u64> {
        match order {
            Order::Write(snapshot) => {
                self.written = Some(snapshot.write(&self.folder, self.rank)?);
                Ok(0)
            }
            Order::Commit => {
                let part = self.written.take().context("nothing is written: a bug of lidit")?;
                self.commit(part)
            }
        }
    }

    fn commit(&mut self, part: WrittenPart) -> Result<u64> {
        let step = part.step();
        let bytes = part.commit(&self.folder, self.writers)?;
        self.retention.prune(&self.folder, step)?;
        Ok(bytes)
    }

    /// Training ended between writing and committing, by an error: what is whole is kept.
    pub fn save_what_is_left(mut self) {
        let Some(part) = self.written.take() else { return };
        if self.rank > 0 || !part.is_last(&self.folder, self.writers) {
            return;
        }
        let step = part.step();
        match self.commit(part) {
            Ok(_) => eprintln!("the checkpoint of step {step} was whole and is kept"),
            Err(error) => eprintln!("warning: the checkpoint of step {step} could not be kept: {error:#}"),
        }
    }
}

/// What the writing thread has done.
pub struct Work {
    pub took: Duration,
    /// Of the whole checkpoint, once it is one.
    pub bytes: u64,
}

/// What a training thread asks of it.
pub enum Order {
    /// This rank's part.
    Write(Box<Snapshot>),
    /// The whole, of which every rank's part is written.
    Commit,
}
