//! Whether the law foretells runs larger than those it was fitted to.

use serde::{Deserialize, Serialize};

use super::interval::Interval;
use super::joint::JointFit;
use super::selection::{Measurement, same};

/// A fit without the largest runs, and what it says of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeaveOut {
    /// What was left out: `largest N` or `largest C`.
    pub left_out: String,
    /// Points that were left for the fit.
    pub points: usize,
    /// The points left out. Empty when the rest is too little.
    pub held_out: Vec<HeldOut>,
    /// Why nothing was foretold.
    pub problem: Option<String>,
}

/// A point that the law has not seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Its runs.
    pub names: Vec<String>,
    /// Trainable parameters.
    pub n: f64,
    /// Image tokens.
    pub d: f64,
    /// `C_model` in FLOPs.
    pub c: f64,
    /// The measured loss.
    pub loss: f64,
    /// The law's.
    pub predicted: f64,
    /// Where a run should lie, with 95 %.
    pub band: Option<Interval>,
    /// `100 (predicted / measured - 1)`.
    pub error_percent: f64,
    /// Whether the measured loss lies in the band.
    pub inside: Option<bool>,
}

impl LeaveOut {
    /// Leaves out all points of the largest size.
    pub fn largest_size(points: &[Measurement], draws: usize, seed: u64) -> Self {
        let largest = points.iter().map(|point| point.n).fold(0.0, f64::max);
        Self::of("largest N", points, |point| same(point.n, largest), draws, seed)
    }

    /// Leaves out all points of the largest compute budget.
    pub fn largest_compute(points: &[Measurement], tolerance: f64, draws: usize, seed: u64) -> Self {
        let largest = points.iter().map(|point| point.c).fold(0.0, f64::max);
        let is_largest = |point: &Measurement| point.c * (1.0 + tolerance) >= largest;
        Self::of("largest C", points, is_largest, draws, seed)
    }

    fn of(
        left_out: &str,
        points: &[Measurement],
        is_left_out: impl Fn(&Measurement) -> bool,
        draws: usize,
        seed: u64,
    ) -> Self {
        let (out, rest): (Vec<Measurement>, Vec<Measurement>) = points.iter().cloned().partition(is_left_out);
        let (held_out, problem) = match JointFit::of(&rest, draws, seed) {
            Ok(fit) => (out.iter().map(|point| HeldOut::of(point, &fit)).collect(), None),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        Self {
            left_out: left_out.to_owned(),
            points: rest.len(),
            held_out,
            problem,
        }
    }
}

impl HeldOut {
    fn of(point: &Measurement, fit: &JointFit) -> Self {
        let predicted = fit.law.loss(point.n, point.d);
        let band = fit.prediction(point.n, point.d);
        Self {
            names: point.names.clone(),
            n: point.n,
            d: point.d,
            c: point.c,
            loss: point.loss,
            predicted,
            band,
            error_percent: 100.0 * (predicted / point.loss - 1.0),
            inside: band.map(|band| band.contains(point.loss)),
        }
    }
}
