//! Which sample stands at which position of the endless stream, and whose it is.

use std::ops::Range;
use std::sync::Arc;

use crate::bucket::Bucket;
use crate::layout::Layout;
use crate::part::Part;

/// The endless stream of a dataset under a seed, cut into global batches of one picture size each.
///
/// A pure function of (seed, position); nothing about processes enters. Each source's rows of each bucket are a stream of
/// their own, epoch after epoch, every epoch shuffled anew; sources are interleaved by weight within a bucket, buckets by
/// weight from step to step, and what a bucket has left over when its epoch ends begins its next batch.
#[derive(Clone, Debug)]
pub struct SampleOrder {
    layout: Arc<Layout>,
    seed: u64,
    global_batch: usize,
}

/// A rank's part of every global batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// This rank.
    pub rank: usize,
    /// Number of ranks, at least 1.
    pub world_size: usize,
}

/// One sample of the stream: where it stands, in which epoch, and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Position in the endless stream.
    pub position: u64,
    /// Number of its part: one a source and picture size.
    pub part: usize,
    /// How often every sample of its part came before; it keys its random numbers.
    pub epoch: u64,
    /// Row number in the whole dataset.
    pub id: u64,
}

/// A place of a global batch, before its sample is looked up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Seat {
    part: usize,
    lane: u64,
    /// Place in the batch.
    place: usize,
    /// Item of the part's stream.
    index: u64,
}

impl Share {
    /// The only rank's.
    pub const ALL: Self = Self { rank: 0, world_size: 1 };

    /// The part of `len` things that is this rank's; ranks' parts differ by at most one, the first take more.
    pub fn of(&self, len: usize) -> Range<usize> {
        let (each, more) = (len / self.world_size, len % self.world_size);
        let start = each * self.rank + more.min(self.rank);
        start..start + each + usize::from(self.rank < more)
    }
}

impl SampleOrder {
    pub(crate) fn new(layout: Arc<Layout>, seed: u64, global_batch: usize) -> Self {
        Self {
            layout,
            seed,
            global_batch,
        }
    }

    /// Samples of a step over all ranks.
    pub fn global_batch(&self) -> usize {
        self.global_batch
    }

    /// Samples of an epoch of each part, by the number that [`Draw::part`] gives.
    pub fn part_lens(&self) -> Vec<u64> {
        self.layout.parts.iter().map(Part::rows).collect()
    }

    /// The sizes in pixels that batches may have, one a bucket.
    pub fn sizes(&self) -> Vec<Bucket> {
        self.layout.buckets.iter().map(|bucket| bucket.size).collect()
    }

    /// The size of every picture of `step`, in pixels.
    pub fn size(&self, step: u64) -> Bucket {
        self.layout.buckets[self.layout.steps.at(step).0].size
    }

    /// The samples of `step` that are `share`'s, in the order that it computes them.
    ///
    /// Step `s` has the positions `s * global_batch ..`. They are sorted by source and lane before they are dealt out, so
    /// that a rank meets few of both.
    pub fn draws(&self, step: u64, share: &Share) -> Vec<Draw> {
        let seats = self.seats(step);
        let first = step * self.global_batch as u64;
        let own = &seats[share.of(seats.len())];
        own.iter()
            .map(|seat| {
                let part = &self.layout.parts[seat.part];
                let (epoch, id) = part.at(self.seed, seat.part as u32, seat.index, &self.layout.members);
                Draw {
                    position: first + seat.place as u64,
                    part: seat.part,
                    epoch,
                    id,
                }
            })
            .collect()
    }

