//! Loss by group, for sweeps whose runs cost about the same.

use super::super::Report;
use super::super::axis::{Axis, Scale};
use super::super::chart::{Chart, ChartMark, LegendEntry, LegendKey};
use super::super::drawing::{Fill, Mark};
use super::super::figure::Figure;
use super::super::group::{Group, MEAN_NOTE, Mean};
use super::super::ink::Ink;
use super::super::numbers::loss;
use super::{LEAST_RATIO, mark_of, measured, ratio};

const MOST_GROUPS: usize = 24;
/// Names that fit under the plot on a phone, in letters.
const MOST_LETTERS: usize = 36;
/// Single runs stand this far left of their mean.
const BESIDE: f64 = 0.12;

pub fn figure(report: &Report) -> Option<Figure> {
    let groups: Vec<(Group, Mean)> = Group::of(&report.runs)
        .into_iter()
        .filter_map(|group| group.loss(&report.runs).map(|mean| (group, mean)))
        .collect();
    let is_ladder = ratio(measured(report).iter().map(|run| run.3)) >= LEAST_RATIO;
    if is_ladder || !(2..=MOST_GROUPS).contains(&groups.len()) {
        return None;
    }
    let mut marks = Vec::new();
    let mut losses = Vec::new();
    for (i, (group, mean)) in groups.iter().enumerate() {
        for run in group.runs.iter().filter(|_| group.runs.len() > 1) {
            let Some(value) = report.runs[*run].loss else { continue };
            losses.push(value);
            marks.push(ChartMark::Dot {
                at: (i as f64 - BESIDE, value),
                error: None,
                ink: Ink::Kind(i),
                fill: Fill::Hollow,
                mark: Some(mark_of(*run, &report.runs[*run])),
            });
        }
        let ends = mean
            .ends
            .map_or_else(String::new, |(low, high)| format!(" ± {}", loss((high - low) / 2.0)));
        losses.extend(
            [mean.value]
                .into_iter()
                .chain(mean.ends.into_iter().flat_map(|(low, high)| [low, high])),
        );
        marks.push(ChartMark::Dot {
            at: (i as f64, mean.value),
            error: mean.ends,
            ink: Ink::Kind(i),
            fill: Fill::Full,
            mark: Some(Mark {
                runs: group.runs.clone(),
                tip: format!(
                    "{}\nmean loss {}{ends}\nruns: {}",
                    group.label,
                    loss(mean.value),
                    mean.runs
                ),
            }),
        });
    }
    let letters: usize = groups.iter().map(|(group, _)| group.label.chars().count()).sum();
    let (names, legend) = if letters <= MOST_LETTERS {
        (
            groups.iter().map(|(group, _)| group.label.clone()).collect(),
            Vec::new(),
        )
    } else {
        numbered(&groups)
    };
    Some(Figure {
        id: "loss-group",
        link: "Loss",
        heading: "Loss",
        note: format!("Validation loss of each group: rings are runs, dots their mean. {MEAN_NOTE}"),
        charts: vec![(
            String::new(),
            Chart {
                title: "Validation loss by group".to_owned(),
                x: Axis::names("", names),
                y: Axis::around("validation loss", Scale::Linear, losses),
                marks,
                legend,
            },
        )],
    })
}

/// Numbers under the plot, and a legend that names them.
fn numbered(groups: &[(Group, Mean)]) -> (Vec<String>, Vec<LegendEntry>) {
    let entries = groups.iter().enumerate().map(|(i, (group, _))| LegendEntry {
        label: format!("{} {}", i + 1, group.label),
        ink: Ink::Kind(i),
        key: LegendKey::Dot,
    });
    ((1..=groups.len()).map(|i| i.to_string()).collect(), entries.collect())
}
