//! Training curves.

use super::super::Report;
use super::super::axis::{Axis, Scale};
use super::super::chart::{Chart, ChartMark, LegendEntry, LegendKey};
use super::super::drawing::Stroke;
use super::super::figure::Figure;
use super::super::ink::Ink;
use super::super::numbers::count;
use super::super::run::CurveSample;
use super::super::shade::Shades;
use super::mark_of;

/// Corners of a curve on the page.
const CORNERS: usize = 120;
/// Curves beyond which lines are thin.
const FEW: usize = 30;
/// Shares of losses between which the axis lies: the first steps are far above all others.
const SHOWN: (f64, f64) = (0.0, 0.85);

pub fn figure(report: &Report) -> Option<Figure> {
    let sizes = Shades::of(
        report
            .runs
            .iter()
            .filter(|run| run.curve.len() > 1)
            .filter_map(|run| run.n),
    );
    let mut marks = Vec::new();
    let (mut compute, mut losses) = (Vec::new(), Vec::new());
    for (place, run) in report.runs.iter().enumerate() {
        let points = thinned(&run.curve);
        if points.len() < 2 {
            continue;
        }
        compute.extend(points.iter().map(|point| point.0));
        losses.extend(points.iter().map(|point| point.1));
        marks.push(ChartMark::Line {
            points,
            ink: run.n.map_or(Ink::Kind(0), |n| sizes.ink(n)),
            width: if report.runs.len() > FEW { 0.75 } else { 1.5 },
            stroke: Stroke::Solid,
            mark: Some(mark_of(place, run)),
        });
    }
    if marks.is_empty() {
        return None;
    }
    losses.sort_by(f64::total_cmp);
    let at = |share: f64| losses[(share * (losses.len() - 1) as f64) as usize];
    let legend: Vec<LegendEntry> = sizes.legend(|n| format!("N {}", count(n)), LegendKey::Line);
    Some(Figure {
        id: "training",
        link: "Training",
        heading: "Training curves",
        note: "Training loss of each run against the compute spent so far. The highest losses of the first steps may lie above \
               the plot."
            .to_owned(),
        charts: vec![(
            String::new(),
            Chart {
                title: "Training loss against compute".to_owned(),
                x: Axis::around("training compute C so far, FLOPs", Scale::LogPower, compute),
                y: Axis::around("training loss", Scale::Linear, [at(SHOWN.0), at(SHOWN.1)]),
                marks,
                legend,
            },
        )],
    })
}

/// At most [`CORNERS`] points, evenly in log compute, each the mean of those it stands for.
fn thinned(curve: &[CurveSample]) -> Vec<(f64, f64)> {
    let points: Vec<(f64, f64)> = curve
        .iter()
        .map(|sample| (sample.c, sample.loss))
        .filter(|(c, loss)| c.is_finite() && *c > 0.0 && loss.is_finite())
        .collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return points;
    };
    if points.len() <= CORNERS || last.0 <= first.0 {
        return points;
    }
    let bin = |c: f64| ((c / first.0).ln() / (last.0 / first.0).ln() * (CORNERS - 1) as f64).round() as usize;
    points
        .chunk_by(|a, b| bin(a.0) == bin(b.0))
        .map(|bin| {
            let count = bin.len() as f64;
            (
                (bin.iter().map(|point| point.0.ln()).sum::<f64>() / count).exp(),
                bin.iter().map(|point| point.1).sum::<f64>() / count,
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_keeps_its_ends_and_its_mean() {
        let curve: Vec<CurveSample> = (1..=5000)
            .map(|step| CurveSample {
                c: f64::from(step) * 1e12,
                loss: 1.0 + 1.0 / f64::from(step),
            })
            .collect();
        let points = thinned(&curve);
        assert!(points.len() <= CORNERS && points.len() > 40);
        assert!((points[0].1 - 2.0).abs() < 1e-9 && (points[points.len() - 1].1 - 1.0002).abs() < 1e-4);
    }
}
