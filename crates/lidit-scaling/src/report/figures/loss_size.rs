//! Loss against size: at equal compute where the sweep has budgets, else at equal data.

use super::super::Report;
use super::super::axis::{Axis, Scale};
use super::super::chart::{Chart, ChartMark, LegendEntry, LegendKey};
use super::super::drawing::{Fill, Stroke};
use super::super::figure::Figure;
use super::super::ink::Ink;
use super::super::numbers::{count, power};
use super::super::shade::Shades;
use super::{LEAST_RATIO, Measured, error_bar, mark_of, measured, ratio, with_errors};
use crate::law::{IsoFlop, JointFit};

const CURVE_POINTS: usize = 40;

pub fn figure(report: &Report) -> Option<Figure> {
    let runs = measured(report);
    let sizes = Shades::of(runs.iter().map(|run| run.1));
    if ratio(runs.iter().map(|run| run.1)) < LEAST_RATIO {
        return None;
    }
    let fit = report.fit.as_ref();
    let isoflop = fit.and_then(|fit| fit.isoflop.as_ref());
    let joint = fit.and_then(|fit| fit.joint.as_ref());
    let by_budget = isoflop.is_some();
    let tolerance = fit.map_or(0.05, |fit| fit.options.tolerance);
    let key = |run: &Measured| if by_budget { run.3 } else { run.2 };
    let shades = if by_budget {
        Shades::within(runs.iter().map(key), tolerance)
    } else {
        Shades::of(runs.iter().map(key))
    };
    let mut legend = if by_budget {
        shades.legend(|c| format!("C {}", power(c)), LegendKey::Dot)
    } else {
        shades.legend(|d| format!("D {}", count(d)), LegendKey::Dot)
    };
    let mut marks = match (isoflop, joint) {
        (Some(isoflop), _) => parabolas(isoflop, &shades, &mut legend),
        (None, Some(joint)) => law_lines(joint, &shades, &sizes, &mut legend),
        (None, None) => Vec::new(),
    };
    for run in &runs {
        marks.push(ChartMark::Dot {
            at: (run.1, run.4),
            error: error_bar(&report.runs[run.0]),
            ink: shades.ink(key(run)),
            fill: Fill::Full,
            mark: Some(mark_of(run.0, &report.runs[run.0])),
        });
    }
    let (heading, note) = if by_budget {
        (
            "Loss against size at equal compute",
            "Each colour is a compute budget; lines are parabolas of loss in log N, rings their minima. Left of the ring a \
             model is too small for its budget, right of it too large.",
        )
    } else {
        (
            "Loss against size at equal data",
            "Each colour is an amount of data; lines are the joint law, which the dots should follow.",
        )
    };
    let chart = Chart {
        title: heading.to_owned(),
        x: Axis::around("trainable parameters N", Scale::LogCount, runs.iter().map(|run| run.1)),
        y: Axis::around("validation loss", Scale::Linear, with_errors(report, &runs)),
        marks,
        legend,
    };
    Some(Figure {
        id: "loss-size",
        link: "Size",
        heading,
        note: note.to_owned(),
        charts: vec![(String::new(), chart)],
    })
}

fn parabolas(fit: &IsoFlop, shades: &Shades, legend: &mut Vec<LegendEntry>) -> Vec<ChartMark> {
    let mut marks = Vec::new();
    for budget in &fit.budgets {
        let ink = shades.ink(budget.c);
        marks.push(line(between(budget.n_low, budget.n_high, |n| budget.at(n)), ink));
        marks.push(ChartMark::Dot {
            at: (budget.n_opt, budget.loss),
            error: None,
            ink,
            fill: Fill::Hollow,
            mark: None,
        });
    }
    legend.push(LegendEntry {
        label: "minimum".to_owned(),
        ink: Ink::Text,
        key: LegendKey::Ring,
    });
    marks
}

fn law_lines(fit: &JointFit, shades: &Shades, sizes: &Shades, legend: &mut Vec<LegendEntry>) -> Vec<ChartMark> {
    legend.push(LegendEntry {
        label: "joint law".to_owned(),
        ink: Ink::Text,
        key: LegendKey::Line,
    });
    let (low, high) = (sizes.values()[0], sizes.values()[sizes.values().len() - 1]);
    shades
        .values()
        .iter()
        .map(|d| line(between(low, high, |n| fit.law.loss(n, *d)), shades.ink(*d)))
        .collect()
}

fn line(points: Vec<(f64, f64)>, ink: Ink) -> ChartMark {
    ChartMark::Line {
        points,
        ink,
        width: 1.5,
        stroke: Stroke::Solid,
        mark: None,
    }
}

fn between(low: f64, high: f64, at: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    (0..CURVE_POINTS)
        .map(|i| low * (high / low).powf(i as f64 / (CURVE_POINTS - 1) as f64))
        .map(|n| (n, at(n)))
        .collect()
}
