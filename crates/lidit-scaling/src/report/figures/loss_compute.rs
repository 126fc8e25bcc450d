//! Loss against compute: a line for each size, and the law's best.

use super::super::Report;
use super::super::axis::{Axis, Scale};
use super::super::chart::{Chart, ChartMark, LegendEntry, LegendKey};
use super::super::drawing::{Fill, Stroke};
use super::super::figure::Figure;
use super::super::group::Group;
use super::super::ink::Ink;
use super::super::numbers::count;
use super::super::shade::Shades;
use super::{LEAST_RATIO, error_bar, mark_of, measured, ratio, with_errors};

/// Runs of one size that are joined.
const LEAST_CURVE: usize = 3;

pub fn figure(report: &Report) -> Option<Figure> {
    let runs = measured(report);
    let groups = Group::of(&report.runs).len();
    // One cost for all: `by_group` shows more.
    if runs.is_empty() || groups > 1 && ratio(runs.iter().map(|run| run.3)) < LEAST_RATIO {
        return None;
    }
    let sizes = Shades::of(runs.iter().map(|run| run.1));
    let mut marks = Vec::new();
    let mut legend = sizes.legend(|n| format!("N {}", count(n)), LegendKey::Dot);
    law(report, &mut marks, &mut legend);
    fronts(report, &mut marks, &mut legend);
    for i in 0..sizes.values().len() {
        let mut line: Vec<(f64, f64)> = runs
            .iter()
            .filter(|run| sizes.index(run.1) == i)
            .map(|run| (run.3, run.4))
            .collect();
        // Sizes that happen to be alike in two budgets are no curve.
        if line.len() < LEAST_CURVE {
            continue;
        }
        line.sort_by(|a, b| a.0.total_cmp(&b.0));
        marks.push(ChartMark::Line {
            points: line,
            ink: sizes.ink(sizes.values()[i]),
            width: 1.0,
            stroke: Stroke::Solid,
            mark: None,
        });
    }
    for (place, n, _, c, loss) in &runs {
        marks.push(ChartMark::Dot {
            at: (*c, *loss),
            error: error_bar(&report.runs[*place]),
            ink: sizes.ink(*n),
            fill: Fill::Full,
            mark: Some(mark_of(*place, &report.runs[*place])),
        });
    }
    let curve = report.fit.iter().flat_map(|fit| &fit.curve);
    let compute = runs.iter().map(|run| run.3).chain(curve.clone().map(|point| point.c));
    let losses = with_errors(report, &runs).chain(curve.map(|point| point.loss));
    let chart = Chart {
        title: "Validation loss against training compute".to_owned(),
        x: Axis::around("training compute C, FLOPs", Scale::LogPower, compute),
        y: Axis::around("validation loss", Scale::Linear, losses),
        marks,
        legend,
    };
    Some(Figure {
        id: "loss-compute",
        link: "Compute",
        heading: "Loss against compute",
        note: format!(
            "Each dot is a run; runs of one size are joined. Bars are 95 % intervals of the measurement.{}",
            if report.fit.as_ref().is_some_and(|fit| fit.joint.is_some()) {
                " The law's line is the best loss that any size reaches with this compute, with its 95 % band; right of the \
                 last runs it is a forecast."
            } else {
                ""
            }
        ),
        charts: vec![(String::new(), chart)],
    })
}

/// The best loss that the joint law sees for each compute.
fn law(report: &Report, marks: &mut Vec<ChartMark>, legend: &mut Vec<LegendEntry>) {
    let Some(fit) = report.fit.as_ref().filter(|fit| !fit.curve.is_empty()) else {
        return;
    };
    let bands = fit
        .curve
        .iter()
        .filter_map(|point| point.band.map(|band| (point.c, band.low, band.high)));
    marks.push(ChartMark::Band {
        points: bands.collect(),
        ink: Ink::Law,
    });
    marks.push(ChartMark::Line {
        points: fit.curve.iter().map(|point| (point.c, point.loss)).collect(),
        ink: Ink::Law,
        width: 2.0,
        stroke: Stroke::Solid,
        mark: None,
    });
    legend.push(LegendEntry {
        label: "joint law, best split".to_owned(),
        ink: Ink::Law,
        key: LegendKey::Line,
    });
}

/// The minima of the isoFLOP parabolas and the line through them.
fn fronts(report: &Report, marks: &mut Vec<ChartMark>, legend: &mut Vec<LegendEntry>) {
    let Some(isoflop) = report.fit.as_ref().and_then(|fit| fit.isoflop.as_ref()) else {
        return;
    };
    let ends = [isoflop.budgets.first(), isoflop.budgets.last()];
    marks.push(ChartMark::Line {
        points: ends
            .into_iter()
            .flatten()
            .map(|budget| (budget.c, isoflop.loss.at(budget.c)))
            .collect(),
        ink: Ink::Law,
        width: 1.5,
        stroke: Stroke::Dashed,
        mark: None,
    });
    for budget in &isoflop.budgets {
        marks.push(ChartMark::Dot {
            at: (budget.c, budget.loss),
            error: None,
            ink: Ink::Law,
            fill: Fill::Hollow,
            mark: None,
        });
    }
    legend.push(LegendEntry {
        label: "isoFLOP minima".to_owned(),
        ink: Ink::Law,
        key: LegendKey::Ring,
    });
    legend.push(LegendEntry {
        label: "power law through them, without a floor".to_owned(),
        ink: Ink::Law,
        key: LegendKey::Dashed,
    });
}
