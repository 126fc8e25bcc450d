//! Doing one fault to a run, and holding what its ranks do against what they should.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lidit_train::{Checkpoint, RunDir};
use signal_hook::consts::{SIGKILL, SIGSTOP};
use signal_hook::iterator::Signals;

use super::attempt::{Attempt, Rank, Run};
use super::fault::{Fault, Planned};
use super::network::Link;

const ERROR: i32 = 1;
const PEER_FAILED: i32 = 76;

/// A fault that was done, and what followed.
pub struct Injected {
    /// Which.
    pub planned: Planned,
    /// The last step that was logged before.
    pub step: u64,
    /// Seconds until every other rank had left, where one rank was lost.
    pub noticed: Option<f64>,
    detail: String,
}

/// Starts the run's ranks for the `number`-th time and breaks them as planned; `None` if they were done before it came to
/// that.
///
/// # Errors
/// A rank did not do what it should after such a fault, or did not end within `patience`.
pub fn inject(
    run: &Run,
    number: u32,
    planned: Planned,
    steps: u64,
    patience: Duration,
    signals: &mut Signals,
) -> Result<Option<Injected>> {
    let armed = (planned.fault == Fault::Nan).then(|| {
        let step = (first_step(&run.folder) + planned.after_steps).min(steps);
        (planned.rank, format!("nan@{step}"))
    });
    let mut attempt = run.start(number, armed.as_ref())?;
    let wait = if planned.fault == Fault::Nan {
        // It does it to itself.
        steps
    } else {
        planned.after_steps
    };
    // Training itself takes as long as it takes.
    let step = attempt.wait_for_steps(wait, Instant::now() + Duration::from_hours(24), signals)?;
    thread::sleep(Duration::from_millis(planned.delay_ms));
    if attempt.is_done() {
        return Ok(None);
    }
    let begun = Instant::now();
    let detail = act(run, &mut attempt, planned)?;
    let except = (planned.fault == Fault::Stop).then_some(planned.rank);
    let ended = attempt.wait_for_ends(except, begun + patience, signals);
    if planned.fault == Fault::Cut {
        run.network.link(planned.rank, Link::Joined)?;
    }
    ended.with_context(|| format!("after {} of rank {}", planned.fault, planned.rank))?;
    if attempt.is_done() {
        return Ok(None);
    }
    let ranks = attempt.ranks().iter().enumerate();
    let noticed = ranks
        .filter(|(rank, _)| *rank != planned.rank)
        .filter_map(|(_, rank)| rank.ended_at)
        .max()
        .map(|last| last.saturating_duration_since(begun).as_secs_f64());
    attempt.kill();
    check(&attempt, planned, &run.folder)?;
    Ok(Some(Injected {
        planned,
        step,
        noticed: noticed.filter(|_| matches!(planned.fault, Fault::Kill | Fault::Stop | Fault::Cut)),
        detail,
    }))
}

/// The step after which the next attempt will begin.
fn first_step(run_dir: &Path) -> u64 {
    let newest = Checkpoint::newest_verified(&run_dir.join("checkpoints"), |_, _| {});
    newest.ok().flatten().map_or(0, |checkpoint| checkpoint.manifest().step)
}

/// Does it; answers what exactly was done.
fn act(run: &Run, attempt: &mut Attempt, planned: Planned) -> Result<String> {
    match planned.fault {
        Fault::Kill => attempt.tell(planned.rank, SIGKILL),
        Fault::Stop => attempt.tell(planned.rank, SIGSTOP),
        Fault::Cut => run.network.link(planned.rank, Link::Cut)?,
        Fault::Truncate => {
            attempt.kill();
            if attempt.is_done() {
                return Ok(String::new());
            }
            return truncate(&run.folder, planned.choice);
        }
        Fault::Nan => {}
        Fault::DiskFull => {
            let bytes = full_at(&run.folder, planned.choice);
            attempt.limit_file_size(bytes)?;
            return Ok(format!("no file may exceed {bytes} bytes"));
        }
    }
    Ok(String::new())
}

/// Either nothing can be written any more, or only small files can.
fn full_at(run_dir: &Path, choice: u64) -> u64 {
    if choice.is_multiple_of(2) {
        return 0;
    }
    let records = ["metrics.jsonl", "stream.jsonl", "history.jsonl"];
    let longest = records
        .iter()
        .filter_map(|name| Some(fs::metadata(run_dir.join(name)).ok()?.len()))
        .max();
    // Room for some lines, not for weights.
    longest.unwrap_or(0) + 32 * 1024
}

/// Cuts a file of the newest checkpoint short.
fn truncate(run_dir: &Path, choice: u64) -> Result<String> {
    let run = RunDir::attach(run_dir)?;
    let checkpoints = Checkpoint::list(&run.checkpoints())?;
    // A run that has saved does not begin anew when it finds nothing whole: one must be left.
    let is_whole = |(_, checkpoint): &&(u64, Result<Checkpoint>)| matches!(checkpoint, Ok(c) if c.verify().is_ok());
    let Some((step, _)) = checkpoints
        .first()
        .filter(|_| checkpoints.iter().filter(is_whole).count() > 1)
    else {
        return Ok("there was no second checkpoint to go back to".to_owned());
    };
    let folder = run.checkpoints().join(format!("step-{step}"));
    let mut files: Vec<_> = fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    let file = &files[(choice % files.len() as u64) as usize];
    let len = fs::metadata(file)?.len();
    let kept = (choice >> 8) % len.max(1);
    OpenOptions::new()
        .write(true)
        .open(file)?
        .set_len(kept)
        .with_context(|| format!("truncating {}", file.display()))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    Ok(format!("{name} of step {step} cut from {len} to {kept} bytes"))
}

