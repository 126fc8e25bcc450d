//! Scores by category: against size where the sweep has sizes, else by group.

use std::collections::BTreeSet;

use super::super::Report;
use super::super::axis::{Axis, Scale};
use super::super::chart::{Chart, ChartMark, LegendEntry, LegendKey};
use super::super::drawing::{Fill, Mark, Stroke};
use super::super::figure::Figure;
use super::super::group::{Group, MEAN_NOTE, Mean};
use super::super::ink::Ink;
use super::super::numbers::{count, percent};
use super::super::shade::Shades;
use super::{LEAST_RATIO, ratio};

/// How far apart amounts of data stand, as a share of the axis.
const BESIDE: f64 = 0.08;

pub fn figure(report: &Report) -> Option<Figure> {
    let categories: BTreeSet<&String> = report.runs.iter().flat_map(|run| run.scores.keys()).collect();
    if categories.is_empty() {
        return None;
    }
    let scored = report.runs.iter().filter(|run| !run.scores.is_empty());
    let against_size = ratio(scored.filter_map(|run| run.n)) > LEAST_RATIO;
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
        link: "Scores",
        heading: if against_size { "Scores against size" } else { "Scores" },
        note: format!(
            "Share of facts that the judge finds in the pictures, by category: means over seeds. {MEAN_NOTE}{}",
            if against_size {
                " Colours are amounts of data, a little beside each other."
            } else {
                ""
            }
        ),
        charts: charts.collect(),
    })
}

/// Means over seeds; amounts of data stand a little beside each other and are joined.
fn by_size(report: &Report, category: &str) -> Chart {
    let scored: Vec<Scored> = Group::of(&report.runs)
        .into_iter()
        .filter_map(|group| {
            let run = &report.runs[*group.runs.first()?];
            let mean = group.score(&report.runs, category)?;
            Some(Scored {
                n: run.n?,
                d: run.d.unwrap_or(f64::NAN),
                mean,
                group,
            })
        })
        .collect();
    let tokens = Shades::of(scored.iter().map(|scored| scored.d));
    let sizes = || scored.iter().map(|scored| scored.n);
    let (low, high) = (sizes().fold(f64::INFINITY, f64::min), sizes().fold(0.0, f64::max));
    let mut marks = Vec::new();
    chance_line(report, category, (low, high), &mut marks);
    let last = tokens.values().len().saturating_sub(1).max(1) as f64;
    let at = |scored: &Scored| {
        let share = tokens.index(scored.d) as f64 / last - 0.5;
        (scored.n * (high / low).powf(BESIDE * share), scored.mean.value)
    };
    for (i, d) in tokens.values().iter().enumerate() {
        let mut points: Vec<(f64, f64)> = scored
            .iter()
            .filter(|scored| tokens.index(scored.d) == i)
            .map(at)
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        marks.push(ChartMark::Line {
            points,
            ink: tokens.ink(*d),
            width: 1.0,
            stroke: Stroke::Solid,
            mark: None,
        });
    }
    for one in &scored {
        marks.push(ChartMark::Dot {
            at: at(one),
            error: one.mean.ends,
            ink: tokens.ink(one.d),
            fill: Fill::Full,
            mark: Some(group_mark(&one.group, category, &one.mean)),
        });
    }
    Chart {
        title: format!("{category}: score against size"),
        x: Axis::around("trainable parameters N", Scale::LogCount, sizes()),
        y: Axis::share("score", ends(report)),
        marks,
        legend: with_chance(tokens.legend(|d| format!("D {}", count(d)), LegendKey::Dot)),
    }
}

/// The ends of all scores' intervals, so that categories share their axis.
fn ends(report: &Report) -> impl Iterator<Item = f64> {
    report
        .runs
        .iter()
        .flat_map(|run| run.scores.values())
        .map(|score| score.high)
}

/// A group that has a score.
struct Scored {
    n: f64,
    d: f64,
    mean: Mean,
    group: Group,
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
            at: (i as f64, mean.value),
            error: mean.ends,
            ink,
            fill: Fill::Full,
            mark: Some(group_mark(group, category, mean)),
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
        y: Axis::share("score", ends(report)),
        marks,
        legend: with_chance(legend),
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

fn group_mark(group: &Group, category: &str, mean: &Mean) -> Mark {
    let ends = mean.ends.map_or_else(String::new, |(low, high)| {
        format!(" ({} to {})", percent(low), percent(high))
    });
    let runs = if mean.runs == 1 { "run" } else { "runs" };
    Mark {
        runs: group.runs.clone(),
        tip: format!(
            "{}\n{category} {}{ends}\n{} {runs}",
            group.label,
            percent(mean.value),
            mean.runs
        ),
    }
}

fn with_chance(mut legend: Vec<LegendEntry>) -> Vec<LegendEntry> {
    legend.push(LegendEntry {
        label: "chance".to_owned(),
        ink: Ink::Muted,
        key: LegendKey::Dashed,
    });
    legend
}
