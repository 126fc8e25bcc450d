//! Random draws of residuals.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// The residuals of a fit, to be dealt out anew over its points.
pub struct Residuals {
    /// In units of each point's scale, widened for the degrees of freedom that the fit used up.
    standard: Vec<f64>,
    scales: Vec<f64>,
}

impl Residuals {
    /// `residuals` of a fit with `parameters` parameters. With a standard error of every point (`scales`) a residual is
    /// dealt out in units of it; without, all points are alike. No spread is left of as many points as parameters.
    pub fn new(residuals: &[f64], scales: Option<Vec<f64>>, parameters: usize) -> Self {
        let count = residuals.len();
        let widened = if count > parameters {
            (count as f64 / (count - parameters) as f64).sqrt()
        } else {
            0.0
        };
        let scales = scales.unwrap_or_else(|| vec![1.0; count]);
        let standard = residuals
            .iter()
            .zip(&scales)
            .map(|(residual, scale)| widened * residual / scale)
            .collect();
        Self { standard, scales }
    }

    /// One residual for each point.
    pub fn deal(&self, draws: &mut Draws) -> Vec<f64> {
        self.scales
            .iter()
            .map(|scale| scale * self.standard[draws.below(self.standard.len())])
            .collect()
    }

    /// One residual for a point that was not in the fit: a point of the fit lends it its scale.
    pub fn one(&self, draws: &mut Draws) -> f64 {
        self.scales[draws.below(self.scales.len())] * self.standard[draws.below(self.standard.len())]
    }
}

/// A seeded source of draws.
pub struct Draws(ChaCha8Rng);

impl Draws {
    /// Draws that depend on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    fn below(&mut self, count: usize) -> usize {
        // The bias is below 2^-32 for fewer than 2^32 residuals.
        ((u128::from(self.0.next_u64()) * count as u128) >> 64) as usize
    }

    /// Uniform between 0 and 1.
    #[cfg(test)]
    pub fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}
