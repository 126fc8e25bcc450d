//! Losses and what prompts gain by group, for sweeps whose runs cost about the same.

use super::super::Report;
use super::super::axis::{Axis, Scale};
use super::super::chart::{Chart, ChartMark, LegendEntry, LegendKey};
use super::super::drawing::{Fill, Mark};
use super::super::figure::Figure;
use super::super::group::{Group, MEAN_NOTE, Mean};
use super::super::ink::Ink;
use super::super::numbers::loss;
use super::super::run::ReportRun;
use super::{LEAST_RATIO, mark_of, measured, ratio};

const MOST_GROUPS: usize = 24;
/// Names that fit under the plot on a phone, in letters.
const MOST_LETTERS: usize = 36;
/// Single runs stand this far left of their mean.
const BESIDE: f64 = 0.12;

/// What is drawn of runs and groups.
struct Quantity {
    id: &'static str,
    /// In the page's list of figures, and over the figure.
    name: &'static str,
    /// Along the axis.
    axis: &'static str,
    note: &'static str,
    of_run: fn(&ReportRun) -> Option<f64>,
    of_group: fn(&Group, &[ReportRun]) -> Option<Mean>,
}

pub fn loss_figure(report: &Report) -> Option<Figure> {
    figure(
        report,
        &Quantity {
            id: "loss-group",
            name: "Loss",
            axis: "validation loss",
            note: "Validation loss of each group: rings are runs, dots their mean.",
            of_run: |run| run.loss,
            of_group: Group::loss,
        },
    )
}

pub fn gain_figure(report: &Report) -> Option<Figure> {
    figure(
        report,
        &Quantity {
            id: "gain-group",
            name: "Prompt gain",
            axis: "prompt gain",
            note: "By how much each group's prompts lower its validation loss, against the empty caption: rings are runs, dots their mean.",
            of_run: |run| run.prompt_gain,
            of_group: Group::prompt_gain,
        },
    )
}

fn figure(report: &Report, quantity: &Quantity) -> Option<Figure> {
    let groups: Vec<(Group, Mean)> = Group::of(&report.runs)
        .into_iter()
        .filter_map(|group| (quantity.of_group)(&group, &report.runs).map(|mean| (group, mean)))
        .collect();
    let is_ladder = ratio(measured(report).iter().map(|run| run.3)) >= LEAST_RATIO;
    if is_ladder || !(2..=MOST_GROUPS).contains(&groups.len()) {
        return None;
    }
    let mut marks = Vec::new();
    let mut values = Vec::new();
    for (i, (group, mean)) in groups.iter().enumerate() {
        for run in group.runs.iter().filter(|_| group.runs.len() > 1) {
            let Some(value) = (quantity.of_run)(&report.runs[*run]) else {
                continue;
            };
            values.push(value);
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
        values.extend(
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
                    "{}\nmean {} {}{ends}\nruns: {}",
                    group.label,
                    quantity.axis,
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
        id: quantity.id,
        link: quantity.name,
        heading: quantity.name,
        note: format!("{} {MEAN_NOTE}", quantity.note),
        charts: vec![(
            String::new(),
            Chart {
                title: format!("{} by group", quantity.name),
                x: Axis::names("", names),
                y: Axis::around(quantity.axis, Scale::Linear, values),
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
