//! What can be done to a run on purpose.

use std::fmt;

use anyhow::{Result, bail};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;

/// A way to break a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Fault {
    /// A rank is killed (SIGKILL), as by the kernel when memory is short.
    Kill,
    /// A rank is stopped (SIGSTOP) and says nothing more, as on a machine that hangs.
    Stop,
    /// A rank's network is cut; every rank has a network of its own then. Needs root.
    Cut,
    /// All ranks are killed and a file of the newest checkpoint is cut short, as by a power failure.
    Truncate,
    /// A gradient of one rank is not a number.
    Nan,
    /// No file can grow any more.
    DiskFull,
}

/// A fault with its victim and its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What happens.
    pub fault: Fault,
    /// To which rank.
    pub rank: usize,
    /// So many steps after those that were done when the ranks started; 0 is while they start.
    pub after_steps: u64,
    /// So many milliseconds later.
    pub delay_ms: u64,
    /// Chooses among what else is possible, such as files.
    pub choice: u64,
}

impl Planned {
    /// The next fault: any of `faults`, any of `ranks`, at most `steps` steps after the start.
    pub fn draw(random: &mut ChaCha8Rng, faults: &[Fault], ranks: usize, steps: u64) -> Self {
        let mut below = |bound: u64| random.next_u64() % bound;
        let fault = faults[below(faults.len() as u64) as usize];
        let rank = below(ranks as u64) as usize;
        let after_steps = below(steps + 1);
        // While ranks start, a second holds all there is to interrupt; between steps it is milliseconds.
        let delay_ms = below(if after_steps == 0 { 1000 } else { 30 });
        Self {
            fault,
            rank,
            // A gradient is of a step, and a step writes files.
            after_steps: if matches!(fault, Fault::Nan | Fault::DiskFull) {
                after_steps.max(1)
            } else {
                after_steps
            },
            delay_ms,
            choice: below(u64::MAX),
        }
    }
}

/// Draws until each of `faults` came once before any comes again: few faults are not all of one kind.
pub struct Deck {
    faults: Vec<Fault>,
    left: Vec<Fault>,
}

impl Deck {
    /// A deck of `faults`, at least one.
    pub fn new(faults: &[Fault]) -> Result<Self> {
        if faults.is_empty() {
            bail!("--faults names none: choose some of kill, stop, cut, truncate, nan, disk-full");
        }
        let mut faults = faults.to_vec();
        faults.sort_unstable();
        faults.dedup();
        Ok(Self {
            left: faults.clone(),
            faults,
        })
    }

    /// The next fault.
    pub fn draw(&mut self, random: &mut ChaCha8Rng, ranks: usize, steps: u64) -> Planned {
        if self.left.is_empty() {
            self.left.clone_from(&self.faults);
        }
        let planned = Planned::draw(random, &self.left, ranks, steps);
        self.left.retain(|fault| *fault != planned.fault);
        planned
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Cut => "cut",
            Self::Truncate => "truncate",
            Self::Nan => "nan",
            Self::DiskFull => "disk-full",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn drawn(seed: u64, count: usize) -> Vec<Planned> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut deck = Deck::new(&[Fault::Kill, Fault::Nan, Fault::Stop, Fault::Kill]).unwrap();
        (0..count).map(|_| deck.draw(&mut random, 3, 5)).collect()
    }

    #[test]
    fn a_seed_fixes_the_faults_and_every_kind_comes_before_one_comes_again() {
        assert_eq!(drawn(1, 9), drawn(1, 9));
        assert_ne!(drawn(1, 9), drawn(2, 9));
        for three in drawn(7, 30).chunks(3) {
            let mut faults: Vec<Fault> = three.iter().map(|planned| planned.fault).collect();
            faults.sort_unstable();
            assert_eq!(faults, [Fault::Kill, Fault::Stop, Fault::Nan]);
        }
        assert!(Deck::new(&[]).is_err());
    }

    #[test]
    fn every_rank_and_moment_is_met_and_a_gradient_breaks_in_a_step() {
        let drawn = drawn(3, 300);
        for rank in 0..3 {
            assert!(drawn.iter().any(|planned| planned.rank == rank));
        }
        for steps in 0..=5 {
            assert!(drawn.iter().any(|planned| planned.after_steps == steps));
        }
        let mut of_nan = drawn.iter().filter(|planned| planned.fault == Fault::Nan);
        assert!(of_nan.all(|planned| (1..=5).contains(&planned.after_steps)));
    }
}
