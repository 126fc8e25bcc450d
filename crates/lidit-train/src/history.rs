//! What happened to a run: every attempt, on every machine, in the order of events.

use std::path::Path;

use anyhow::{Result, bail};
use chrono::{SecondsFormat, Utc};
use lidit_dist::World;
use serde::{Deserialize, Serialize};

use crate::config::{RunConfig, Sharding};
use crate::jsonl::{self, JsonLines};
use crate::run_dir::{RunDir, host_name};

/// The version of a line of `history.jsonl`.
pub const FORMAT_VERSION: u32 = 3;

/// `history.jsonl`, open for appending; nothing in it is ever changed or cut, whatever lineage survives.
pub struct History {
    lines: JsonLines,
    attempt: u32,
}

/// One line of `history.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// When, in UTC, to the millisecond (RFC 3339).
    pub time: String,
    /// Counts the attempts at this run, from 1.
    pub attempt: u32,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// Something that happened to a run; the key `event` names it in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Processes opened the run directory, to load and to train.
    Opened {
        /// Milliseconds that the attempts before it took.
        wall_ms: u64,
    },
    /// Processes began to train.
    Started {
        /// Steps already done, by the checkpoint that was loaded; 0 for a new run.
        step: u64,
        /// Processes.
        world_size: usize,
        /// The binary's version.
        version: String,
        /// Rank 0's machine.
        host: String,
        /// Rank 0's device, as given by `--device`.
        device: String,
        /// How sums were rounded.
        arithmetic: Arithmetic,
    },
    /// A checkpoint is damaged and was not gone on from.
    Skipped {
        /// Steps that it had done.
        step: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint is complete.
    Saved {
        /// Steps done.
        step: u64,
        /// Milliseconds that training waited for it.
        stall_ms: u64,
        /// Milliseconds that it took to write, in the background.
        write_ms: u64,
        /// Bytes of all its files.
        bytes: u64,
    },
    /// The attempt ended on purpose before the last step and can be resumed.
    Stopped {
        /// Steps done.
        step: u64,
        /// Why: a signal, the dashboard, `train.stop_after`.
        reason: String,
    },
    /// The attempt ended by an error.
    Failed {
        /// Steps done.
        step: u64,
        /// The error and its causes.
        error: String,
    },
    /// The run is done.
    Finished {
        /// Steps done.
        step: u64,
    },
}

/// What an attempt may choose anew, and what rounds its sums otherwise: a replay of its steps needs the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arithmetic {
    /// `train.micro_batch`.
    pub micro_batch: usize,
    /// `train.recompute_blocks`.
    pub recompute_blocks: usize,
    /// `train.sharding`.
    pub sharding: Sharding,
    /// Threads of each rank that compute (rayon's).
    pub threads: Vec<usize>,
}

impl Arithmetic {
    /// That of this attempt. A collective: every rank tells its threads.
    pub fn of(config: &RunConfig, world: &World) -> Result<Self> {
        let mut threads = vec![0.0; world.size()];
        threads[world.rank()] = rayon::current_num_threads() as f64;
        world.sum_f64(&mut threads)?;
        Ok(Self {
            micro_batch: config.train.micro_batch,
            recompute_blocks: config.train.recompute_blocks,
            sharding: config.train.sharding,
            threads: threads.into_iter().map(|count| count as usize).collect(),
        })
    }
}

impl Event {
    /// A [`Started`](Event::Started) on this machine.
    pub fn started(step: u64, world_size: usize, version: &str, device: &str, arithmetic: Arithmetic) -> Self {
        Self::Started {
            step,
            world_size,
            version: version.to_owned(),
            host: host_name(),
            device: device.to_owned(),
            arithmetic,
        }
    }
}

impl History {
    /// Opens a run's history and begins the next attempt.
    ///
    /// # Errors
    /// When the file cannot be read or holds lines of another format version.
    pub fn open(run: &RunDir) -> Result<Self> {
        let path = run.history();
        let earlier = read(&path)?;
        Ok(Self {
            lines: JsonLines::open(&path)?,
            attempt: 1 + earlier.iter().map(|line| line.attempt).max().unwrap_or(0),
        })
    }

    /// This attempt's number, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Appends one event; it is on the disk when this returns.
    pub fn record(&mut self, event: Event) -> Result<()> {
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        self.lines.append(&HistoryLine {
            format_version: FORMAT_VERSION,
            time,
            attempt: self.attempt,
            event,
        })?;
        self.lines.sync()
    }
}

/// Reads a `history.jsonl`; a file that is not there is an empty history.
///
/// # Errors
/// When a line cannot be read or has another format version.
pub fn read(path: &Path) -> Result<Vec<HistoryLine>> {
    let lines: Vec<HistoryLine> = jsonl::read(path)?;
    if let Some(line) = lines.iter().find(|line| line.format_version != FORMAT_VERSION) {
        bail!(
            "{} has format_version {}, this program writes {FORMAT_VERSION}",
            path.display(),
            line.format_version
        );
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    #[test]
    fn attempts_are_counted_and_events_come_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path()).unwrap();
        let mut first = History::open(&run).unwrap();
        let arithmetic = Arithmetic {
            micro_batch: 6,
            recompute_blocks: 0,
            sharding: Sharding::Zero1,
            threads: vec![1, 1],
        };
        first.record(Event::Opened { wall_ms: 0 }).unwrap();
        let started = Event::started(0, 2, "0.1.0", "cpu", arithmetic);
        first.record(started.clone()).unwrap();
        first
            .record(Event::Saved {
                step: 10,
                stall_ms: 3,
                write_ms: 50,
                bytes: 1000,
            })
            .unwrap();
        first
            .record(Event::Stopped {
                step: 10,
                reason: "SIGTERM".into(),
            })
            .unwrap();
        let mut second = History::open(&run).unwrap();
        second
            .record(Event::Failed {
                step: 12,
                error: "disk: full".into(),
            })
            .unwrap();
        second.record(Event::Finished { step: 20 }).unwrap();
        let lines = read(&run.history()).unwrap();
        assert_eq!(lines.iter().map(|l| l.attempt).collect::<Vec<_>>(), [1, 1, 1, 1, 2, 2]);
        assert_eq!(lines[1].event, started);
        assert_eq!(lines[5].event, Event::Finished { step: 20 });
        let text = fs::read_to_string(run.history()).unwrap();
        assert!(
            text.contains(r#""event":"stopped","step":10,"reason":"SIGTERM""#),
            "{text}"
        );
    }

    #[test]
    fn another_format_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path()).unwrap();
        fs::write(
            run.history(),
            "{\"format_version\":1,\"time\":\"\",\"attempt\":1,\"event\":\"finished\",\"step\":1}\n",
        )
        .unwrap();
        let message = History::open(&run).err().unwrap().to_string();
        assert!(message.contains("format_version 1"), "{message}");
    }
}
