//! Sets of row numbers, kept as runs.

use serde::{Deserialize, Serialize};

/// Row numbers of the input, ascending, as runs of `[first, count]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Positions(Vec<(u64, u64)>);

impl Positions {
    /// Adds a number higher than all before.
    pub fn push(&mut self, position: u64) {
        match self.0.last_mut() {
            Some((first, count)) if *first + *count == position => *count += 1,
            _ => self.0.push((position, 1)),
        }
    }

    /// Whether a number is among them.
    pub fn contains(&self, position: u64) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= position);
        after > 0 && position < self.0[after - 1].0 + self.0[after - 1].1
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// All of several sets that share no number.
    pub fn union<'a>(sets: impl Iterator<Item = &'a Self>) -> Self {
        let mut runs: Vec<(u64, u64)> = sets.flat_map(|set| set.0.iter().copied()).collect();
        runs.sort_unstable();
        let mut all = Self::default();
        for (first, count) in runs {
            match all.0.last_mut() {
                Some((before, length)) if *before + *length == first => *length += count,
                _ => all.0.push((first, count)),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(numbers: &[u64]) -> Positions {
        let mut positions = Positions::default();
        for number in numbers {
            positions.push(*number);
        }
        positions
    }

    #[test]
    fn runs_hold_what_was_put_in() {
        let numbers = [0, 1, 2, 5, 9, 10];
        let positions = of(&numbers);
        assert_eq!(positions.0, [(0, 3), (5, 1), (9, 2)]);
        for number in 0..12 {
            assert_eq!(positions.contains(number), numbers.contains(&number), "{number}");
        }
        assert_eq!(positions.len(), 6);
        assert!(!Positions::default().contains(0));
    }

    #[test]
    fn a_union_is_sorted_and_joined() {
        let union = Positions::union([of(&[1, 4]), of(&[0, 2, 3]), of(&[])].iter());
        assert_eq!(union.0, [(0, 5)]);
    }
}
