//! The loss by noise: ten equal parts of time.

use std::ops::AddAssign;

/// Number of parts.
pub const BINS: usize = 10;

/// Sums and counts of samples' losses over ten equal parts of t in [0, 1], the first the least noisy.
///
/// A mean loss hides what is learned: it is mostly the noise of which times a step happened to draw.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossBins {
    sums: [f64; BINS],
    counts: [f64; BINS],
}

impl LossBins {
    /// Counts samples by their `times` in 0..=1; those of weight 0 do not count.
    pub fn of_samples(times: &[f32], losses: &[f32], weights: &[f32]) -> Self {
        let mut bins = Self::default();
        for ((&time, &loss), &weight) in times.iter().zip(losses).zip(weights) {
            let bin = ((time * BINS as f32) as usize).min(BINS - 1);
            if weight > 0.0 {
                bins.sums[bin] += f64::from(loss);
                bins.counts[bin] += 1.0;
            }
        }
        bins
    }

    /// Sums, then counts: what ranks add up.
    pub fn numbers(&self) -> [f64; 2 * BINS] {
        std::array::from_fn(|i| if i < BINS { self.sums[i] } else { self.counts[i - BINS] })
    }

    /// The inverse of [`numbers`](Self::numbers); `numbers` has `2 * BINS` elements.
    pub fn of_numbers(numbers: &[f64]) -> Self {
        let (sums, counts) = numbers.split_at(BINS);
        Self {
            sums: std::array::from_fn(|i| sums[i]),
            counts: std::array::from_fn(|i| counts[i]),
        }
    }

    /// Mean loss of each part; none where no sample fell.
    pub fn means(&self) -> [Option<f64>; BINS] {
        std::array::from_fn(|i| (self.counts[i] > 0.0).then(|| self.sums[i] / self.counts[i]))
    }

    /// Samples of each part.
    pub fn counts(&self) -> [u64; BINS] {
        self.counts.map(|count| count as u64)
    }
}

impl AddAssign for LossBins {
    fn add_assign(&mut self, other: Self) {
        for i in 0..BINS {
            self.sums[i] += other.sums[i];
            self.counts[i] += other.counts[i];
        }
    }
}

/// `0.3-0.4`.
pub fn bin_name(bin: usize) -> String {
    format!("{:.1}-{:.1}", bin as f64 / BINS as f64, (bin + 1) as f64 / BINS as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_fall_into_their_tenth_and_unusable_ones_into_none() {
        let mut bins = LossBins::of_samples(
            &[0.0, 0.05, 0.1, 0.999, 1.0, 0.5],
            &[1.0, 3.0, 5.0, 7.0, 9.0, 11.0],
            &[1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        );
        let mut means = [None; BINS];
        (means[0], means[1], means[9]) = (Some(2.0), Some(5.0), Some(8.0));
        assert_eq!(bins.means(), means);
        assert_eq!(bins.counts(), [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]);

        bins += LossBins::of_numbers(&bins.numbers());
        assert_eq!((bins.means(), bins.counts()[9]), (means, 4));
        assert_eq!(bin_name(0), "0.0-0.1");
        assert_eq!(bin_name(9), "0.9-1.0");
    }
}
