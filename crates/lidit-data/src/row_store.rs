//! Encoded rows between the disk and the decoder, within a bound on memory.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::dataset::BlockKey;
use crate::open_source::Row;

/// A row as it was read, or why it can't be.
pub(crate) type ReadRow = Arc<Result<Row, String>>;

/// The rows that coming steps need: which are to be read, in which order, and those that are here.
///
/// Rows of a block are read together. When they don't fit, those that are needed last are dropped and read again.
pub(crate) struct RowStore {
    rows: HashMap<u64, Entry>,
    // Rows to be read, by block, and the blocks in the order in which they are needed.
    wanted: HashMap<BlockKey, Vec<u64>>,
    queue: VecDeque<BlockKey>,
    // Rows that are here, by the step that needs them next.
    here: BTreeSet<(u64, u64)>,
    bytes: usize,
    read_rows: usize,
    read_bytes: usize,
    room: usize,
}

struct Entry {
    block: BlockKey,
    /// The steps that need it, ascending.
    steps: VecDeque<u64>,
    row: Option<ReadRow>,
}

impl RowStore {
    /// A store of at most about `room` bytes.
    pub fn new(room: usize) -> Self {
        Self {
            rows: HashMap::new(),
            wanted: HashMap::new(),
            queue: VecDeque::new(),
            here: BTreeSet::new(),
            bytes: 0,
            read_rows: 0,
            read_bytes: 0,
            room,
        }
    }

    /// Notes that `step` needs a row. Steps come in order.
    pub fn want(&mut self, step: u64, id: u64, block: impl FnOnce() -> BlockKey) {
        if let Some(entry) = self.rows.get_mut(&id) {
            entry.steps.push_back(step);
            return;
        }
        let block = block();
        let entry = Entry {
            block,
            steps: VecDeque::from([step]),
            row: None,
        };
        self.rows.insert(id, entry);
        self.read_later(block, id);
    }

    /// The next block to read with its wanted rows, where there is room for them beside `under_way` rows being read.
    pub fn next_read(&mut self, under_way: usize) -> Option<(BlockKey, Vec<u64>)> {
        let block = *self.queue.front()?;
        let rows = self.wanted.get(&block).map_or(0, Vec::len).min(self.most_rows());
        if self.bytes + (under_way + rows) * self.mean_bytes() > self.room {
            return None;
        }
        self.queue.pop_front();
        self.take_wanted(block)
    }

    /// As [`next_read`](Self::next_read), for the block of a row that can't wait; `None` if it is not waiting to be read.
    pub fn read_now(&mut self, id: u64) -> Option<(BlockKey, Vec<u64>)> {
        let block = self.rows.get(&id)?.block;
        self.queue.retain(|queued| *queued != block);
        self.take_wanted(block)
    }

    /// Takes in rows that were read; what doesn't fit beside them and is needed after `step` is dropped.
    pub fn put(&mut self, rows: Vec<(u64, Result<Row, String>)>, step: u64) {
        for (id, row) in rows {
            let size = size_of_row(&row);
            (self.read_rows, self.read_bytes) = (self.read_rows + 1, self.read_bytes + size);
            let Some(entry) = self.rows.get_mut(&id) else { continue };
            let Some(next) = entry.steps.front() else { continue };
            self.here.insert((*next, id));
            entry.row = Some(Arc::new(row));
            self.bytes += size;
        }
        while self.bytes > self.room {
            let Some(&(last, id)) = self.here.last().filter(|(last, _)| *last > step) else {
                return;
            };
            self.here.remove(&(last, id));
            let dropped = self
                .rows
                .get_mut(&id)
                .and_then(|entry| Some((entry.block, entry.row.take()?)));
            if let Some((block, row)) = dropped {
                self.bytes -= size_of_row(&row);
                self.read_later(block, id);
            }
        }
    }

    /// Whether a row is not here.
    pub fn is_missing(&self, id: u64) -> bool {
        self.rows.get(&id).is_none_or(|entry| entry.row.is_none())
    }

    /// A row that is here, for the step that needs it next; with its last use it leaves the store.
    pub fn take(&mut self, id: u64) -> Option<ReadRow> {
        let entry = self.rows.get_mut(&id)?;
        let row = entry.row.clone()?;
        let step = entry.steps.pop_front()?;
        self.here.remove(&(step, id));
        if let Some(next) = entry.steps.front() {
            self.here.insert((*next, id));
        } else {
            self.bytes -= size_of_row(&row);
            self.rows.remove(&id);
        }
        Some(row)
    }

