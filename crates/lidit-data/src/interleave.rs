//! Several endless streams as one, each in its share.

/// The endless merge of streams by weight: item `j` of stream `k` stands at time `(2j + 1) / (2 w_k)`, earlier streams
/// first where times are equal.
///
/// After any number of items each of `K` streams has had its share to within `(K + 1) / 2` items, and any item is found
/// without the others. Source: Webster's method of apportionment, as a divisor sequence.
#[derive(Clone, Debug)]
pub(crate) struct Interleave {
    weights: Vec<u64>,
    total: u128,
}

impl Interleave {
    /// Streams with these weights: each at least 1, all together below 2^63.
    pub fn new(weights: Vec<u64>) -> Self {
        assert!(weights.iter().all(|weight| *weight > 0), "a stream of weight 0");
        let total = weights.iter().map(|weight| u128::from(*weight)).sum();
        assert!((1..1 << 63).contains(&total), "weights {weights:?}");
        Self { weights, total }
    }

    /// Which stream item `index` is of, and the how manieth of that stream, from 0.
    pub fn at(&self, index: u64) -> (usize, u64) {
        if let [_] = self.weights[..] {
            return (0, index);
        }
        // By this time there were at most `index` items: each stream's count is rounded up by at most a half.
        let behind = u128::from(index.saturating_sub(self.weights.len() as u64));
        let taken_at = |weight: &u64| (2 * behind * u128::from(*weight) + self.total) / (2 * self.total);
        let mut taken: Vec<u64> = self.weights.iter().map(|weight| taken_at(weight) as u64).collect();
        let mut next: u64 = taken.iter().sum();
        loop {
            let stream = self.earliest(&taken);
            if next == index {
                return (stream, taken[stream]);
            }
            taken[stream] += 1;
            next += 1;
        }
    }

    fn earliest(&self, taken: &[u64]) -> usize {
        let half_time = |stream: usize| 2 * u128::from(taken[stream]) + 1;
        (1..taken.len()).fold(0, |best, stream| {
            // half_time / weight, compared without division.
            let sooner =
                half_time(stream) * u128::from(self.weights[best]) < half_time(best) * u128::from(self.weights[stream]);
            if sooner { stream } else { best }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::{SampleRng, Stream};

    #[test]
    fn every_stream_is_passed_in_order_and_none_leaves_its_share() {
        let mut rng = SampleRng::new(4, 0, 0, Stream::Noise);
        for _ in 0..50 {
            let weights: Vec<u64> = (0..=rng.below(6)).map(|_| 1 + u64::from(rng.below(1000))).collect();
            let total: u64 = weights.iter().sum();
            let interleave = Interleave::new(weights.clone());
            let mut taken = vec![0_u64; weights.len()];
            for index in 0..400_u64 {
                let (stream, place) = interleave.at(index);
                assert_eq!(place, taken[stream], "{weights:?} item {index}");
                taken[stream] += 1;
                for (taken, weight) in taken.iter().zip(&weights) {
                    let share = (index + 1) as f64 * *weight as f64 / total as f64;
                    let bound = (weights.len() as f64).midpoint(1.0);
                    assert!(
                        (*taken as f64 - share).abs() <= bound,
                        "{weights:?} item {index}: {taken} of {share}"
                    );
                }
            }
        }
    }

    #[test]
    fn far_items_are_found_at_once() {
        let interleave = Interleave::new(vec![3, 1 << 40, 77]);
        let far = 1 << 50;
        let mut counts = [interleave.at(far), interleave.at(far + 1), interleave.at(far + 2)];
        counts.sort_unstable();
        assert_eq!(counts.iter().filter(|(stream, _)| *stream == 1).count(), 3);
        assert!(counts[0].1.abs_diff(far) < 1 << 20, "{counts:?}");
    }

    #[test]
    fn equal_weights_take_turns() {
        let interleave = Interleave::new(vec![5, 5]);
        let streams: Vec<usize> = (0..6).map(|index| interleave.at(index).0).collect();
        assert_eq!(streams, [0, 1, 0, 1, 0, 1]);
    }
}
