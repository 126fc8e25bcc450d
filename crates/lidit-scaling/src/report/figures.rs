//! One file a figure.

mod heat_map;
mod loss_compute;
mod loss_size;
mod quartiles;
mod scores;
mod training;

use super::Report;
use super::drawing::Mark;
use super::figure::Figure;
use super::numbers::{count, loss, power};
use super::run::ReportRun;

impl Report {
    /// The figures that the runs have numbers for.
    pub fn figures(&self) -> Vec<Figure> {
        [
            loss_compute::figure(self),
            loss_size::figure(self),
            heat_map::figure(self),
            scores::figure(self),
            quartiles::figure(self),
            training::figure(self),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A run, as its marks name it.
fn mark_of(place: usize, run: &ReportRun) -> Mark {
    let mut tip = run.name.clone();
    let sizes = [
        ("N", run.n.map(count)),
        ("D", run.d.map(count)),
        ("C", run.c.map(power)),
    ];
    let sizes: Vec<String> = sizes
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name} {}", value?)))
        .collect();
    if !sizes.is_empty() {
        tip += &format!("\n{}", sizes.join(" · "));
    }
    if let Some(value) = run.loss {
        tip += &format!("\nloss {}", loss(value));
        if let Some(se) = run.se {
            tip += &format!(" ± {}", loss(1.96 * se));
        }
    }
    Mark { runs: vec![place], tip }
}

/// Runs with a size, data, compute and loss: `(place, n, d, c, loss)`.
fn measured(report: &Report) -> Vec<(usize, f64, f64, f64, f64)> {
    report
        .runs
        .iter()
        .enumerate()
        .filter_map(|(place, run)| Some((place, run.n?, run.d?, run.c?, run.loss?)))
        .filter(|(_, n, d, c, loss)| [n, d, c, loss].iter().all(|value| value.is_finite() && **value > 0.0))
        .collect()
}

fn error_bar(run: &ReportRun) -> Option<(f64, f64)> {
    let (loss, half) = (run.loss?, 1.96 * run.se?);
    Some((loss - half, loss + half))
}