    fn seats(&self, step: u64) -> Vec<Seat> {
        let (bucket, turn) = self.layout.steps.at(step);
        let stream = &self.layout.buckets[bucket];
        let first = turn * self.global_batch as u64;
        let mut seats: Vec<Seat> = (0..self.global_batch)
            .map(|place| {
                let (source, index) = stream.sources.at(first + place as u64);
                let part = stream.parts[source];
                Seat {
                    part,
                    lane: self.layout.parts[part].lane(index),
                    place,
                    index,
                }
            })
            .collect();
        seats.sort_unstable();
        seats
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::members::Members;
    use crate::part::BlockRows;
    use crate::philox::{SampleRng, Stream};
    use crate::subset::Subset;

    fn layout(rows: u64, window: u64, lanes: u64) -> Arc<Layout> {
        let size = Bucket { width: 8, height: 8 };
        let starts = (0..rows).step_by(3);
        let block = |start: u64| BlockRows {
            ids: start..(start + 3).min(rows),
            source: 0,
            size,
        };
        Arc::new(Layout::new(
            starts.map(block).collect(),
            Members::All,
            None,
            window,
            lanes,
        ))
    }

    #[test]
    fn every_epoch_meets_every_sample_once_for_any_number() {
        for rows in [1, 2, 3, 7, 24, 100] {
            let order = SampleOrder::new(layout(rows, 16, 4), 9, rows as usize);
            for epoch in 0..4 {
                let draws = order.draws(epoch, &Share::ALL);
                assert!(draws.iter().all(|draw| draw.epoch == epoch));
                let ids: BTreeSet<u64> = draws.iter().map(|draw| draw.id).collect();
                assert_eq!(ids, (0..rows).collect());
            }
        }
    }

    #[test]
    fn epochs_and_seeds_have_orders_of_their_own() {
        for window in [16, 64] {
            let layout = layout(50, window, 4);
            let epoch = |seed, epoch| -> Vec<u64> {
                let order = SampleOrder::new(layout.clone(), seed, 50);
                order.draws(epoch, &Share::ALL).iter().map(|draw| draw.id).collect()
            };
            assert_ne!(epoch(1, 0), epoch(1, 1));
            assert_ne!(epoch(1, 0), epoch(2, 0));
            assert_eq!(epoch(1, 7), epoch(1, 7));
        }
    }

    #[test]
    fn a_batch_may_span_epochs() {
        let order = SampleOrder::new(layout(5, 16, 1), 3, 12);
        let draws = order.draws(0, &Share::ALL);
        let epochs: Vec<u64> = draws.iter().map(|draw| draw.epoch).collect();
        assert_eq!(epochs, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]);
    }

    #[test]
    fn the_order_of_one_window_is_the_one_that_the_docs_repeat_in_python() {
        let order = SampleOrder::new(layout(10, 4096, 8), 0x0123_4567_89ab_cdef, 10);
        let ids: Vec<u64> = order.draws(3, &Share::ALL).iter().map(|draw| draw.id).collect();
        assert_eq!(ids, [0, 8, 2, 3, 9, 4, 6, 7, 5, 1]);
    }

    /// Printed by the Python of `docs/data.md`: positions 40 to 79 of 50 rows in blocks of 3, windows of 16, 3 lanes.
    #[test]
    fn windows_and_lanes_are_those_of_the_python_in_the_docs() {
        const PYTHON: [u64; 40] = [
            22, 44, 0, 21, 48, 1, 23, 49, 31, 32, 34, 20, 7, 36, 48, 22, 33, 18, 6, 35, 19, 21, 37, 49, 23, 38, 43, 41,
            47, 8, 15, 46, 44, 16, 2, 39, 17, 1, 42, 45,
        ];
        let order = SampleOrder::new(layout(50, 16, 3), 0x0123_4567_89ab_cdef, 40);
        let mut draws = [1, 2].map(|step| order.draws(step, &Share::ALL)).concat();
        draws.sort_unstable_by_key(|draw| draw.position);
        let ids: Vec<u64> = draws[..40].iter().map(|draw| draw.id).collect();
        assert_eq!(ids, PYTHON);
        assert_eq!((draws[9].epoch, draws[10].epoch), (0, 1));
    }

    #[test]
    fn ranks_that_divide_the_lanes_read_no_block_of_another_within_a_window() {
        let order = SampleOrder::new(layout(384, 192, 8), 3, 32);
        for window in 0..2 {
            let mut readers: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
            for step in window * 6..(window + 1) * 6 {
                for rank in 0..4 {
                    let share = Share { rank, world_size: 4 };
                    for draw in order.draws(step, &share) {
                        readers.entry(draw.id / 3).or_default().insert(rank);
                    }
                }
            }
            assert!(readers.values().all(|ranks| ranks.len() == 1), "{readers:?}");
        }
    }

    /// A random dataset: sources, buckets, blocks, part of the rows, windows, lanes, weights.
    struct Case {
        layout: Arc<Layout>,
        blocks: Vec<BlockRows>,
        subset: Subset,
        global_batch: usize,
        seed: u64,
    }

    impl Case {
        fn random(rng: &mut SampleRng) -> Self {
            let (sources, sizes) = (1 + rng.below(3) as usize, 1 + rng.below(3));
            let mut blocks = Vec::new();
            let mut end = 0;
            for source in 0..sources {
                for _ in 0..=rng.below(9) {
                    let rows = 1 + u64::from(rng.below(12));
                    let width = 8 * (1 + rng.below(sizes));
                    blocks.push(BlockRows {
                        ids: end..end + rows,
                        source,
                        size: Bucket { width, height: 8 },
                    });
                    end += rows;
                }
            }
            let part = (rng.below(2) == 0).then(|| 1 + u64::from(rng.below(end as u32)));
            let subset = Subset::new(end, part, u64::from(rng.word()));
            let weights: Vec<f64> = (0..sources).map(|_| 0.1 + f64::from(rng.uniform())).collect();
            let weights = (rng.below(2) == 0).then_some(&*weights);
            let window = 1 + u64::from(rng.below(40));
            let lanes = 1 + u64::from(rng.below(window as u32));
            let members = Members::of(&subset, end);
            Self {
                layout: Arc::new(Layout::new(blocks.clone(), members, weights, window, lanes)),
                blocks,
                subset,
                global_batch: 16 + rng.below(30) as usize,
                seed: u64::from(rng.word()),
            }
        }

