//! A share of right verdicts, its error and its interval.

use serde::{Deserialize, Serialize};

/// How often something was right, with its error and chance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Verdicts.
    pub n: usize,
    /// The share that was right, 0 to 1.
    pub mean: f64,
    /// Standard error of the mean, never 0: by Agresti and Coull's estimate, over as many verdicts as are independent
    /// (several of one prompt, or several pairs of one picture, are not).
    pub standard_error: f64,
    /// Lower end of the 95 % interval (Wilson).
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// The same prompts' mean over pictures of other scenes.
    pub chance: f64,
    /// Whether the mean is above chance by more than [`Score::ERRORS`] standard errors.
    pub beats_chance: bool,
}

/// Verdicts that are not independent of each other: of one prompt.
pub(super) struct Cluster {
    pub n: usize,
    pub right: usize,
    /// The sum of their chances.
    pub chance: f64,
}

impl Score {
    /// A score counts only where it is above chance by so many standard errors.
    pub const ERRORS: f64 = 5.0;

    // Chance was measured on `random` pictures. `None` without a verdict.
    pub(super) fn of(clusters: &[Cluster], random: usize) -> Option<Self> {
        let n: usize = clusters.iter().map(|cluster| cluster.n).sum();
        if n == 0 {
            return None;
        }
        let count = n as f64;
        let mean = clusters.iter().map(|cluster| cluster.right).sum::<usize>() as f64 / count;
        let chance = clusters.iter().map(|cluster| cluster.chance).sum::<f64>() / count;
        let independent = count / design_effect(clusters, mean);
        let standard_error = agresti_coull_error(mean, independent);
        let (low, high) = wilson(mean, independent);
        let chance_error = agresti_coull_error(chance, random as f64);
        Some(Self {
            n,
            mean,
            standard_error,
            low,
            high,
            chance,
            beats_chance: mean - chance > Self::ERRORS * standard_error.hypot(chance_error),
        })
    }
}

// How much wider the error is than that of independent verdicts (Kish); never below 1.
fn design_effect(clusters: &[Cluster], mean: f64) -> f64 {
    let spread: f64 = clusters
        .iter()
        .map(|cluster| (cluster.right as f64 - mean * cluster.n as f64).powi(2))
        .sum();
    let binomial: f64 = clusters
        .iter()
        .map(|cluster| cluster.n as f64 * mean * (1.0 - mean))
        .sum();
    if binomial > 0.0 {
        (spread / binomial).max(1.0)
    } else {
        1.0
    }
}

// Two more right and two more wrong: an error for means of 0 and 1 too.
fn agresti_coull_error(mean: f64, n: f64) -> f64 {
    let mean = (mean * n + 2.0) / (n + 4.0);
    (mean * (1.0 - mean) / (n + 4.0)).sqrt()
}

fn wilson(mean: f64, n: f64) -> (f64, f64) {
    const Z: f64 = 1.959_964;
    let square = Z * Z / n;
    let centre = (mean + square / 2.0) / (1.0 + square);
    let reach = Z / (1.0 + square) * (mean * (1.0 - mean) / n + square / (4.0 * n)).sqrt();
    ((centre - reach).max(0.0), (centre + reach).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilsons_interval_and_the_error_are_as_published() {
        // Newcombe (1998), table I: 81 of 263 and 0 of 20.
        let (low, high) = wilson(81.0 / 263.0, 263.0);
        assert!(
            (low - 0.2553).abs() < 1e-4 && (high - 0.3662).abs() < 1e-4,
            "{low} {high}"
        );
        let (low, high) = wilson(0.0, 20.0);
        assert!(low == 0.0 && (high - 0.1611).abs() < 1e-4, "{low} {high}");
        assert!((agresti_coull_error(0.0, 20.0) - (2.0 / 24.0 * 22.0 / 24.0 / 24.0_f64).sqrt()).abs() < 1e-12);
    }
}
