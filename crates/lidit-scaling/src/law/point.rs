//! A finished run, as the law sees it.

use serde::{Deserialize, Serialize};

/// A finished run, as the law sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// What the run is called.
    pub name: String,
    /// Trainable parameters.
    pub n: f64,
    /// Image tokens seen.
    pub d: f64,
    /// `C_model`: FLOPs of the trained network, forward and backward, without the frozen encoders.
    pub c: f64,
    /// Validation loss.
    pub loss: f64,
    /// Standard error of the loss.
    pub se: Option<f64>,
    /// Unique samples in the data.
    pub u: Option<f64>,
    /// The run's seed.
    pub seed: Option<u64>,
}
