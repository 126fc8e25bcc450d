//! One file a figure.

mod by_group;
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
            by_group::loss_figure(self),
            by_group::gain_figure(self),
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

/// Sizes or costs that differ by less are of variants of one network: with and without refiners they differ 1.8 times.
const LEAST_RATIO: f64 = 2.0;

/// The largest over the smallest; 1 of none.
fn ratio(values: impl Iterator<Item = f64>) -> f64 {
    let (low, high) = values.fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), value| {
        (low.min(value), high.max(value))
    });
    if high > 0.0 { high / low } else { 1.0 }
}

/// A run, as its marks name it.
fn mark_of(place: usize, run: &ReportRun) -> Mark {
    let sizes = [
        ("N", run.n.map(count)),
        ("D", run.d.map(count)),
        ("C", run.c.map(power)),
    ];
    let sizes: Vec<String> = sizes
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name} {}", value?)))
        .collect();
    let measured = run.loss.map(|value| {
        let error = run.se.map(|se| format!(" ± {}", loss(1.96 * se))).unwrap_or_default();
        format!("loss {}{error}", loss(value))
    });
    let lines = [Some(run.name.clone()), Some(sizes.join(" · ")), measured];
    let lines: Vec<String> = lines.into_iter().flatten().filter(|line| !line.is_empty()).collect();
    Mark {
        runs: vec![place],
        tip: lines.join("\n"),
    }
}

/// `(place, n, d, c, loss)`.
type Measured = (usize, f64, f64, f64, f64);

/// Runs with a size, data, compute and loss.
fn measured(report: &Report) -> Vec<Measured> {
    report
        .runs
        .iter()
        .enumerate()
        .filter_map(|(place, run)| Some((place, run.n?, run.d?, run.c?, run.loss?)))
        .filter(|(_, n, d, c, loss)| [n, d, c, loss].iter().all(|value| value.is_finite() && **value > 0.0))
        .collect()
}

/// Losses and the ends of their error bars.
fn with_errors(report: &Report, runs: &[Measured]) -> impl Iterator<Item = f64> {
    runs.iter().flat_map(|run| {
        let (low, high) = error_bar(&report.runs[run.0]).unwrap_or((run.4, run.4));
        [low, high]
    })
}

fn error_bar(run: &ReportRun) -> Option<(f64, f64)> {
    let (loss, half) = (run.loss?, 1.96 * run.se?);
    Some((loss - half, loss + half))
}
