//! A plot: axes, marks and a legend, laid out for a width.

use super::axis::{Axis, Scale};
pub use super::chart_mark::ChartMark;
use super::drawing::{Anchor, Drawing, Fill, Mark, Shape, Stroke, words_width};
use super::ink::Ink;
use super::legend::{LEGEND_ROW, draw_legend, legend_rows};
pub use super::legend::{LegendEntry, LegendKey};

pub(super) const GAP: f64 = 8.0;

/// A plot, before it has a size.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// From left to right.
    pub x: Axis,
    /// From bottom to top.
    pub y: Axis,
    /// From back to front.
    pub marks: Vec<ChartMark>,
    /// What the colours mean.
    pub legend: Vec<LegendEntry>,
}

/// How much room a plot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// A page on a desk, and files.
    Wide,
    /// A phone.
    Narrow,
    /// One of several beside each other.
    Panel,
}

impl Size {
    fn pixels(self) -> (f64, f64) {
        match self {
            Self::Wide => (1080.0, 460.0),
            Self::Narrow => (380.0, 320.0),
            Self::Panel => (340.0, 220.0),
        }
    }

    fn font(self) -> f64 {
        match self {
            Self::Wide => 13.0,
            Self::Narrow | Self::Panel => 12.0,
        }
    }
}

/// The plot's inside in pixels.
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) right: f64,
    top: f64,
    bottom: f64,
    pub(super) font: f64,
}

impl Chart {
    /// Lays the plot out.
    pub fn draw(&self, size: Size) -> Drawing {
        let (width, plot_height) = size.pixels();
        let font = size.font();
        let most_y = if size == Size::Panel { 4 } else { 6 };
        let y_ticks = self.y.ticks(most_y);
        let widest = y_ticks
            .iter()
            .map(|(_, name)| words_width(name, font))
            .fold(0.0, f64::max);
        let area = Area {
            left: font * 1.6 + widest + GAP,
            right: width - GAP * 2.0,
            top: GAP * 1.5,
            bottom: plot_height - font * 3.2,
            font,
        };
        // Panels share the legend above them.
        let rows = if size == Size::Panel {
            Vec::new()
        } else {
            legend_rows(&self.legend, &area)
        };
        let height = plot_height + rows.len() as f64 * LEGEND_ROW;
        let mut drawing = Drawing::new(&self.title, width, height);
        self.draw_axes(&mut drawing, &area, &y_ticks);
        for mark in &self.marks {
            self.draw_mark(&mut drawing, &area, mark);
        }
        draw_legend(&mut drawing, &rows, plot_height, &area);
        drawing
    }

    fn draw_axes(&self, drawing: &mut Drawing, area: &Area, y_ticks: &[(f64, String)]) {
        let baseline = area.font * 0.35;
        for (value, name) in y_ticks {
            let Some(y) = area.y(&self.y, *value) else { continue };
            if !matches!(self.y.scale, Scale::Names(_)) {
                drawing.line(vec![(area.left, y), (area.right, y)], Ink::Grid, 1.0, Stroke::Solid);
            }
            drawing.words(
                (area.left - GAP, y + baseline),
                name,
                area.font,
                Ink::Muted,
                Anchor::End,
            );
        }
        for (value, name) in self.x_ticks(area) {
            let Some(x) = area.x(&self.x, value) else { continue };
            if !matches!(self.x.scale, Scale::Names(_)) {
                drawing.line(vec![(x, area.top), (x, area.bottom)], Ink::Grid, 1.0, Stroke::Solid);
            }
            let at = (x, area.bottom + area.font * 1.35);
            drawing.words(at, name, area.font, Ink::Muted, Anchor::Middle);
        }
        let middle = f64::midpoint(area.left, area.right);
        let under = (middle, area.bottom + area.font * 2.75);
        drawing.words(under, &self.x.label, area.font, Ink::Text, Anchor::Middle);
        let beside = (area.font, f64::midpoint(area.top, area.bottom));
        drawing.words(beside, &self.y.label, area.font, Ink::Text, Anchor::Upwards);
        let corner = vec![
            (area.left, area.top),
            (area.left, area.bottom),
            (area.right, area.bottom),
        ];
        drawing.line(corner, Ink::Muted, 1.0, Stroke::Solid);
    }

