//! Which sample stands at which position of the endless stream, and whose it is.

use std::ops::Range;

use crate::permutation::KeyedPermutation;
use crate::philox::Stream;
use crate::subset::Subset;

/// The endless order of `0..num_samples`: epoch after epoch, each a permutation of its own.
///
/// A pure function of (seed, position): position `p` is place `p mod n` of epoch `p / n`. Nothing about processes enters.
#[derive(Clone, Copy, Debug)]
pub struct SampleOrder {
    seed: u64,
    num_samples: u64,
}

/// What stands at one position of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// How often every sample came before.
    pub epoch: u64,
    /// Which sample, below the number of samples.
    pub sample: u64,
}

impl SampleOrder {
    /// The order of `num_samples` (at least 1) samples under a seed.
    pub fn new(seed: u64, num_samples: u64) -> Self {
        assert!(num_samples > 0, "an order of no samples");
        Self { seed, num_samples }
    }

    /// What stands at `position`, in constant time.
    pub fn at(&self, position: u64) -> Place {
        let epoch = position / self.num_samples;
        let permutation = KeyedPermutation::new(self.seed, Stream::Order, epoch, self.num_samples);
        Place {
            epoch,
            sample: permutation.at(position % self.num_samples),
        }
    }
}

/// A rank's part of every global batch.
///
/// Step `s` covers positions `s * global_batch .. (s + 1) * global_batch`; rank `r` takes a contiguous part of them, and
/// the first `global_batch mod world_size` ranks take one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Samples in a step over all ranks.
    pub global_batch: usize,
    /// This rank.
    pub rank: usize,
    /// Number of ranks, at least 1.
    pub world_size: usize,
}

impl Share {
    /// The stream positions that are this rank's in `step`.
    pub fn positions(&self, step: u64) -> Range<u64> {
        let (each, more) = (self.global_batch / self.world_size, self.global_batch % self.world_size);
        let start = each * self.rank + more.min(self.rank);
        let len = each + usize::from(self.rank < more);
        let base = step * self.global_batch as u64;
        base + start as u64..base + (start + len) as u64
    }

    /// The draws that are this rank's in `step`, in order.
    pub fn draws(&self, step: u64, order: &SampleOrder, subset: &Subset) -> Vec<Draw> {
        self.positions(step)
            .map(|position| {
                let Place { epoch, sample } = order.at(position);
                Draw {
                    position,
                    epoch,
                    id: subset.id(sample),
                }
            })
            .collect()
    }
}

/// One sample of the stream: where it stands, in which epoch, and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Position in the endless stream.
    pub position: u64,
    /// The epoch, which keys its random numbers.
    pub epoch: u64,
    /// Row number in the whole dataset.
    pub id: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_meets_every_sample_once_for_any_number() {
        for num_samples in [1, 2, 3, 7, 24, 100] {
            let order = SampleOrder::new(9, num_samples);
            for epoch in 0..4 {
                let places = (0..num_samples).map(|i| order.at(epoch * num_samples + i));
                let mut samples: Vec<u64> = places
                    .map(|place| {
                        assert_eq!(place.epoch, epoch);
                        place.sample
                    })
                    .collect();
                samples.sort_unstable();
                assert_eq!(samples, (0..num_samples).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn epochs_and_seeds_have_orders_of_their_own() {
        let epoch = |seed, epoch: u64| -> Vec<u64> {
            (0..50)
                .map(|i| SampleOrder::new(seed, 50).at(epoch * 50 + i).sample)
                .collect()
        };
        assert_ne!(epoch(1, 0), epoch(1, 1));
        assert_ne!(epoch(1, 0), epoch(2, 0));
        assert_eq!(epoch(1, 7), epoch(1, 7));
    }

    /// Random sizes from the generator itself: the union of the ranks is the stream, whatever the world.
    #[test]
    fn the_ranks_together_are_the_stream_nothing_twice_nothing_missing() {
        let mut rng = crate::SampleRng::new(1, 0, 0, Stream::Noise);
        for _ in 0..60 {
            let world_size = 1 + rng.below(16) as usize;
            let global_batch = world_size + rng.below(40) as usize;
            let num_samples = 1 + u64::from(rng.below(90));
            let subset = Subset::new(num_samples, None, 0);
            let order = SampleOrder::new(3, num_samples);
            let start = u64::from(rng.below(20));
            let mut positions = start * global_batch as u64..;
            for step in start..start + 4 {
                let mut lens = Vec::new();
                for rank in 0..world_size {
                    let share = Share {
                        global_batch,
                        rank,
                        world_size,
                    };
                    let draws = share.draws(step, &order, &subset);
                    lens.push(draws.len());
                    for draw in draws {
                        assert_eq!(Some(draw.position), positions.next());
                        let place = order.at(draw.position);
                        assert_eq!((draw.epoch, draw.id), (place.epoch, place.sample));
                    }
                }
                let (least, most) = (lens.iter().min(), lens.iter().max());
                assert!(
                    most.zip(least).is_some_and(|(most, least)| most - least <= 1),
                    "{lens:?}"
                );
            }
        }
    }

    #[test]
    fn a_batch_may_span_epochs() {
        let order = SampleOrder::new(3, 5);
        let share = Share {
            global_batch: 12,
            rank: 0,
            world_size: 1,
        };
        let epochs: Vec<u64> = share
            .draws(0, &order, &Subset::new(5, None, 0))
            .iter()
            .map(|draw| draw.epoch)
            .collect();
        assert_eq!(epochs, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]);
    }
}
