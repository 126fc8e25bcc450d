//! The windows that an epoch is shuffled in, and the lanes that keep each rank's reading together.

use std::ops::Range;

use crate::permutation::KeyedPermutation;
use crate::philox::Stream;

/// How an epoch's rows, laid out block after block in the epoch's order of blocks, are shuffled: window after window,
/// each in lanes.
///
/// A window is a run of `size` rows, cut into `lanes` runs of equal length. Consecutive positions go round the lanes, and
/// each lane is shuffled by itself; so a rank that takes the same lanes of every batch reads one run of the window, whose
/// blocks no other rank needs. An epoch that fits into one window has one lane: a shuffle of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    size: u64,
    lanes: u64,
    rows: u64,
}

/// Where a position of an epoch leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The lane.
    pub lane: u64,
    /// The row, in the epoch's order of blocks.
    pub place: u64,
}

impl Windows {
    /// Windows of `size` rows with `lanes` lanes (at least 1 each) over an epoch of `rows` rows.
    pub fn new(size: u64, lanes: u64, rows: u64) -> Self {
        let lanes = if rows <= size { 1 } else { lanes.min(size) };
        Self { size, lanes, rows }
    }

    /// Whether there is only one: then the order of blocks makes no difference.
    pub fn is_single(&self) -> bool {
        self.rows <= self.size
    }

    /// Where `position` (below the number of rows) of an epoch leads. `part` tells apart streams of one seed.
    pub fn slot(&self, seed: u64, epoch: u64, part: u32, position: u64) -> Slot {
        let lane = self.lane(position);
        let run = self.run(position, lane);
        let number = position / self.size * self.lanes + lane;
        let permutation = KeyedPermutation::of_part(seed, Stream::Order, epoch, run.end - run.start, (part, number));
        let turn = position % self.size / self.lanes;
        Slot {
            lane,
            place: run.start + permutation.at(turn),
        }
    }

    /// The lane of a position: cheaper than the whole slot.
    pub fn lane(&self, position: u64) -> u64 {
        position % self.size % self.lanes
    }

    // The rows of a lane in the window of `position`.
    fn run(&self, position: u64, lane: u64) -> Range<u64> {
        let start = position / self.size * self.size;
        let len = (self.rows - start).min(self.size);
        let (each, more) = (len / self.lanes, len % self.lanes);
        let first = start + each * lane + more.min(lane);
        first..first + each + u64::from(lane < more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_a_permutation_for_any_sizes() {
        for rows in [1, 2, 5, 16, 17, 63, 64, 100] {
            for size in [1, 3, 16, 64, 1000] {
                for lanes in [1, 2, 5, 8, 64] {
                    let windows = Windows::new(size, lanes, rows);
                    let mut places: Vec<u64> = (0..rows).map(|p| windows.slot(7, 1, 0, p).place).collect();
                    for (position, place) in (0..).zip(&places) {
                        assert_eq!(position / size, place / size, "a row left its window");
                    }
                    places.sort_unstable();
                    assert_eq!(places, (0..rows).collect::<Vec<_>>(), "{rows} rows, {size}, {lanes}");
                }
            }
        }
    }

    #[test]
    fn a_lane_is_one_run_of_its_window() {
        let windows = Windows::new(64, 4, 200);
        for lane in 0..4 {
            let own = (64..128).filter(|p| windows.lane(*p) == lane);
            let places: Vec<u64> = own.map(|p| windows.slot(3, 0, 0, p).place).collect();
            let range = 64 + lane * 16..64 + (lane + 1) * 16;
            assert!(
                places.len() == 16 && places.iter().all(|place| range.contains(place)),
                "{places:?}"
            );
        }
    }

    #[test]
    fn windows_lanes_parts_and_epochs_are_shuffled_unlike_each_other() {
        let windows = Windows::new(64, 2, 256);
        let turns = |part, epoch, window: u64, lane: u64| -> Vec<u64> {
            let own = (0..32).map(|turn| window * 64 + turn * 2 + lane);
            own.map(|p| windows.slot(3, epoch, part, p).place % 32).collect()
        };
        let all = [
            turns(0, 0, 0, 0),
            turns(0, 0, 0, 1),
            turns(0, 0, 1, 0),
            turns(1, 0, 0, 0),
            turns(0, 1, 0, 0),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(all[..index].iter().all(|other| other != one), "{index}");
        }
    }
}
