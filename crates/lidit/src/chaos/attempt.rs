//! One attempt at a run: its ranks from their start to their ends.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lidit_dist::process;
use lidit_train::history::{self, Event};
use lidit_train::{FAULT_VARIABLE, RunDir};
use signal_hook::consts::SIGKILL;
use signal_hook::iterator::Signals;

use super::network::Network;
use crate::launch::{ATTEMPT, meeting_variables, place_variables, thread_variables};

const POLL: Duration = Duration::from_millis(2);

/// What every attempt at a run has in common.
pub struct Run<'a> {
    /// This binary.
    pub program: PathBuf,
    /// `train CONFIG ..`, without the run directory.
    pub command: Vec<String>,
    /// The run directory.
    pub run_dir: PathBuf,
    /// Where each rank's output goes.
    pub logs: PathBuf,
    /// Where ranks live.
    pub network: &'a Network,
    /// How many.
    pub ranks: usize,
}

/// The ranks of one attempt. Those that are left are killed when it is dropped.
pub struct Attempt {
    ranks: Vec<Rank>,
    run_dir: RunDir,
    /// Attempts that the run's history had before.
    earlier: usize,
}

/// One rank's process.
pub struct Rank {
    child: Child,
    /// Takes what it prints to its log.
    copier: Option<JoinHandle<()>>,
    log: PathBuf,
    /// How it ended, once it has.
    pub end: Option<ExitStatus>,
    /// When that was noticed.
    pub ended_at: Option<Instant>,
}

impl Run<'_> {
    /// Starts all ranks for the `number`-th time; `fault` is armed in one of them.
    pub fn start(&self, number: u32, fault: Option<(usize, String)>) -> Result<Attempt> {
        let meeting = self.network.meeting()?;
        fs::create_dir_all(&self.logs).with_context(|| format!("making {}", self.logs.display()))?;
        fs::create_dir_all(&self.run_dir).with_context(|| format!("making {}", self.run_dir.display()))?;
        let run_dir = RunDir::attach(&self.run_dir)?;
        let mut attempt = Attempt {
            ranks: Vec::new(),
            earlier: started(&run_dir).len(),
            run_dir,
        };
        for rank in 0..self.ranks {
            let log = self.logs.join(format!("attempt-{number}-rank-{rank}.log"));
            // Not the file itself: what a rank has to say must not hang on the disk that it finds full.
            let (output, input) = io::pipe().context("making a pipe")?;
            let mut file = File::create(&log).with_context(|| format!("making {}", log.display()))?;
            let mut command = self.network.command(&self.program, rank);
            command
                .args(&self.command)
                .arg("--run-dir")
                .arg(&self.run_dir)
                .arg("--resume")
                .envs(place_variables(rank, rank, self.ranks))
                .envs(meeting_variables(&meeting))
                .envs(thread_variables(self.ranks))
                .env(ATTEMPT, number.to_string())
                .env_remove(FAULT_VARIABLE)
                .stdin(Stdio::null())
                .stdout(input.try_clone()?)
                .stderr(input)
                .process_group(0);
            if let Some((_, fault)) = fault.as_ref().filter(|(victim, _)| *victim == rank) {
                command.env(FAULT_VARIABLE, fault);
            }
            process::die_with_parent(&mut command);
            let child = command.spawn().with_context(|| format!("starting rank {rank}"))?;
            attempt.ranks.push(Rank {
                child,
                copier: Some(thread::spawn(move || {
                    let mut output = output;
                    // A log that can't be written misses what the verdict will miss, too.
                    let _ = io::copy(&mut output, &mut file);
                })),
                log,
                end: None,
                ended_at: None,
            });
        }
        Ok(attempt)
    }
}

impl Attempt {
    /// Waits until the run has made `steps` steps more than when this attempt began, or is over; answers the step it has
    /// reached.
    pub fn wait_for_steps(&mut self, steps: u64, until: Instant, signals: &mut Signals) -> Result<u64> {
        let mut reached = 0;
        while self.notice_ends() < self.ranks.len() {
            if steps == 0 {
                break;
            }
            if let Some(base) = started(&self.run_dir).get(self.earlier) {
                reached = last_step(&self.run_dir.metrics()).unwrap_or(0).max(*base);
                if reached >= base + steps {
                    break;
                }
            }
            self.patience(until, signals)?;
        }
        Ok(reached)
    }