/// Holds how the ranks ended against how they should have.
fn check(attempt: &Attempt, planned: Planned, run_dir: &Path) -> Result<()> {
    for (number, rank) in attempt.ranks().iter().enumerate() {
        let right = match planned.fault {
            Fault::Kill | Fault::Stop if number == planned.rank => true,
            Fault::Cut if number == planned.rank => rank.code() == Some(PEER_FAILED),
            Fault::Kill | Fault::Stop | Fault::Cut => rank.code() == Some(PEER_FAILED) && names(rank, planned.rank),
            Fault::Truncate => true,
            Fault::Nan => rank.code() == Some(ERROR),
            Fault::DiskFull => matches!(rank.code(), Some(ERROR | PEER_FAILED)),
        };
        ensure!(
            right,
            "after {} of rank {}, rank {number} ended with {}: {}; see {}",
            planned.fault,
            planned.rank,
            rank.code()
                .map_or_else(|| "a signal".to_owned(), |code| format!("code {code}")),
            rank.error().unwrap_or_else(|| "it named no error".to_owned()),
            rank.log().display()
        );
    }
    let folder = run_dir.to_string_lossy();
    let names_a_file = |rank: &Rank| rank.error().is_some_and(|error| error.contains(folder.as_ref()));
    if planned.fault == Fault::DiskFull && !attempt.ranks().iter().any(names_a_file) {
        bail!("after the disk was full, no rank named a file of {folder}");
    }
    Ok(())
}

fn names(rank: &Rank, lost: usize) -> bool {
    rank.error().is_some_and(|error| named(&error).contains(&lost))
}

/// The ranks that an error says are lost; hosts stand in parentheses.
fn named(error: &str) -> Vec<usize> {
    let ends = [" failed or did not answer", " did not come"];
    let Some(end) = ends.iter().find_map(|end| error.find(end)) else {
        return Vec::new();
    };
    let start = error.find("rank").unwrap_or(end);
    let mut depth = 0;
    let outside = |letter: &char| {
        depth += i32::from(*letter == '(');
        let keep = depth == 0;
        depth -= i32::from(*letter == ')');
        keep
    };
    let ranks: String = error[start.min(end)..end].chars().filter(outside).collect();
    let words = ranks.split(|letter: char| !letter.is_alphanumeric());
    words.filter_map(|word| word.parse().ok()).collect()
}

/// Whether all ranks of an attempt that was left in peace are done.
///
/// # Errors
/// They are not.
pub fn done_or_explain(attempt: &Attempt, what: &str) -> Result<bool> {
    for (number, rank) in attempt.ranks().iter().enumerate() {
        ensure!(
            rank.code() == Some(0),
            "rank {number} failed although {what}: {}; see {}",
            rank.error().unwrap_or_default(),
            rank.log().display()
        );
    }
    Ok(true)
}

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Planned { fault, rank, .. } = self.planned;
        write!(f, "{fault} of rank {rank} after step {}", self.step)?;
        if !self.detail.is_empty() {
            write!(f, ", {}", self.detail)?;
        }
        if let Some(seconds) = self.noticed {
            write!(f, ", named after {seconds:.1} s")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranks_are_read_from_errors_and_nothing_else_is() {
        let table: [(&str, &[usize]); 5] = [
            (
                "error: rank 2 (on node-7) failed or did not answer in sum_f64: timed out (deadline 6.0 s)",
                &[2],
            ),
            (
                "error: step 9: ranks 0, 1 (on a1), rank 3 (on b2) failed or did not answer in max: closed",
                &[0, 1, 3],
            ),
            (
                "error: rank 1 did not come to the rendezvous at h:29500 within 4.0 s (rank 0 (on h) did): start",
                &[1],
            ),
            ("error: rank 1 could not save the checkpoint of step 3", &[]),
            ("error: rendezvous at h:1: rank 0 closed the door", &[]),
        ];
        for (error, ranks) in table {
            assert_eq!(named(error), ranks, "{error}");
        }
    }

    #[test]
    fn a_file_of_the_newest_checkpoint_is_cut_only_where_another_is_left() {
        let dir = tempfile::tempdir().unwrap();
        assert!(truncate(dir.path(), 5).unwrap().contains("no second checkpoint"));
        for choice in [3, 5] {
            let bytes = full_at(dir.path(), choice);
            assert_eq!(bytes, 32 * 1024, "no records yet");
        }
        fs::write(dir.path().join("metrics.jsonl"), [b'x'; 1000]).unwrap();
        assert_eq!(full_at(dir.path(), 3), 1000 + 32 * 1024);
        assert_eq!(full_at(dir.path(), 4), 0);
    }
}
