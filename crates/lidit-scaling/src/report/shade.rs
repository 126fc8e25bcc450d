//! Colours that follow sizes or names.

use super::chart::{LegendEntry, LegendKey};
use super::ink::Ink;

/// Entries of a legend beyond which values are named by their range only.
const MOST_ENTRIES: usize = 10;

/// Colours for values in their order, for instance sizes of models.
#[derive(Clone, Debug, PartialEq)]
pub struct Shades {
    values: Vec<f64>,
}

impl Shades {
    /// Colours for the values among `values` that differ by more than 1 %.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        Self::within(values, 0.01)
    }

    /// Colours for the values among `values` that differ by more than a share.
    pub fn within(values: impl IntoIterator<Item = f64>, tolerance: f64) -> Self {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        values.dedup_by(|next, kept| *next <= *kept * (1.0 + tolerance));
        Self { values }
    }

    /// The values that have a colour, upwards.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Which of the values it is.
    pub fn index(&self, value: f64) -> usize {
        self.values
            .partition_point(|kept| *kept <= value * 1.000_001)
            .saturating_sub(1)
    }

    /// The colour of a value.
    pub fn ink(&self, value: f64) -> Ink {
        let last = self.values.len().saturating_sub(1).max(1);
        Ink::Ordered(self.index(value) as f64 / last as f64)
    }

    /// What the colours mean; of many values the first, the middle and the last.
    pub fn legend(&self, name: impl Fn(f64) -> String, key: LegendKey) -> Vec<LegendEntry> {
        let count = self.values.len();
        let shown: Vec<usize> = if count <= MOST_ENTRIES {
            (0..count).collect()
        } else {
            vec![0, count / 4, count / 2, 3 * count / 4, count - 1]
        };
        shown
            .into_iter()
            .map(|i| LegendEntry {
                label: name(self.values[i]),
                ink: self.ink(self.values[i]),
                key,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_hardly_differ_share_a_colour() {
        let shades = Shades::of([2e6, 1e6, 1.005e6, 4e6]);
        assert_eq!(shades.values().len(), 3);
        assert_eq!(shades.ink(1e6), shades.ink(1.005e6));
        assert_eq!(
            (shades.ink(1e6), shades.ink(4e6)),
            (Ink::Ordered(0.0), Ink::Ordered(1.0))
        );
    }
}
