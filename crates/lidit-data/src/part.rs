//! The rows of one source and one bucket, in the order of an epoch.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::bucket::Bucket;
use crate::members::Members;
use crate::permutation::KeyedPermutation;
use crate::philox::Stream;
use crate::window::{Slot, Windows};

/// A run of rows that are read at once: ids in the whole dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockRows {
    /// Its rows.
    pub ids: Range<u64>,
    /// Which source they are of.
    pub source: usize,
    /// The size that its pictures are cut to.
    pub size: Bucket,
}

/// The rows of one source that are cut to one size: an endless stream of its own, epoch after epoch.
#[derive(Debug)]
pub(crate) struct Part {
    /// Which source.
    pub source: usize,
    /// The size of its pictures.
    pub size: Bucket,
    blocks: Vec<Range<u64>>,
    windows: Windows,
    rows: u64,
    // The two epochs met last: a batch may span two, and reading ahead meets the next early.
    orders: Mutex<Vec<Arc<BlockOrder>>>,
}

/// The order of a part's blocks in an epoch.
#[derive(Debug)]
struct BlockOrder {
    seed: u64,
    epoch: u64,
    order: Vec<u32>,
    // Members before each block of the order.
    starts: Vec<u64>,
}

impl Part {
    /// The part that `blocks` make up, all of one source and size; none if no member is in them.
    pub fn new(blocks: &[BlockRows], members: &Members, window: u64, lanes: u64) -> Option<Self> {
        let first = blocks.first()?;
        let held = blocks.iter().filter(|block| members.count(block.ids.clone()) > 0);
        let held: Vec<Range<u64>> = held.map(|block| block.ids.clone()).collect();
        let rows = held.iter().map(|ids| members.count(ids.clone())).sum();
        (rows > 0).then(|| Self {
            source: first.source,
            size: first.size,
            blocks: held,
            windows: Windows::new(window, lanes, rows),
            rows,
            orders: Mutex::default(),
        })
    }

    /// Samples of an epoch.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The lane of an item of the part's endless stream.
    pub fn lane(&self, index: u64) -> u64 {
        self.windows.lane(index % self.rows)
    }

    /// The epoch and the id of an item of the part's endless stream. `part` is this part's number.
    pub fn at(&self, seed: u64, part: u32, index: u64, members: &Members) -> (u64, u64) {
        let (epoch, position) = (index / self.rows, index % self.rows);
        let Slot { place, .. } = self.windows.slot(seed, epoch, part, position);
        let order = self.block_order(seed, epoch, part, members);
        let turn = order.starts.partition_point(|start| *start <= place) - 1;
        let ids = self.blocks[order.order[turn] as usize].clone();
        (epoch, members.nth(ids, place - order.starts[turn]))
    }

    fn block_order(&self, seed: u64, epoch: u64, part: u32, members: &Members) -> Arc<BlockOrder> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = if self.windows.is_single() { 0 } else { epoch };
        if let Some(known) = orders.iter().find(|order| (order.seed, order.epoch) == (seed, wanted)) {
            return known.clone();
        }
        let order: Vec<u32> = if self.windows.is_single() {
            (0..self.blocks.len() as u32).collect()
        } else {
            let len = self.blocks.len() as u64;
            let permutation = KeyedPermutation::of_part(seed, Stream::Blocks, epoch, len, (part, 0));
            (0..len).map(|turn| permutation.at(turn) as u32).collect()
        };
        let mut before = 0;
        let starts = order.iter().map(|block| {
            let start = before;
            before += members.count(self.blocks[*block as usize].clone());
            start
        });
        let made = Arc::new(BlockOrder {
            seed,
            epoch: wanted,
            starts: starts.collect(),
            order,
        });
        orders.insert(0, made.clone());
        orders.truncate(2);
        made
    }
}
