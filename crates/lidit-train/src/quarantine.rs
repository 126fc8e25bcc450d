//! Rows that can't be used: who they are, and when there are too many.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lidit_data::Quarantined;
use lidit_dist::World;
use serde::{Deserialize, Serialize};

use crate::jsonl::{self, JsonLines};
use crate::run_dir::RunDir;

/// The version of a line of `quarantine.jsonl`.
pub const FORMAT_VERSION: u32 = 1;

/// Fewer samples than these say nothing of a share.
const SAMPLES_JUDGED: u64 = 1024;

/// One row of `quarantine.jsonl`: each row is there once, however often it was met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedRow {
    /// Always `FORMAT_VERSION` of this file.
    pub format_version: u32,
    /// Row number in the whole dataset.
    pub id: u64,
    /// The shard.
    pub shard: PathBuf,
    /// Row in the shard, from 0.
    pub row: u64,
    /// Why.
    pub reason: String,
}

/// The rows that a run met and could not use. Every rank has one; rank 0's writes `quarantine.jsonl`.
pub(crate) struct Quarantine {
    file: Option<(JsonLines, HashSet<u64>)>,
    path: PathBuf,
    /// Samples met that could not be used, over all ranks and attempts of the lineage; repeats counted.
    met: u64,
    allowed_share: f64,
}

impl Quarantine {
    /// Opens the file on rank 0. `met` is what rank 0 knows of the attempts before. A collective: every rank calls it.
    pub(crate) fn open(run: &RunDir, met: u64, allowed_share: f64, world: &World) -> Result<Self> {
        let path = run.quarantine();
        let mut counts = [met as f64];
        world.sum_f64(&mut counts)?;
        let file = if world.rank() == 0 {
            let known: Vec<QuarantinedRow> = jsonl::read(&path)?;
            let ids = known.iter().map(|row| row.id).collect();
            Some((JsonLines::open(&path)?, ids))
        } else {
            None
        };
        Ok(Self {
            file,
            path,
            met: counts[0] as u64,
            allowed_share,
        })
    }

    /// Takes in a step: `count` samples of all ranks were unusable, `own` are this rank's, `seen` is what the run met so
    /// far. A collective where `count` is not 0.
    ///
    /// # Errors
    /// More than the allowed share of the samples met can't be used: the same error on every rank.
    pub(crate) fn add(&mut self, count: u64, own: &[Quarantined], seen: u64, world: &World) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let mut last = None;
        for rank in 0..world.size() {
            let mut bytes = serde_json::to_vec(&own.iter().map(line).collect::<Vec<_>>())?;
            world.broadcast(&mut bytes, rank)?;
            let theirs: Vec<QuarantinedRow> =
                serde_json::from_slice(&bytes).context("unusable rows of another rank")?;
            for row in theirs {
                self.write(&row)?;
                last = Some(row);
            }
        }
        self.met += count;
        let share = self.met as f64 / seen.max(SAMPLES_JUDGED) as f64;
        ensure!(
            share <= self.allowed_share,
            "{} of the {seen} samples met can't be used, more than data.max_unusable = {} allows; the last: {}; see {}",
            self.met,
            self.allowed_share,
            last.map_or_else(String::new, |row| format!(
                "{}, row {}: {}",
                row.shard.display(),
                row.row,
                row.reason
            )),
            self.path.display()
        );
        Ok(())
    }

    fn write(&mut self, row: &QuarantinedRow) -> Result<()> {
        let Some((lines, known)) = &mut self.file else {
            return Ok(());
        };
        if known.insert(row.id) {
            lines.append(row)?;
        }
        Ok(())
    }
}

fn line(row: &Quarantined) -> QuarantinedRow {
    QuarantinedRow {
        format_version: FORMAT_VERSION,
        id: row.id,
        shard: row.shard.clone(),
        row: row.row,
        reason: row.reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn row(id: u64) -> Quarantined {
        Quarantined {
            id,
            shard: "a.parquet".into(),
            row: id,
            reason: "its picture is null".into(),
        }
    }

    #[test]
    fn each_row_is_written_once_and_too_many_stop_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path()).unwrap();
        let world = World::solo();
        let mut quarantine = Quarantine::open(&run, 0, 0.01, &world).unwrap();
        quarantine.add(2, &[row(3), row(4)], 12, &world).unwrap();
        quarantine.add(2, &[row(3), row(5)], 24, &world).unwrap();
        // A later attempt knows what was met: 4 of 1,024 before, 7 more now.
        let mut quarantine = Quarantine::open(&run, 4, 0.01, &world).unwrap();
        let message = quarantine.add(7, &[row(4)], 36, &world).unwrap_err().to_string();
        assert!(
            message.contains("11 of the 36 samples") && message.contains("a.parquet, row 4"),
            "{message}"
        );
        let ids: Vec<u64> = jsonl::read(&run.quarantine())
            .unwrap()
            .iter()
            .map(|row: &QuarantinedRow| row.id)
            .collect();
        assert_eq!(ids, [3, 4, 5]);
    }

    #[test]
    fn a_small_share_of_many_is_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path()).unwrap();
        let world = World::solo();
        let mut quarantine = Quarantine::open(&run, 90, 0.01, &world).unwrap();
        quarantine.add(9, &[row(1)], 10_000, &world).unwrap();
        assert!(quarantine.add(9, &[row(1)], 10_000, &world).is_err());
    }
}
