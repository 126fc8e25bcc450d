//! Which checkpoints stay.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::checkpoint::Checkpoint;
use crate::checkpoint_folder::CheckpointFolder;

/// Keeps the newest checkpoints and every so many steps one for good.
#[derive(Clone, Debug)]
pub(crate) struct Retention {
    keep_last: usize,
    keep_every: u64,
    /// Checkpoints that this attempt has read back whole. What is not among them is read once before it counts.
    verified: BTreeSet<u64>,
}

impl Retention {
    /// By `train.keep_last` and `train.keep_every`.
    pub fn new(keep_last: usize, keep_every: u64) -> Self {
        Self {
            keep_last,
            keep_every,
            verified: BTreeSet::new(),
        }
    }

    /// Deletes what need not stay beside `newest`, which was just written and verified: of the checkpoints up to it all
    /// but the newest `keep_last` that verify and those at multiples of `keep_every`. Damaged ones do not count; they
    /// go when they are older than all that count. Later ones can only be damaged leftovers that a resume skipped: they
    /// neither count nor go.
    pub fn prune(&mut self, folder: &CheckpointFolder, newest: u64) -> Result<()> {
        self.verified.insert(newest);
        let mut counted = 0;
        for (step, checkpoint) in Checkpoint::list(folder.path())? {
            if step > newest {
                continue;
            }
            if counted < self.keep_last {
                counted += usize::from(self.verifies(step, checkpoint));
            } else if !self.is_for_good(step) {
                folder.delete(step)?;
                self.verified.remove(&step);
            }
        }
        Ok(())
    }

    fn verifies(&mut self, step: u64, checkpoint: Result<Checkpoint>) -> bool {
        if self.verified.contains(&step) {
            return true;
        }
        let verifies = checkpoint.and_then(|checkpoint| checkpoint.verify()).is_ok();
        if verifies {
            self.verified.insert(step);
        }
        verifies
    }

    fn is_for_good(&self, step: u64) -> bool {
        self.keep_every > 0 && step.is_multiple_of(self.keep_every)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use lidit_dist::World;

    use super::*;
    use crate::snapshot::Snapshot;

    /// Saves checkpoints of `steps` and prunes after each, as a run does.
    fn kept(mut retention: Retention, steps: &[u64]) -> Vec<u64> {
        let dir = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::open(dir.path(), &World::solo()).unwrap();
        for &step in steps {
            save(&folder, step);
            retention.prune(&folder, step).unwrap();
        }
        listed(&folder)
    }

    fn save(folder: &CheckpointFolder, step: u64) {
        let written = Snapshot::example(step).write(folder, 0).unwrap();
        written.commit(folder, 1).unwrap();
    }

    fn listed(folder: &CheckpointFolder) -> Vec<u64> {
        let all = Checkpoint::list(folder.path()).unwrap();
        all.iter().map(|(step, _)| *step).collect()
    }

    #[test]
    fn the_newest_stay_and_every_so_many_steps_one() {
        let steps = [10, 20, 30, 40, 50, 60];
        assert_eq!(kept(Retention::new(2, 0), &steps), [60, 50]);
        assert_eq!(kept(Retention::new(2, 20), &steps), [60, 50, 40, 20]);
        assert_eq!(kept(Retention::new(1, 30), &steps), [60, 30]);
    }

    #[test]
    fn a_damaged_checkpoint_does_not_count_and_goes_in_the_end() {
        // Each save is an attempt of its own here: none has verified 40 before it is damaged.
        let dir = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::open(dir.path(), &World::solo()).unwrap();
        let mut left = Vec::new();
        for step in [10, 20, 30, 40, 50, 60, 70] {
            save(&folder, step);
            Retention::new(2, 0).prune(&folder, step).unwrap();
            if step == 40 {
                fs::remove_file(folder.whole(40).join("model.safetensors")).unwrap();
            }
            left.push(listed(&folder));
        }
        assert_eq!(left[4], [50, 40, 30]);
        assert_eq!(left[5], [60, 50]);
        assert_eq!(left[6], [70, 60]);
    }
}
