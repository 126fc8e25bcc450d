//! Loss over size and data.

use super::super::Report;
use super::super::axis::{Axis, Scale};
use super::super::chart::{Chart, ChartMark, LegendEntry, LegendKey};
use super::super::drawing::{Fill, Mark};
use super::super::figure::Figure;
use super::super::ink::Ink;
use super::super::numbers::{count, digits};
use super::super::shade::Shades;
use super::{Measured, mark_of, measured};

/// Cells of which at least this share is filled are a grid.
const FILLED: f64 = 0.5;
const MOST_NAMES: usize = 24;

pub fn figure(report: &Report) -> Option<Figure> {
    let runs = measured(report);
    let sizes = Shades::of(runs.iter().map(|run| run.1));
    let tokens = Shades::of(runs.iter().map(|run| run.2));
    let (rows, columns) = (sizes.values().len(), tokens.values().len());
    if rows < 2 || columns < 2 {
        return None;
    }
    let (low, high) = runs
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), run| {
            (low.min(run.4), high.max(run.4))
        });
    // The best runs are the bright ones.
    let heat = |loss: f64| Ink::Heat(1.0 - (loss - low) / (high - low).max(1e-12));
    let cells = cells(report, &runs, &sizes, &tokens);
    let is_grid = cells.len() as f64 >= FILLED * (rows * columns) as f64 && rows.max(columns) <= MOST_NAMES;
    let (x, y, marks) = if is_grid {
        let marks = cells.into_iter().map(|cell| ChartMark::Cell {
            at: cell.at,
            ink: heat(cell.loss),
            text: format!("{:.4}", cell.loss),
            mark: cell.mark,
        });
        let names = |shades: &Shades| shades.values().iter().map(|value| count(*value)).collect();
        (
            Axis::names("image tokens seen D", names(&tokens)),
            Axis::names("trainable parameters N", names(&sizes)),
            marks.collect(),
        )
    } else {
        let marks = runs.iter().map(|(place, n, d, _, loss)| ChartMark::Dot {
            at: (*d, *n),
            error: None,
            ink: heat(*loss),
            fill: Fill::Full,
            mark: Some(mark_of(*place, &report.runs[*place])),
        });
        (
            Axis::around("image tokens seen D", Scale::LogCount, runs.iter().map(|run| run.2)),
            Axis::around("trainable parameters N", Scale::LogCount, runs.iter().map(|run| run.1)),
            marks.collect(),
        )
    };
    let legend = [0.0, 0.5, 1.0].map(|share| LegendEntry {
        label: format!("loss {}", digits(low + share * (high - low))),
        ink: heat(low + share * (high - low)),
        key: LegendKey::Dot,
    });
    Some(Figure {
        id: "heat-map",
        link: "Size and data",
        heading: "Size and data",
        note: "Validation loss of every size on every amount of data; bright is better.".to_owned(),
        charts: vec![(
            String::new(),
            Chart {
                title: "Validation loss over model size and data".to_owned(),
                x,
                y,
                marks,
                legend: legend.into(),
            },
        )],
    })
}

struct Cell {
    at: (usize, usize),
    loss: f64,
    mark: Mark,
}

/// One for each size and amount of data, seeds averaged.
fn cells(report: &Report, runs: &[Measured], sizes: &Shades, tokens: &Shades) -> Vec<Cell> {
    let mut cells: Vec<(Cell, usize)> = Vec::new();
    for (place, n, d, _, loss) in runs {
        let at = (tokens.index(*d), sizes.index(*n));
        let mark = mark_of(*place, &report.runs[*place]);
        match cells.iter_mut().find(|(cell, _)| cell.at == at) {
            Some((cell, count)) => {
                *count += 1;
                cell.loss += (loss - cell.loss) / *count as f64;
                cell.mark.runs.push(*place);
                cell.mark.tip = [&cell.mark.tip, "\n", &mark.tip].concat();
            }
            None => cells.push((Cell { at, loss: *loss, mark }, 1)),
        }
    }
    cells.into_iter().map(|(cell, _)| cell).collect()
}
