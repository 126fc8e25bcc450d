//! The part of a dataset that a run may see.

use crate::permutation::KeyedPermutation;
use crate::philox::Stream;

/// Which rows of a dataset belong to the run: all, or a seeded part in which smaller parts are nested.
///
/// Sample ids are row numbers in the whole dataset, so a sample keeps its id, and with it its noise and its place in a
/// feature cache, whatever part it is met in.
#[derive(Clone, Copy, Debug)]
pub enum Subset {
    /// Every row; member `i` is row `i`.
    All {
        /// Rows of the dataset.
        rows: u64,
    },
    /// The first `len` rows of a keyed permutation: the part of 100 starts with the part of 10.
    Nested {
        /// The permutation of all rows, keyed by `data.subset_seed`.
        permutation: KeyedPermutation,
        /// How many of them belong.
        len: u64,
    },
}

impl Subset {
    /// The part of `max_samples` rows out of `rows`, or all of them.
    pub fn new(rows: u64, max_samples: Option<u64>, subset_seed: u64) -> Self {
        match max_samples {
            None => Self::All { rows },
            Some(len) => Self::Nested {
                permutation: KeyedPermutation::new(subset_seed, Stream::Subset, 0, rows),
                len: len.min(rows),
            },
        }
    }

    /// How many samples belong.
    pub fn len(&self) -> u64 {
        match self {
            Self::All { rows } => *rows,
            Self::Nested { len, .. } => *len,
        }
    }

    /// Whether nothing belongs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The id (row number in the whole dataset) of member `index`, which is below the length.
    pub fn id(&self, index: u64) -> u64 {
        match self {
            Self::All { .. } => index,
            Self::Nested { permutation, .. } => permutation.at(index),
        }
    }

    /// The ids of `count` members, spread evenly; of all, where there are not more.
    pub fn spread(&self, count: u64) -> Vec<u64> {
        let (len, count) = (u128::from(self.len()), u128::from(count.min(self.len())));
        (0..count).map(|i| self.id((i * len / count) as u64)).collect()
    }

    /// Which member the row `id` is, where it belongs.
    pub fn index(&self, id: u64) -> Option<u64> {
        let index = match self {
            Self::All { rows } => (id < *rows).then_some(id)?,
            Self::Nested { permutation, .. } => (id < permutation.len()).then(|| permutation.index_of(id))?,
        };
        (index < self.len()).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn ids(max_samples: Option<u64>, seed: u64) -> Vec<u64> {
        let subset = Subset::new(1000, max_samples, seed);
        (0..subset.len()).map(|index| subset.id(index)).collect()
    }

    #[test]
    fn a_larger_part_contains_the_smaller() {
        let (ten, hundred) = (ids(Some(10), 5), ids(Some(100), 5));
        assert_eq!(hundred[..10], ten);
        assert_eq!(hundred.iter().collect::<BTreeSet<_>>().len(), 100);
        assert!(hundred.iter().all(|id| *id < 1000));
    }

    #[test]
    fn a_spread_choice_has_members_only_each_once() {
        for subset in [Subset::new(50, None, 3), Subset::new(50, Some(20), 3)] {
            for count in [0, 1, 7, 20, 200] {
                let ids = subset.spread(count);
                assert_eq!(ids.len() as u64, count.min(subset.len()));
                assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
                assert!(ids.iter().all(|id| subset.index(*id).is_some()), "{ids:?}");
            }
        }
        assert_eq!(Subset::new(50, None, 3).spread(5), [0, 10, 20, 30, 40]);
    }

    #[test]
    fn a_row_knows_its_place_where_it_belongs() {
        for subset in [Subset::new(50, None, 3), Subset::new(50, Some(20), 3)] {
            for index in 0..subset.len() {
                assert_eq!(subset.index(subset.id(index)), Some(index));
            }
            let known = (0..60).filter(|id| subset.index(*id).is_some()).count() as u64;
            assert_eq!(known, subset.len());
        }
    }

    #[test]
    fn seeds_choose_other_parts_and_no_bound_takes_everything() {
        assert_ne!(ids(Some(10), 5), ids(Some(10), 6));
        assert_eq!(ids(None, 5), (0..1000).collect::<Vec<_>>());
        let whole: BTreeSet<u64> = ids(Some(1000), 5).into_iter().collect();
        assert_eq!(whole.len(), 1000);
    }
}