        fn order(&self) -> SampleOrder {
            SampleOrder::new(self.layout.clone(), self.seed, self.global_batch)
        }

        /// Source and size of a row, and how many members have them.
        fn part(&self, id: u64) -> ((usize, Bucket), u64) {
            let of = |id: u64| {
                let block = self.blocks.iter().find(|block| block.ids.contains(&id));
                block.map(|block| (block.source, block.size))
            };
            let own = of(id);
            let members = (0..self.subset.len()).map(|index| self.subset.id(index));
            let count = members.filter(|member| of(*member) == own).count() as u64;
            (own.unwrap_or((usize::MAX, Bucket { width: 0, height: 0 })), count)
        }
    }

    #[test]
    fn for_any_data_and_any_worlds_the_ranks_together_are_the_stream_and_nothing_is_lost_or_repeated() {
        let mut rng = SampleRng::new(1, 0, 0, Stream::Noise);
        for number in 0..150 {
            let case = Case::random(&mut rng);
            let stream = case.order();
            // Passes of every sample, by source and size: (epoch, id) each once.
            let mut met: BTreeMap<(usize, Bucket), Vec<(u64, u64)>> = BTreeMap::new();
            for step in 0..40 {
                let alone = stream.draws(step, &Share::ALL);
                // Every few steps the run stops and goes on with another number of ranks, which know nothing of before.
                let world_size = 1 + (number + step as usize / 7) % 16;
                let resumed = case.order();
                let mut together = Vec::new();
                for rank in 0..world_size {
                    let own = resumed.draws(step, &Share { rank, world_size });
                    let each = case.global_batch / world_size;
                    assert!(
                        (each..=each + 1).contains(&own.len()),
                        "{number}: rank {rank} of {world_size}"
                    );
                    together.extend(own);
                }
                assert_eq!(together, alone, "case {number}, step {step}, {world_size} ranks");
                let positions: BTreeSet<u64> = alone.iter().map(|draw| draw.position).collect();
                let first = step * case.global_batch as u64;
                assert_eq!(positions, (first..first + case.global_batch as u64).collect());
                for draw in alone {
                    let (part, _) = case.part(draw.id);
                    assert_eq!(part.1, stream.size(step), "a batch of two sizes");
                    assert!(case.subset.index(draw.id).is_some(), "{} is not of the part", draw.id);
                    met.entry(part).or_default().push((draw.epoch, draw.id));
                }
            }
            for (part, passes) in met {
                let (_, members) = case.part(passes[0].1);
                let distinct: BTreeSet<_> = passes.iter().collect();
                assert_eq!(
                    distinct.len(),
                    passes.len(),
                    "case {number}: {part:?} repeats a sample in an epoch"
                );
                let whole = passes.len() as u64 / members;
                let of_whole = passes.iter().filter(|(epoch, _)| *epoch < whole).count() as u64;
                assert_eq!(
                    of_whole,
                    whole * members,
                    "case {number}: {part:?} lost a sample of an epoch"
                );
            }
        }
    }

    #[test]
    fn sources_have_the_share_of_their_weight_and_buckets_that_of_their_rows() {
        let size = |width| Bucket { width, height: 8 };
        let block = |ids: Range<u64>, source, width| BlockRows {
            ids,
            source,
            size: size(width),
        };
        // Source 0: 300 narrow rows, 100 wide ones; source 1: 40 narrow ones, wanted three times as often as source 0.
        let blocks = vec![block(0..300, 0, 8), block(300..400, 0, 16), block(400..440, 1, 8)];
        let shares = |weights: Option<&[f64]>| -> [f64; 3] {
            let layout = Layout::new(blocks.clone(), Members::All, weights, 64, 4);
            let order = SampleOrder::new(Arc::new(layout), 0, 20);
            let mut counts = [0; 3];
            for draw in (0..400).flat_map(|step| order.draws(step, &Share::ALL)) {
                let index = blocks.iter().position(|block| block.ids.contains(&draw.id));
                counts[index.unwrap_or(0)] += 1;
            }
            counts.map(|count| f64::from(count) / 8000.0)
        };
        let near = |found: [f64; 3], wanted: [f64; 3]| {
            let off = found.iter().zip(wanted).map(|(found, wanted)| (found - wanted).abs());
            assert!(off.fold(0.0, f64::max) < 0.005, "{found:?}, wanted {wanted:?}");
        };
        near(shares(Some(&[0.5, 1.5])), [0.1875, 0.0625, 0.75]);
        near(shares(None), [300.0 / 440.0, 100.0 / 440.0, 40.0 / 440.0]);
    }
}