    /// Waits until every rank but `except` has ended.
    pub fn wait_for_ends(&mut self, except: Option<usize>, until: Instant, signals: &mut Signals) -> Result<()> {
        loop {
            self.notice_ends();
            let open = |(number, rank): (usize, &Rank)| rank.end.is_none() && Some(number) != except;
            if !self.ranks.iter().enumerate().any(open) {
                return Ok(());
            }
            self.patience(until, signals)?;
        }
    }

    fn patience(&self, until: Instant, signals: &mut Signals) -> Result<()> {
        if let Some(signal) = signals.pending().next() {
            bail!("told to stop by signal {signal}; what was made so far is kept");
        }
        if Instant::now() >= until {
            let open: Vec<String> = self
                .ranks
                .iter()
                .enumerate()
                .filter(|(_, rank)| rank.end.is_none())
                .map(|(number, rank)| format!("rank {number} ({})", rank.log.display()))
                .collect();
            bail!("the run hangs: {} did not end", open.join(", "));
        }
        thread::sleep(POLL);
        Ok(())
    }

    fn notice_ends(&mut self) -> usize {
        for rank in &mut self.ranks {
            if rank.end.is_none()
                && let Ok(Some(end)) = rank.child.try_wait()
            {
                rank.ended(end);
            }
        }
        self.ranks.iter().filter(|rank| rank.end.is_some()).count()
    }

    /// Sends a rank a signal, if it still runs.
    pub fn tell(&self, rank: usize, signal: i32) {
        if self.ranks[rank].end.is_none() {
            // It may end in this very moment; its end is noticed next.
            let _ = process::send_signal(&self.ranks[rank].child, signal);
        }
    }

    /// Lets no file of any rank grow beyond `bytes`.
    pub fn limit_file_size(&self, bytes: u64) -> Result<()> {
        for rank in self.ranks.iter().filter(|rank| rank.end.is_none()) {
            process::limit_file_size(&rank.child, Some(bytes)).context("limiting the size of files")?;
        }
        Ok(())
    }

    /// Kills what still runs.
    pub fn kill(&mut self) {
        for rank in 0..self.ranks.len() {
            self.tell(rank, SIGKILL);
        }
        for rank in self.ranks.iter_mut().filter(|rank| rank.end.is_none()) {
            // Killed above, so this does not wait long.
            if let Ok(end) = rank.child.wait() {
                rank.ended(end);
            }
        }
    }

    /// Whether the run has its result; the last thing that is written, and the first that a new attempt takes away.
    pub fn is_done(&self) -> bool {
        self.run_dir.result().exists() && started(&self.run_dir).len() > self.earlier
    }

    /// The ranks, in order.
    pub fn ranks(&self) -> &[Rank] {
        &self.ranks
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Rank {
    fn ended(&mut self, end: ExitStatus) {
        self.end = Some(end);
        self.ended_at = Some(Instant::now());
        if let Some(copier) = self.copier.take() {
            // The pipe closed with the process.
            let _ = copier.join();
        }
    }

    /// All that it printed.
    pub fn said(&self) -> String {
        fs::read(&self.log).map_or_else(|_| String::new(), |text| String::from_utf8_lossy(&text).into_owned())
    }

    /// The error that it ended with.
    pub fn error(&self) -> Option<String> {
        let said = self.said();
        let line = said.lines().rev().find(|line| line.starts_with("error: "));
        line.map(str::to_owned)
    }

    /// Its exit code; none if it was killed or still runs.
    pub fn code(&self) -> Option<i32> {
        self.end.and_then(|end| end.code())
    }

    /// Where its output is.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

/// The steps with which the attempts of a run began. A history that is being written is read the next time.
fn started(run_dir: &RunDir) -> Vec<u64> {
    let lines = history::read(&run_dir.history()).unwrap_or_default();
    let begun = |line: &history::HistoryLine| match line.event {
        Event::Started { step, .. } => Some(step),
        _ => None,
    };
    lines.iter().filter_map(begun).collect()
}

/// The step of the last whole line of a `metrics.jsonl`.
fn last_step(metrics: &Path) -> Option<u64> {
    let text = fs::read(metrics).ok()?;
    let lines = text.strip_suffix(b"\n")?;
    let last = lines.rsplit(|byte| *byte == b'\n').next()?;
    serde_json::from_slice::<serde_json::Value>(last).ok()?["step"].as_u64()
}