    // The rows of a block that are needed first, as many as are read at once; the others wait.
    fn take_wanted(&mut self, block: BlockKey) -> Option<(BlockKey, Vec<u64>)> {
        let mut ids = self.wanted.remove(&block)?;
        ids.sort_unstable_by_key(|id| (self.rows.get(id).and_then(|entry| entry.steps.front()), *id));
        let most = self.most_rows();
        if ids.len() > most {
            let rest = ids.split_off(most);
            self.wanted.insert(block, rest);
            self.queue.push_back(block);
        }
        Some((block, ids))
    }

    // A block may be a whole file: what is read at once must leave room for what is here.
    fn most_rows(&self) -> usize {
        const LEAST: usize = 64;
        (self.room / 4 / self.mean_bytes()).max(LEAST)
    }

    fn read_later(&mut self, block: BlockKey, id: u64) {
        let ids = self.wanted.entry(block).or_default();
        if ids.is_empty() {
            self.queue.push_back(block);
        }
        ids.push(id);
    }

    /// Of a row, over those read so far; before the first, a guess that lets reading begin.
    pub fn mean_bytes(&self) -> usize {
        const FIRST_GUESS: usize = 64 << 10;
        self.read_bytes
            .checked_div(self.read_rows)
            .unwrap_or(FIRST_GUESS)
            .max(1)
    }
}

fn size_of_row(row: &Result<Row, String>) -> usize {
    const OVERHEAD: usize = 256;
    let Ok(row) = row else { return OVERHEAD };
    let text: usize = row.captions.all().map(String::len).sum();
    OVERHEAD + text + row.image.as_ref().map_or(0, bytes::Bytes::len)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;

    use super::*;
    use crate::captions::Captions;

    fn row(bytes: usize) -> Row {
        Row {
            image: Some(Bytes::from(vec![1; bytes])),
            captions: Captions::default(),
        }
    }

    #[test]
    fn rows_of_a_block_are_read_together_in_the_order_of_need() {
        let mut store = RowStore::new(1 << 20);
        for (step, id, block) in [(0, 5, 1), (0, 9, 2), (1, 6, 1), (1, 5, 1)] {
            store.want(step, id, || (0, block));
        }
        assert_eq!(store.next_read(0), Some(((0, 1), vec![5, 6])));
        assert_eq!(store.read_now(9), Some(((0, 2), vec![9])));
        assert_eq!((store.read_now(9), store.next_read(0)), (None, None));
        store.put(vec![(5, Ok(row(10))), (6, Ok(row(10)))], 0);
        assert_eq!([5, 6, 9].map(|id| store.is_missing(id)), [false, false, true]);
        store.put(vec![(9, Err("gone".into()))], 0);
        assert!(store.take(9).unwrap().is_err());
        // Twice wanted, twice given, then gone.
        assert!(store.take(5).is_some() && store.take(5).is_some() && store.take(5).is_none());
    }

    #[test]
    fn without_room_what_is_needed_last_is_read_again() {
        let mut store = RowStore::new(3000);
        for id in 0..4 {
            store.want(id, id, || (0, 7));
        }
        let (_, ids) = store.next_read(0).unwrap_or_else(|| store.read_now(0).unwrap());
        store.put(ids.into_iter().map(|id| (id, Ok(row(1000)))).collect(), 0);
        assert_eq!([0, 1, 2, 3].map(|id| store.is_missing(id)), [false, false, true, true]);
        assert!(store.take(0).is_some() && store.take(1).is_some());
        assert_eq!(store.read_now(2), Some(((0, 7), vec![2, 3])));
        store.put(vec![(2, Ok(row(1000))), (3, Ok(row(1000)))], 2);
        assert!(store.take(2).is_some() && store.take(3).is_some());
        assert_eq!((store.bytes, store.rows.len(), store.here.len()), (0, 0, 0));
    }

    #[test]
    fn of_a_block_larger_than_the_room_the_rows_needed_first_are_read_first() {
        let mut store = RowStore::new(1 << 20);
        for id in 0..200 {
            store.want(id / 10, 199 - id, || (0, 0));
        }
        let (_, ids) = store.read_now(0).unwrap();
        let first: Vec<u64> = ids.iter().copied().take(10).collect();
        assert_eq!((ids.len(), first), (64, (190..200).collect()));
        // The others are still to be read.
        let (_, more) = store.read_now(0).unwrap();
        assert!(more.len() == 64 && more.iter().all(|id| !ids.contains(id)));
    }

    #[test]
    fn the_step_at_hand_stays_even_without_room() {
        let mut store = RowStore::new(100);
        for id in 0..3 {
            store.want(4, id, || (0, 0));
        }
        assert_eq!(store.next_read(0), None);
        let (_, ids) = store.read_now(0).unwrap();
        store.put(ids.into_iter().map(|id| (id, Ok(row(1000)))).collect(), 4);
        assert!((0..3).all(|id| !store.is_missing(id)));
    }
}
