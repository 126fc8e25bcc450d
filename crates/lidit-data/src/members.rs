//! Which rows the run sees, counted and found by place.

use std::ops::Range;

use rayon::prelude::*;

use crate::subset::Subset;

/// The rows of a [`Subset`] in the order of their ids: how many lie in a range, and which is the n-th there. A bit a row,
/// where not all belong.
#[derive(Clone, Debug)]
pub(crate) enum Members {
    /// Every row.
    All,
    /// The rows whose bit is set.
    Some(Vec<u64>),
}

impl Members {
    /// The members of `subset`, out of `rows` rows.
    pub fn of(subset: &Subset, rows: u64) -> Self {
        match subset {
            Subset::All { .. } => Self::All,
            Subset::Nested { .. } => {
                let words = (0..rows.div_ceil(64)).into_par_iter().map(|word| {
                    let ids = word * 64..((word + 1) * 64).min(rows);
                    ids.filter(|id| subset.index(*id).is_some())
                        .fold(0_u64, |bits, id| bits | 1 << (id % 64))
                });
                Self::Some(words.collect())
            }
        }
    }

    /// How many rows of `ids` belong.
    pub fn count(&self, ids: Range<u64>) -> u64 {
        match self {
            Self::All => ids.end - ids.start,
            Self::Some(_) => self.words(ids).map(|(_, bits)| u64::from(bits.count_ones())).sum(),
        }
    }

    /// The id of member `place` of `ids`, from 0. `place` is below the count.
    pub fn nth(&self, ids: Range<u64>, place: u64) -> u64 {
        if let Self::All = self {
            return ids.start + place;
        }
        let mut left = place;
        for (first, mut bits) in self.words(ids) {
            let count = u64::from(bits.count_ones());
            if left >= count {
                left -= count;
                continue;
            }
            for _ in 0..left {
                bits &= bits - 1;
            }
            return first + u64::from(bits.trailing_zeros());
        }
        unreachable!("a place beyond the members of a block")
    }

    // The words that hold `ids`, bits outside cleared, each with the id of its lowest bit.
    fn words(&self, ids: Range<u64>) -> impl Iterator<Item = (u64, u64)> + '_ {
        let bits: &[u64] = match self {
            Self::All => &[],
            Self::Some(bits) => bits,
        };
        (ids.start / 64..ids.end.div_ceil(64)).map(move |word| {
            let first = word * 64;
            let mut own = bits[word as usize];
            if first < ids.start {
                own &= u64::MAX << (ids.start - first);
            }
            if first + 64 > ids.end {
                own &= u64::MAX >> (first + 64 - ids.end);
            }
            (first, own)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_counted_and_found_in_any_range() {
        for max_samples in [None, Some(1), Some(60), Some(199), Some(200)] {
            let subset = Subset::new(200, max_samples, 3);
            let members = Members::of(&subset, 200);
            for ids in [0..200, 0..1, 63..65, 64..128, 5..190, 199..200, 70..70] {
                let expected: Vec<u64> = ids.clone().filter(|id| subset.index(*id).is_some()).collect();
                assert_eq!(members.count(ids.clone()), expected.len() as u64, "{ids:?}");
                for (place, id) in (0..).zip(expected) {
                    assert_eq!(members.nth(ids.clone(), place), id, "{place} of {ids:?}");
                }
            }
        }
    }
}
