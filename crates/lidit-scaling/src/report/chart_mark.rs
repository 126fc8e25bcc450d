//! What stands in a plot.

use super::drawing::{Fill, Mark, Stroke};
use super::ink::Ink;

/// Something at values of the axes.
#[derive(Clone, Debug, PartialEq)]
pub enum ChartMark {
    /// A line.
    Line {
        /// Its corners.
        points: Vec<(f64, f64)>,
        /// Its colour.
        ink: Ink,
        /// Its width in pixels.
        width: f64,
        /// Whether it is dashed.
        stroke: Stroke,
        /// What it stands for.
        mark: Option<Mark>,
    },
    /// What lies between two lines over the same x: `(x, low, high)`.
    Band {
        /// Its edges.
        points: Vec<(f64, f64, f64)>,
        /// Its colour.
        ink: Ink,
    },
    /// A dot, with the ends of its error bar.
    Dot {
        /// Where.
        at: (f64, f64),
        /// Ends of the error bar, along y.
        error: Option<(f64, f64)>,
        /// Its colour.
        ink: Ink,
        /// How it is filled.
        fill: Fill,
        /// What it stands for.
        mark: Option<Mark>,
    },
    /// A cell of two axes of names.
    Cell {
        /// Column and row.
        at: (usize, usize),
        /// Its colour.
        ink: Ink,
        /// What is written in it.
        text: String,
        /// What it stands for.
        mark: Mark,
    },
}