    /// As many ticks as do not touch each other.
    fn x_ticks(&self, area: &Area) -> Vec<(f64, String)> {
        let room = area.right - area.left;
        let fits = |ticks: &Vec<(f64, String)>| {
            let widest = ticks
                .iter()
                .map(|(_, name)| words_width(name, area.font))
                .fold(0.0, f64::max);
            (widest + GAP) * ticks.len() as f64 <= room
        };
        let most = if room > 500.0 { 8 } else { 5 };
        (1..=most)
            .rev()
            .map(|most| self.x.ticks(most))
            .find(fits)
            .unwrap_or_else(|| {
                // Names that don't fit: each second, third ..
                let ticks = self.x.ticks(1);
                let widest = ticks
                    .iter()
                    .map(|(_, name)| words_width(name, area.font))
                    .fold(1.0, f64::max);
                let every = (ticks.len() as f64 * (widest + GAP) / room).ceil().max(1.0) as usize;
                ticks.into_iter().step_by(every).collect()
            })
    }

    fn draw_mark(&self, drawing: &mut Drawing, area: &Area, mark: &ChartMark) {
        match mark {
            ChartMark::Line {
                points,
                ink,
                width,
                stroke,
                mark,
            } => {
                // What lies outside is cut off, not drawn along the edge.
                let points = points.iter().filter_map(|at| area.inside(&self.x, &self.y, *at));
                let shape = Shape::Line {
                    points: points.collect(),
                    ink: *ink,
                    width: *width,
                    stroke: *stroke,
                };
                add(drawing, shape, mark.clone());
            }
            ChartMark::Band { points, ink } => {
                let low = points.iter().map(|(x, low, _)| (*x, *low));
                let high = points.iter().rev().map(|(x, _, high)| (*x, *high));
                let points = self.placed(area, &low.chain(high).collect::<Vec<_>>());
                drawing.add(Shape::Area {
                    points,
                    ink: *ink,
                    opacity: 0.14,
                });
            }
            ChartMark::Dot {
                at,
                error,
                ink,
                fill,
                mark,
            } => self.draw_dot(drawing, area, (*at, *error), (*ink, *fill), mark.as_ref()),
            ChartMark::Cell { at, ink, text, mark } => self.draw_cell(drawing, area, *at, (*ink, text), mark),
        }
    }

    fn draw_dot(
        &self,
        drawing: &mut Drawing,
        area: &Area,
        (at, error): ((f64, f64), Option<(f64, f64)>),
        (ink, fill): (Ink, Fill),
        mark: Option<&Mark>,
    ) {
        let Some(at_pixels) = area.inside(&self.x, &self.y, at) else {
            return;
        };
        if let Some((low, high)) = error {
            let ends = self.placed(area, &[(at.0, low), (at.0, high)]);
            let bar = Shape::Line {
                points: ends,
                ink,
                width: 1.5,
                stroke: Stroke::Solid,
            };
            add(drawing, bar, mark.cloned());
        }
        let dot = Shape::Dot {
            at: at_pixels,
            radius: area.font * 0.36,
            ink,
            fill,
        };
        add(drawing, dot, mark.cloned());
    }

