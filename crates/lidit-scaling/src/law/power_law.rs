//! Straight lines in logarithms.

use serde::{Deserialize, Serialize};

use super::linear::least_squares;

/// `y = coefficient * x^exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PowerLaw {
    /// The factor before the power.
    pub coefficient: f64,
    /// The power.
    pub exponent: f64,
}

impl PowerLaw {
    /// Least squares on `log y` against `log x`; none of fewer than two different `x`.
    pub fn fit(points: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let (xs, ys): (Vec<f64>, Vec<f64>) = points.into_iter().map(|(x, y)| (x.ln(), y.ln())).unzip();
        let mean = xs.iter().sum::<f64>() / xs.len().max(1) as f64;
        let spread: f64 = xs.iter().map(|x| (x - mean).powi(2)).sum();
        if xs.len() < 2 || spread < 1e-12 {
            return None;
        }
        let rows: Vec<[f64; 2]> = xs.iter().map(|x| [1.0, x - mean]).collect();
        let [intercept, exponent] = least_squares(&rows, &ys)?;
        Some(Self {
            coefficient: (intercept - exponent * mean).exp(),
            exponent,
        })
    }

    /// The law's `y` at `x`.
    pub fn at(&self, x: f64) -> f64 {
        self.coefficient * x.powf(self.exponent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovers_a_power() {
        let law = PowerLaw::fit([1e18, 1e20, 1e21, 3e22].map(|c| (c, 0.0009 * f64::powf(c, 0.5681)))).unwrap();
        assert!((law.exponent - 0.5681).abs() < 1e-12 && (law.coefficient / 0.0009 - 1.0).abs() < 1e-9);
        assert_eq!(PowerLaw::fit([(1e18, 1.0), (1e18, 2.0)]), None);
    }
}
