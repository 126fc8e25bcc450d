//! Scores by category: against size where the sweep has sizes, else by group.

use std::collections::BTreeSet;

use super::super::Report;
use super::super::axis::{Axis, Scale};
use super::super::chart::{Chart, ChartMark, LegendEntry, LegendKey};
use super::super::drawing::{Fill, Mark, Stroke};
use super::super::figure::Figure;
use super::super::group::Group;
use super::super::ink::Ink;
use super::super::numbers::{count, percent};
use super::super::run::Score;
use super::super::shade::Shades;
use super::mark_of;

/// Sizes that differ by less are variants of one network.
const LEAST_RATIO: f64 = 1.5;

pub fn figure(report: &Report) -> Option<Figure> {
    let categories: BTreeSet<&String> = report.runs.iter().flat_map(|run| run.scores.keys()).collect();
    if categories.is_empty() {
        return None;
    }
    let scored = report.runs.iter().filter(|run| !run.scores.is_empty());
    let sizes: Vec<f64> = scored.filter_map(|run| run.n).collect();
    let low = sizes.iter().copied().fold(f64::INFINITY, f64::min);
    let high = sizes.iter().copied().fold(0.0, f64::max);
    let against_size = high > low * LEAST_RATIO;
    let charts = categories.into_iter().map(|category| {
        let chart = if against_size {
            by_size(report, category)
        } else {
            by_group(report, category)
        };
        (category.clone(), chart)
    });
    Some(Figure {
        id: "scores",
        heading: if against_size { "Scores against size" } else { "Scores" },
        note: format!(
            "Share of facts that the judge finds in the pictures, by category, with 95 % intervals; the dashed line is \
             chance. {}",
            if against_size {
                "Colours are amounts of data."
            } else {
                "A dot is the mean over seeds, its bar the 95 % interval of their mean; one run has its own."
            }
        ),
        charts: charts.collect(),
    })
}

fn by_size(report: &Report, category: &str) -> Chart {
    let runs = || report.runs.iter().enumerate();
    let tokens = Shades::of(
        runs()
            .filter(|(_, run)| !run.scores.is_empty())
            .filter_map(|(_, run)| run.d),
    );
    let mut marks = Vec::new();
    let sizes = || {
        runs()
            .filter(|(_, run)| run.scores.contains_key(category))
            .filter_map(|(_, run)| run.n)
    };
    let (low, high) = sizes().fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), n| {
        (low.min(n), high.max(n))
    });
    chance_line(report, category, (low, high), &mut marks);
    for (place, run) in runs() {
        let (Some(n), Some(score)) = (run.n, run.scores.get(category)) else {
            continue;
        };
        marks.push(ChartMark::Dot {
            at: (n, score.mean),
            error: Some((score.low, score.high)),
            ink: run.d.map_or(Ink::Kind(0), |d| tokens.ink(d)),
            fill: Fill::Full,
            mark: Some(score_mark(mark_of(place, run), category, score)),
        });
    }
    Chart {
        title: format!("{category}: score against size"),
        x: Axis::around("trainable parameters N", Scale::LogCount, sizes()),
        y: Axis::share("score"),
        marks,
        legend: tokens.legend(|d| format!("D {}", count(d)), LegendKey::Dot),
    }
}

fn by_group(report: &Report, category: &str) -> Chart {
    let groups = Group::of(&report.runs);
    let scored: Vec<_> = groups
        .iter()
        .filter_map(|group| Some((group, group.score(&report.runs, category)?)))
        .collect();
    let mut marks = Vec::new();
    chance_line(report, category, (-0.5, scored.len() as f64 - 0.5), &mut marks);
    let mut legend = Vec::new();
    for (i, (group, mean)) in scored.iter().enumerate() {
        let ink = Ink::Kind(i);
        marks.push(ChartMark::Dot {
            at: (i as f64, mean.mean),
            error: mean.ends,
            ink,
            fill: Fill::Full,
            mark: Some(Mark {
                runs: group.runs.clone(),
                tip: format!(
                    "{}\n{category} {} ({} runs)",
                    group.label,
                    percent(mean.mean),
                    mean.runs
                ),
            }),
        });
        legend.push(LegendEntry {
            label: format!("{} {}", i + 1, group.label),
            ink,
            key: LegendKey::Dot,
        });
    }
    Chart {
        title: format!("{category}: score by group"),
        x: Axis::names("group", (1..=scored.len()).map(|i| i.to_string()).collect()),
        y: Axis::share("score"),
        marks,
        legend,
    }
}

fn chance_line(report: &Report, category: &str, (low, high): (f64, f64), marks: &mut Vec<ChartMark>) {
    let chance = report.runs.iter().find_map(|run| run.scores.get(category)?.chance);
    if let Some(chance) = chance {
        marks.push(ChartMark::Line {
            points: vec![(low, chance), (high, chance)],
            ink: Ink::Muted,
            width: 1.5,
            stroke: Stroke::Dashed,
            mark: None,
        });
    }
}

fn score_mark(mut mark: Mark, category: &str, score: &Score) -> Mark {
    let Score { mean, low, high, n, .. } = score;
    mark.tip += &format!(
        "\n{category} {} ({} to {}, {n} facts)",
        percent(*mean),
        percent(*low),
        percent(*high)
    );
    mark
}
