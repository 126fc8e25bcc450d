//! What a plot's colours mean.

use super::chart::{Area, GAP};
use super::drawing::{Anchor, Drawing, Fill, Shape, Stroke, words_width};
use super::ink::Ink;

/// The height of a row.
pub const LEGEND_ROW: f64 = 18.0;

/// What a colour means.
#[derive(Clone, Debug, PartialEq)]
pub struct LegendEntry {
    /// In words.
    pub label: String,
    /// The colour.
    pub ink: Ink,
    /// How it looks.
    pub key: LegendKey,
}

/// How a mark looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegendKey {
    /// A dot.
    Dot,
    /// A line.
    Line,
    /// A dashed line.
    Dashed,
    /// A hollow dot.
    Ring,
}

/// Entries in rows that fit, each with its left end.
pub fn legend_rows<'a>(entries: &'a [LegendEntry], area: &Area) -> Vec<Vec<(f64, &'a LegendEntry)>> {
    let mut rows: Vec<Vec<(f64, &LegendEntry)>> = Vec::new();
    let mut at = area.left;
    for entry in entries {
        let room = words_width(&entry.label, area.font) + 22.0 + GAP * 1.5;
        match rows.last_mut() {
            Some(row) if at + room <= area.right + GAP => row.push((at, entry)),
            _ => {
                at = area.left;
                rows.push(vec![(at, entry)]);
            }
        }
        at += room;
    }
    rows
}

/// Draws them under the plot, from `top`.
pub fn draw_legend(drawing: &mut Drawing, rows: &[Vec<(f64, &LegendEntry)>], top: f64, area: &Area) {
    for (i, row) in rows.iter().enumerate() {
        let y = top + (i as f64 + 0.5) * LEGEND_ROW;
        for (x, entry) in row {
            let (middle, ink) = (*x + 8.0, entry.ink);
            let dot = |fill| Shape::Dot {
                at: (middle, y),
                radius: area.font * 0.36,
                ink,
                fill,
            };
            let line = |stroke| Shape::Line {
                points: vec![(middle - 8.0, y), (middle + 8.0, y)],
                ink,
                width: 2.0,
                stroke,
            };
            drawing.add(match entry.key {
                LegendKey::Dot => dot(Fill::Full),
                LegendKey::Ring => dot(Fill::Hollow),
                LegendKey::Line => line(Stroke::Solid),
                LegendKey::Dashed => line(Stroke::Dashed),
            });
            let at = (middle + 13.0, y + area.font * 0.35);
            drawing.words(at, &entry.label, area.font, Ink::Text, Anchor::Start);
        }
    }
}
