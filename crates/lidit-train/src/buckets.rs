//! The parts in which flat space travels between ranks, and the thread that sends one while the next is made.

use std::ops::Range;
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use anyhow::Result;

/// Flat space in parts that travel one after the other: bucket k is the k-th slice of every rank's range, so that each
/// rank owns its share of every bucket.
///
/// Sums over ranks are elementwise and in rank order, and so is the update: results do not depend on the size.
#[derive(Clone, Debug)]
pub struct Buckets {
    ranges: Vec<Range<usize>>,
    slice: usize,
    count: usize,
}

impl Buckets {
    /// Buckets of about `elements` elements, over contiguous `ranges` of flat space, one a rank.
    pub fn new(ranges: Vec<Range<usize>>, elements: usize) -> Self {
        let slice = (elements / ranges.len().max(1)).max(1);
        let longest = ranges.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        Self {
            ranges,
            slice,
            count: longest.div_ceil(slice),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The slice of `bucket` that the `i`-th range has; empty where that range is shorter than others.
    pub fn slice(&self, bucket: usize, i: usize) -> Range<usize> {
        let range = &self.ranges[i];
        let at = |slices: usize| range.start.saturating_add(slices * self.slice).min(range.end);
        at(bucket)..at(bucket + 1)
    }

    /// All slices of `bucket`, ascending.
    pub fn slices(&self, bucket: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        (0..self.ranges.len()).map(move |i| self.slice(bucket, i))
    }
}

/// Contiguous ranges of the lengths `lens`, from 0 on.
pub fn packed(lens: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    lens.scan(0, |end, len| {
        let start = *end;
        *end += len;
        Some(start..*end)
    })
    .collect()
}

/// Makes `count` parts one after the other, and hands each to `send` on a thread of its own, which sends one while the
/// next is made. `take` gets what comes back, in the same order.
///
/// # Errors
/// The first failure of any of them; what comes after it is neither made nor sent.
pub fn overlapped<P: Send, R: Send>(
    count: usize,
    mut make: impl FnMut(usize) -> P,
    send: impl Fn(usize, P) -> Result<R> + Send,
    mut take: impl FnMut(usize, R),
) -> Result<()> {
    thread::scope(|scope| {
        // A part is handed over when the last one has been sent: at most two are held at once.
        let (made, to_send) = sync_channel(0);
        let (sent, to_take) = channel();
        scope.spawn(move || {
            for (i, part) in to_send {
                let result = send(i, part);
                let failed = result.is_err();
                if sent.send((i, result)).is_err() || failed {
                    return;
                }
            }
        });
        for i in 0..count {
            // Refused when the thread has ended: its failure is among the results.
            if made.send((i, make(i))).is_err() {
                break;
            }
            for (i, result) in to_take.try_iter() {
                take(i, result?);
            }
        }
        drop(made);
        for (i, result) in to_take {
            take(i, result?);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn buckets_cover_every_range_once_and_in_order() {
        for (lens, elements) in [
            (vec![10, 10, 9], 6),
            (vec![4096, 4096, 17], 1 << 20),
            (vec![5, 0], 3),
            (vec![7], 2),
            (vec![0], 8),
        ] {
            let ranges = packed(lens.iter().copied());
            let buckets = Buckets::new(ranges.clone(), elements);
            for (i, range) in ranges.iter().enumerate() {
                let slices: Vec<usize> = (0..buckets.count())
                    .flat_map(|bucket| buckets.slice(bucket, i))
                    .collect();
                assert_eq!(slices, range.clone().collect::<Vec<_>>(), "{lens:?} {elements}");
            }
            for bucket in 0..buckets.count() {
                let len: usize = buckets.slices(bucket).map(|slice| slice.len()).sum();
                assert!(
                    len > 0 && len <= elements.max(lens.len()),
                    "{lens:?}: bucket {bucket} has {len}"
                );
            }
        }
    }

    #[test]
    fn a_part_is_sent_while_the_next_is_made() {
        // Part i is only sent once part i + 1 is being made: without overlap this would never end.
        let (begun, making) = channel();
        let making = std::sync::Mutex::new(making);
        let mut taken = Vec::new();
        let outcome = overlapped(
            4,
            |i| {
                let _ = begun.send(i);
                i * i
            },
            |i, part| {
                let waits_for = (i + 1).min(3);
                let making = making.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
                while i < 3 && making.recv()? < waits_for {}
                Ok(part + 1)
            },
            |i, part| taken.push((i, part)),
        );
        assert!(outcome.is_ok());
        assert_eq!(taken, [(0, 1), (1, 2), (2, 5), (3, 10)]);
    }

    #[test]
    fn a_failure_ends_it() {
        let mut taken = Vec::new();
        let outcome = overlapped(
            9,
            |i| i,
            |_, i| {
                if i == 2 {
                    bail!("lost");
                }
                Ok(i)
            },
            |_, i| taken.push(i),
        );
        assert_eq!(outcome.map_err(|error| error.to_string()), Err("lost".into()));
        assert_eq!(taken, [0, 1]);
    }
}
