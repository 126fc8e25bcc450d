//! How well an order shuffles, and what it costs to read.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use crate::dataset::Dataset;
use crate::error::DataError;
use crate::order::Share;

/// How an epoch's order mixes the rows, and how much each rank must read for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OrderReport {
    /// `data.shuffle_window`.
    pub window: u64,
    /// `data.lanes`.
    pub lanes: u64,
    /// Mean distance between a row's places in storage and in the epoch, over the number of rows; 1/3 for a full shuffle.
    pub mean_displacement: f64,
    /// Correlation of the places in storage of samples that follow each other; 0 for a full shuffle, 1 for none.
    pub neighbour_correlation: f64,
    /// Share of the pairs of samples in a batch that are of one block; for a full shuffle a block's share of the rows.
    pub same_block: f64,
    /// Rows of all blocks that ranks read over rows that they need, when each rank reads a block once a window.
    pub read_amplification: Vec<Amplification>,
}

/// What a world reads of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Amplification {
    /// Number of ranks.
    pub world_size: usize,
    /// Rows read over rows needed.
    pub rows: f64,
}

impl Dataset {
    /// Looks at the first epoch under other windows than the configured ones. Reads nothing.
    pub fn report(
        &self,
        seed: u64,
        global_batch: usize,
        (window, lanes): (u64, u64),
        worlds: &[usize],
    ) -> Result<OrderReport, DataError> {
        let order = self.order_in_windows(seed, global_batch, window, lanes)?;
        let steps = (self.len() / global_batch as u64).max(1);
        let blocks = self.block_starts();
        let block_of = |id: u64| blocks.partition_point(|start| *start <= id) - 1;
        let ids: Vec<Vec<u64>> = (0..steps)
            .map(|step| {
                let mut draws = order.draws(step, &Share::ALL);
                draws.sort_unstable_by_key(|draw| draw.position);
                draws.iter().map(|draw| draw.id).collect()
            })
            .collect();
        let flat: Vec<u64> = ids.iter().flatten().copied().collect();
        let read_amplification = worlds
            .iter()
            .filter(|world| **world <= global_batch)
            .map(|&world_size| {
                let mut read = HashSet::new();
                for step in 0..steps {
                    for rank in 0..world_size {
                        for draw in order.draws(step, &Share { rank, world_size }) {
                            read.insert((rank, draw.position / window, block_of(draw.id)));
                        }
                    }
                }
                let rows: u64 = read
                    .iter()
                    .map(|(_, _, block)| blocks[block + 1] - blocks[*block])
                    .sum();
                Amplification {
                    world_size,
                    rows: rows as f64 / flat.len() as f64,
                }
            });
        Ok(OrderReport {
            window,
            lanes,
            mean_displacement: mean_displacement(&flat, self.rows()),
            neighbour_correlation: neighbour_correlation(&flat),
            same_block: same_block(&ids, block_of),
            read_amplification: read_amplification.collect(),
        })
    }
}

fn mean_displacement(ids: &[u64], rows: u64) -> f64 {
    let place = |index: usize| index as f64 / ids.len() as f64;
    let moved = ids
        .iter()
        .enumerate()
        .map(|(index, id)| (*id as f64 / rows as f64 - place(index)).abs());
    moved.sum::<f64>() / ids.len() as f64
}

fn neighbour_correlation(ids: &[u64]) -> f64 {
    let mean = ids.iter().map(|id| *id as f64).sum::<f64>() / ids.len() as f64;
    let off = |id: &u64| *id as f64 - mean;
    let variance: f64 = ids.iter().map(|id| off(id).powi(2)).sum();
    let covariance: f64 = ids.windows(2).map(|pair| off(&pair[0]) * off(&pair[1])).sum();
    covariance / variance
}

fn same_block(batches: &[Vec<u64>], block_of: impl Fn(u64) -> usize) -> f64 {
    let pairs = |count: u64| (count * count.saturating_sub(1)) as f64;
    let mut found = 0.0;
    let mut all = 0.0;
    for batch in batches {
        let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
        for id in batch {
            *counts.entry(block_of(*id)).or_default() += 1;
        }
        found += counts.values().map(|count| pairs(*count)).sum::<f64>();
        all += pairs(batch.len() as u64);
    }
    found / all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::test_shards::{config, write_set};

    #[test]
    fn one_window_is_a_full_shuffle_and_small_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), 512, 64, 8);
        let dataset = Dataset::open(&config(folder.path())).unwrap();
        let report = |window, lanes| dataset.report(1, 16, (window, lanes), &[1, 2, 4, 64]).unwrap();
        let whole = report(512, 1);
        assert!((whole.mean_displacement - 1.0 / 3.0).abs() < 0.03, "{whole:?}");
        assert!(whole.neighbour_correlation.abs() < 0.12, "{whole:?}");
        // Expected 7 of 511.
        assert!((0.008..0.020).contains(&whole.same_block), "{whole:?}");
        let narrow = report(16, 1);
        // Every window is two blocks.
        assert!((narrow.same_block - 7.0 / 15.0).abs() < 1e-9, "{narrow:?}");
        // 64 ranks can't share a batch of 16.
        let worlds: Vec<usize> = whole.read_amplification.iter().map(|read| read.world_size).collect();
        assert_eq!(worlds, [1, 2, 4]);
        // Lanes give each rank blocks of its own; without them every rank reads everything.
        let rows =
            |report: &OrderReport| -> Vec<f64> { report.read_amplification.iter().map(|read| read.rows).collect() };
        assert_eq!(rows(&report(128, 4)), [1.0, 1.0, 1.0]);
        assert!(rows(&report(128, 1))[2] > 3.0);
    }
}
