//! A picture of lines, shapes and words, before it is SVG or PNG.

use super::ink::Ink;

/// A picture of lines, shapes and words. Lengths are pixels, from the top left.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawing {
    /// What it shows, for people who don't see it.
    pub title: String,
    /// Its width.
    pub width: f64,
    /// Its height.
    pub height: f64,
    /// From back to front.
    pub items: Vec<Item>,
}

/// A shape, and the run it stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The shape.
    pub shape: Shape,
    /// The run or runs that it stands for.
    pub mark: Option<Mark>,
}

/// What a shape stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Places of runs in the report.
    pub runs: Vec<usize>,
    /// What it says when it is pointed at; lines are split by `\n`.
    pub tip: String,
}

/// A line, an area, a dot or words.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// Through points.
    Line {
        /// Its corners.
        points: Vec<(f64, f64)>,
        /// Its colour.
        ink: Ink,
        /// Its width.
        width: f64,
        /// Whether it is dashed.
        stroke: Stroke,
    },
    /// Inside corners.
    Area {
        /// Its corners.
        points: Vec<(f64, f64)>,
        /// Its colour.
        ink: Ink,
        /// From 0, not seen, to 1.
        opacity: f64,
    },
    /// A dot.
    Dot {
        /// Its centre.
        at: (f64, f64),
        /// Its radius.
        radius: f64,
        /// Its colour.
        ink: Ink,
        /// How it is filled.
        fill: Fill,
    },
    /// Words.
    Words {
        /// Where they are anchored, at their baseline.
        at: (f64, f64),
        /// What they say.
        text: String,
        /// Their height.
        size: f64,
        /// Their colour.
        ink: Ink,
        /// Which end of them is there.
        anchor: Anchor,
    },
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stroke {
    /// Without gaps.
    Solid,
    /// With gaps.
    Dashed,
}

/// How a dot is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// With its colour.
    Full,
    /// With the paper's.
    Hollow,
}

/// Which end of words is at their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// They begin there.
    Start,
    /// Their middle is there.
    Middle,
    /// They end there.
    End,
    /// Their middle is there, and they are read upwards.
    Upwards,
}

impl Drawing {
    /// An empty picture.
    pub fn new(title: impl Into<String>, width: f64, height: f64) -> Self {
        Self {
            title: title.into(),
            width,
            height,
            items: Vec::new(),
        }
    }

    /// Adds a shape that stands for nothing.
    pub fn add(&mut self, shape: Shape) {
        self.items.push(Item { shape, mark: None });
    }

    /// Adds a shape that stands for runs.
    pub fn mark(&mut self, shape: Shape, mark: Mark) {
        self.items.push(Item {
            shape,
            mark: Some(mark),
        });
    }

    /// Adds words.
    pub fn words(&mut self, at: (f64, f64), text: impl Into<String>, size: f64, ink: Ink, anchor: Anchor) {
        self.add(Shape::Words {
            at,
            text: text.into(),
            size,
            ink,
            anchor,
        });
    }

    /// Adds a line.
    pub fn line(&mut self, points: Vec<(f64, f64)>, ink: Ink, width: f64, stroke: Stroke) {
        self.add(Shape::Line {
            points,
            ink,
            width,
            stroke,
        });
    }
}

/// About how wide words are: digits and lower-case letters of `DejaVu` Sans Condensed and the like.
pub fn words_width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * 0.55
}
