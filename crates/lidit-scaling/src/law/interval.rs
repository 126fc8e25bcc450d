//! What a value may lie between.

use serde::{Deserialize, Serialize};

/// The ends of a 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// 2.5 % of the draws are below.
    pub low: f64,
    /// 2.5 % of the draws are above.
    pub high: f64,
}

impl Interval {
    /// The 2.5th and 97.5th percentile of draws, interpolated between neighbours; none of fewer than 20 draws.
    pub fn of(draws: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut draws: Vec<f64> = draws.into_iter().filter(|draw| draw.is_finite()).collect();
        if draws.len() < 20 {
            return None;
        }
        draws.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (draws.len() - 1) as f64;
            let below = place.floor() as usize;
            let above = (below + 1).min(draws.len() - 1);
            draws[below] + (draws[above] - draws[below]) * (place - below as f64)
        };
        Some(Self {
            low: at(0.025),
            high: at(0.975),
        })
    }

    /// Whether a value lies inside.
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_neighbours() {
        let interval = Interval::of((0..=100).rev().map(f64::from)).unwrap();
        assert!((interval.low - 2.5).abs() < 1e-12 && (interval.high - 97.5).abs() < 1e-12);
        assert_eq!(Interval::of((0..19).map(f64::from)), None);
    }
}
