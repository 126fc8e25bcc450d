//! A sum over samples that tells sets of them apart, whatever their order.

use std::ops::AddAssign;

use crate::batch::MicroBatch;
use crate::order::Draw;
use crate::philox::philox4x32;

// Any key that nothing else uses: "lidi", "tsum".
const KEY: [u32; 2] = [0x6c69_6469, 0x7473_756d];

/// The sum of two random words of each (epoch, id): equal sums mean, but for chance (2^-64), equal samples, each as often.
///
/// Added as integers, so that ranks' sums add up in any order; below 2^53 for up to two million samples, so that they may
/// travel as `f64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleSum {
    /// Number of samples.
    pub samples: u64,
    /// Sums of the first and of the second word.
    pub words: [u64; 2],
}

impl SampleSum {
    /// The sum over the samples of a plan.
    pub fn of_draws(draws: &[Draw]) -> Self {
        Self::of(draws.iter().map(|draw| (draw.epoch, draw.id)))
    }

    /// The sum over the samples that a micro-batch holds.
    pub fn of_batch(batch: &MicroBatch) -> Self {
        Self::of(batch.epochs.iter().copied().zip(batch.ids.iter().copied()))
    }

    fn of(samples: impl Iterator<Item = (u64, u64)>) -> Self {
        samples.fold(Self::default(), |mut sum, (epoch, id)| {
            let counter = [id as u32, (id >> 32) as u32, epoch as u32, (epoch >> 32) as u32];
            let [first, second, ..] = philox4x32(counter, KEY);
            sum += Self {
                samples: 1,
                words: [u64::from(first), u64::from(second)],
            };
            sum
        })
    }
}

impl AddAssign for SampleSum {
    fn add_assign(&mut self, other: Self) {
        self.samples += other.samples;
        for (word, more) in self.words.iter_mut().zip(other.words) {
            *word += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_makes_no_difference_and_everything_else_does() {
        let sum = |samples: &[(u64, u64)]| SampleSum::of(samples.iter().copied());
        let mut parts = sum(&[(0, 7)]);
        parts += sum(&[(2, 1), (0, 1 << 40)]);
        let whole = sum(&[(0, 1 << 40), (2, 1), (0, 7)]);
        assert_eq!((parts, whole.samples), (whole, 3));
        for other in [
            &[(0, 7), (2, 1), (0, 7)][..],
            &[(0, 7), (2, 1)],
            &[(1, 7), (2, 1), (0, 1 << 40)],
        ] {
            assert_ne!(sum(other), whole, "{other:?}");
        }
    }
}
