//! Scores by the position in the prompt.

use super::super::Report;
use super::super::axis::Axis;
use super::super::chart::{Chart, ChartMark, LegendEntry, LegendKey};
use super::super::drawing::{Fill, Mark, Stroke};
use super::super::figure::Figure;
use super::super::group::{Group, MEAN_NOTE, Mean};
use super::super::ink::Ink;
use super::super::numbers::{self, percent};
use super::super::shade::Shades;

const QUARTERS: [&str; 4] = ["1st", "2nd", "3rd", "4th"];
/// Dots of neighbouring groups stand this far beside each other, all groups together at most [`MOST_BESIDE`].
const BESIDE: f64 = 0.06;
const MOST_BESIDE: f64 = 0.5;
/// Kinds of colours.
const MOST_KINDS: usize = 8;

pub fn figure(report: &Report) -> Option<Figure> {
    let groups: Vec<(Group, Vec<Option<Mean>>)> = Group::of(&report.runs)
        .into_iter()
        .map(|group| {
            let means = (0..QUARTERS.len())
                .map(|quartile| group.quartile(&report.runs, quartile))
                .collect();
            (group, means)
        })
        .filter(|(_, means): &(Group, Vec<Option<Mean>>)| means.iter().any(Option::is_some))
        .collect();
    if groups.is_empty() {
        return None;
    }
    let mut marks = Vec::new();
    let mut legend = Vec::new();
    let chance = report.runs.iter().find_map(|run| run.quartiles.first()?.chance);
    if let Some(chance) = chance {
        marks.push(ChartMark::Line {
            points: vec![(-0.5, chance), (3.5, chance)],
            ink: Ink::Muted,
            width: 1.5,
            stroke: Stroke::Dashed,
            mark: None,
        });
    }
    let count = groups.len();
    // Many groups are coloured by their size, when they have one.
    let size = |group: &Group| group.runs.first().and_then(|run| report.runs[*run].n);
    let sizes = Shades::of(groups.iter().filter_map(|(group, _)| size(group)));
    let by_size = count > MOST_KINDS && sizes.values().len() > 1;
    for (i, (group, means)) in groups.iter().enumerate() {
        let ink = match size(group).filter(|_| by_size) {
            Some(n) => sizes.ink(n),
            None => Ink::Kind(i),
        };
        add_group(group, means, (i, count), ink, &mut marks);
        if !by_size {
            legend.push(LegendEntry {
                label: group.label.clone(),
                ink,
                key: LegendKey::Dot,
            });
        }
    }
    if by_size {
        legend = sizes.legend(|n| format!("N {}", numbers::count(n)), LegendKey::Dot);
    }
    if chance.is_some() {
        legend.push(LegendEntry {
            label: "chance".to_owned(),
            ink: Ink::Muted,
            key: LegendKey::Dashed,
        });
    }
    let ends = report
        .runs
        .iter()
        .flat_map(|run| &run.quartiles)
        .map(|score| score.high);
    Some(Figure {
        id: "position-quartiles",
        link: "Position",
        heading: "Position bias",
        note: format!(
            "Score of an adjective-noun pair by its place in the prompt, means over seeds. A line that falls to the right is \
             a model that forgets the end of a prompt. {MEAN_NOTE}"
        ),
        charts: vec![(
            String::new(),
            Chart {
                title: "Score by position in the prompt".to_owned(),
                x: Axis::names("quarter of the prompt", QUARTERS.map(str::to_owned).into()),
                y: Axis::share("score", ends),
                marks,
                legend,
            },
        )],
    })
}

fn add_group(group: &Group, means: &[Option<Mean>], (i, count): (usize, usize), ink: Ink, marks: &mut Vec<ChartMark>) {
    let beside = if count > 1 {
        let width = (BESIDE * (count - 1) as f64).min(MOST_BESIDE);
        width * (i as f64 / (count - 1) as f64 - 0.5)
    } else {
        0.0
    };
    let at = |quartile: usize, mean: &Mean| (quartile as f64 + beside, mean.value);
    let mark = |tip: String| Mark {
        runs: group.runs.clone(),
        tip,
    };
    let line = means
        .iter()
        .enumerate()
        .filter_map(|(quartile, mean)| Some(at(quartile, mean.as_ref()?)));
    marks.push(ChartMark::Line {
        points: line.collect(),
        ink,
        width: 1.0,
        stroke: Stroke::Solid,
        mark: Some(mark(group.label.clone())),
    });
    for (quartile, mean) in means.iter().enumerate() {
        let Some(mean) = mean else { continue };
        marks.push(ChartMark::Dot {
            at: at(quartile, mean),
            error: mean.ends,
            ink,
            fill: Fill::Full,
            mark: Some(mark(format!(
                "{}\n{} {}",
                group.label,
                QUARTERS[quartile],
                percent(mean.value)
            ))),
        });
    }
}
