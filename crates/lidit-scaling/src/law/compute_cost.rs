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
    /// `p` of `C = k' N^p D`; 1 when `k` does not depend on the size. None of a single size.
    pub n_exponent: Option<f64>,
}

impl ComputeCost {
    /// The cost over points, at least one.
    pub fn of(points: &[Measurement]) -> Self {
        let ratios: Vec<f64> = points.iter().map(|point| point.c / (point.n * point.d)).collect();
        let mean = ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64;
        Self {
            k: mean.exp(),
            k_low: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            k_high: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            n_exponent: PowerLaw::fit(points.iter().map(|point| (point.n, point.c / point.d))).map(|law| law.exponent),
        }
    }
}
