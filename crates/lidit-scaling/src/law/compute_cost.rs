//! What a table's runs cost.

use serde::{Deserialize, Serialize};

use super::power_law::PowerLaw;
use super::selection::Measurement;

/// What a token costs a parameter, from the table's own `c / (n d)`: 6 in the books, less or more in a network whose
/// modulation runs once a picture and whose attention grows with the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComputeCost {
    /// `k` of `C = k N D`: the geometric mean over the points.
    pub k: f64,
    /// The least over the points.
    pub k_low: f64,
    /// The most over the points.
    pub k_high: f64,
    /// `k' N^p` of `C = k' N^p D`: what a token costs a network of size `N`. `p` is 1 when `k` does not depend on the size,
    /// and taken to be for runs of a single size.
    pub per_token: PowerLaw,
}

impl ComputeCost {
    /// The cost over points, at least one.
    pub fn of(points: &[Measurement]) -> Self {
        let ratios: Vec<f64> = points.iter().map(|point| point.c / (point.n * point.d)).collect();
        let mean = ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64;
        let k = mean.exp();
        let linear = PowerLaw {
            coefficient: k,
            exponent: 1.0,
        };
        // A token can't cost a larger network less: such a table has other differences.
        let per_token = PowerLaw::fit(points.iter().map(|point| (point.n, point.c / point.d)));
        let per_token = per_token.filter(|law| law.exponent > 0.1).unwrap_or(linear);
        Self {
            k,
            k_low: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            k_high: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            per_token,
        }
    }
}