    fn draw_cell(&self, drawing: &mut Drawing, area: &Area, at: (usize, usize), (ink, text): (Ink, &str), mark: &Mark) {
        let (column, row) = (at.0 as f64, at.1 as f64);
        let corners = [(-0.48, -0.48), (0.48, -0.48), (0.48, 0.48), (-0.48, 0.48)];
        let corners: Vec<_> = corners.iter().map(|(x, y)| (column + x, row + y)).collect();
        let points = self.placed(area, &corners);
        let room = points.first().zip(points.get(1)).map_or(0.0, |(a, b)| b.0 - a.0);
        let shape = Shape::Area {
            points,
            ink,
            opacity: 1.0,
        };
        drawing.mark(shape, mark.clone());
        if words_width(text, area.font) < room
            && let Some((x, y)) = area.inside(&self.x, &self.y, (column, row))
        {
            let [red, green, blue] = ink.light().map(f64::from);
            // White words on dark cells, black ones on bright cells, in light and dark alike.
            let dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140.0;
            let ink = if dark { Ink::OnDark } else { Ink::OnBright };
            drawing.words((x, y + area.font * 0.35), text, area.font, ink, Anchor::Middle);
        }
    }

    fn placed(&self, area: &Area, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        points
            .iter()
            .filter_map(|(x, y)| {
                let (x, y) = (area.x(&self.x, *x)?, area.y(&self.y, *y)?);
                Some((x.clamp(area.left, area.right), y.clamp(area.top, area.bottom)))
            })
            .collect()
    }
}

impl Area {
    fn x(&self, axis: &Axis, value: f64) -> Option<f64> {
        Some(self.left + axis.place(value)? * (self.right - self.left))
    }

    fn y(&self, axis: &Axis, value: f64) -> Option<f64> {
        Some(self.bottom - axis.place(value)? * (self.bottom - self.top))
    }

    /// None outside the plot.
    fn inside(&self, x: &Axis, y: &Axis, at: (f64, f64)) -> Option<(f64, f64)> {
        let at = (self.x(x, at.0)?, self.y(y, at.1)?);
        let near = |value: f64, low: f64, high: f64| (low - 1.0..=high + 1.0).contains(&value);
        (near(at.0, self.left, self.right) && near(at.1, self.top, self.bottom)).then_some(at)
    }
}

fn add(drawing: &mut Drawing, shape: Shape, mark: Option<Mark>) {
    match mark {
        Some(mark) => drawing.mark(shape, mark),
        None => drawing.add(shape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        Chart {
            title: "loss".to_owned(),
            x: Axis::around("C", Scale::LogPower, [1e15, 1e18]),
            y: Axis::around("loss", Scale::Linear, [0.5, 1.0]),
            marks: vec![ChartMark::Dot {
                at: (1e16, 0.7),
                error: Some((0.6, 0.8)),
                ink: Ink::Law,
                fill: Fill::Full,
                mark: Some(Mark {
                    runs: vec![0],
                    tip: "a".to_owned(),
                }),
            }],
            legend: (0..9)
                .map(|i| LegendEntry {
                    label: format!("a long entry {i}"),
                    ink: Ink::Kind(i),
                    key: LegendKey::Dot,
                })
                .collect(),
        }
    }

    #[test]
    fn everything_lies_inside_the_picture() {
        for size in [Size::Wide, Size::Narrow, Size::Panel] {
            let drawing = chart().draw(size);
            for item in &drawing.items {
                let points = match &item.shape {
                    Shape::Line { points, .. } | Shape::Area { points, .. } => points.clone(),
                    Shape::Dot { at, .. } | Shape::Words { at, .. } => vec![*at],
                };
                for (x, y) in points {
                    assert!((0.0..=drawing.width).contains(&x) && (0.0..=drawing.height).contains(&y));
                }
            }
        }
    }

    #[test]
    fn a_value_that_has_no_place_is_not_drawn() {
        let mut chart = chart();
        chart.legend.clear();
        let dots = |chart: &Chart| {
            chart
                .draw(Size::Wide)
                .items
                .iter()
                .filter(|item| item.mark.is_some())
                .count()
        };
        assert_eq!(dots(&chart), 2);
        if let ChartMark::Dot { at, .. } = &mut chart.marks[0] {
            *at = (f64::NAN, 1.0);
        }
        assert_eq!(dots(&chart), 0);
    }
}
