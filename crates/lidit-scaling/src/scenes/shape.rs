//! Shapes of objects and their signed distances.

use serde::{Deserialize, Serialize};

/// The shape of an object. Each fills a square of its side from edge to edge, in width or in height or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// A filled circle.
    Circle,
    /// A square on its side.
    Square,
    /// A triangle with its point up.
    Triangle,
    /// A square on its corner.
    Diamond,
    /// A star of five points.
    Star,
    /// A plus sign.
    Cross,
    /// A heart.
    Heart,
}

impl Shape {
    /// Every shape.
    pub const ALL: [Self; 7] = [
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Diamond,
        Self::Star,
        Self::Cross,
        Self::Heart,
    ];

    /// The name that metadata has.
    pub fn name(self) -> &'static str {
        self.words()[0].0
    }

    /// What captions call one of it and several, the name first.
    pub(crate) fn words(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Circle => &[("circle", "circles"), ("disc", "discs")],
            Self::Square => &[("square", "squares")],
            Self::Triangle => &[("triangle", "triangles")],
            Self::Diamond => &[("diamond", "diamonds"), ("rhombus", "rhombuses")],
            Self::Star => &[("star", "stars")],
            Self::Cross => &[("cross", "crosses"), ("plus sign", "plus signs")],
            Self::Heart => &[("heart", "hearts")],
        }
    }

    /// Signed distance from the edge, negative inside, of a point in the shape's own square: both coordinates from -1
    /// (left, top) to 1.
    ///
    /// The formulas are Inigo Quilez's ("2D distance functions").
    pub(crate) fn distance(self, at: [f32; 2]) -> f32 {
        let [x, y] = at;
        match self {
            Self::Circle => x.hypot(y) - 1.0,
            Self::Square => box_distance([x.abs() - 0.9, y.abs() - 0.9]),
            Self::Triangle => mirrored_distance(&TRIANGLE, [x.abs(), y]),
            Self::Diamond => (x.abs() + y.abs() - 1.0) * std::f32::consts::FRAC_1_SQRT_2,
            Self::Star => mirrored_distance(&STAR, [x.abs(), y]),
            Self::Cross => cross_distance([x.abs(), y.abs()]),
            Self::Heart => heart_distance([x.abs(), y]),
        }
    }
}

// The right halves of outlines that are the same to both sides, from the axis to the axis.
const TRIANGLE: [[f32; 2]; 3] = [[0.0, -0.95], [1.0, 0.85], [0.0, 0.85]];
// Points at 1.05 from a centre a little below the square's, so that it is as wide as the square; notches at 0.45.
const STAR: [[f32; 2]; 6] = [
    [0.0, -0.95],
    [0.265, -0.264],
    [0.999, -0.224],
    [0.428, 0.239],
    [0.617, 0.949],
    [0.0, 0.55],
];
const ARM: f32 = 0.34;

fn box_distance([x, y]: [f32; 2]) -> f32 {
    x.max(0.0).hypot(y.max(0.0)) + x.max(y).min(0.0)
}

fn cross_distance([x, y]: [f32; 2]) -> f32 {
    let bar = |along: f32, across: f32| box_distance([along - 1.0, across - ARM]);
    bar(x, y).min(bar(y, x))
}

// Quilez's heart has its point at 0 and its lobes at (0.25, 0.75) with radius sqrt(2) / 4, upwards.
fn heart_distance([x, y]: [f32; 2]) -> f32 {
    const SCALE: f32 = 1.64;
    let lobe = std::f32::consts::SQRT_2 / 4.0;
    let [x, y] = [x / SCALE, (0.93 - y) / SCALE];
    let distance = if x + y > 1.0 {
        (x - 0.25).hypot(y - 0.75) - lobe
    } else {
        let top = x.hypot(y - 1.0);
        let along = 0.5 * (x + y).max(0.0);
        let side = (x - along).hypot(y - along);
        top.min(side) * (x - y).signum()
    };
    distance * SCALE
}

// Of a point to the right of the axis.
fn mirrored_distance(corners: &[[f32; 2]], [x, y]: [f32; 2]) -> f32 {
    let mut nearest = f32::MAX;
    let mut sign = 1.0;
    for ([bx, by], [ax, ay]) in corners.iter().zip(&corners[1..]) {
        let [ex, ey] = [bx - ax, by - ay];
        let [wx, wy] = [x - ax, y - ay];
        let along = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0.0, 1.0);
        let [dx, dy] = [wx - ex * along, wy - ey * along];
        nearest = nearest.min(dx * dx + dy * dy);
        // A ray to the right meets no other side of the whole outline.
        let crosses = [y >= *ay, y < *by, ex * wy > ey * wx];
        if crosses == [true; 3] || crosses == [false; 3] {
            sign = -sign;
        }
    }
    sign * nearest.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Share of the square that is inside, and the extent of the inside, at a fine grid.
    fn measured(shape: Shape) -> (f32, [f32; 4]) {
        let (mut inside, mut extent) = (0, [1.0_f32, 1.0, -1.0, -1.0]);
        for row in 0..400 {
            for column in 0..400 {
                let [x, y] = [column, row].map(|at| (f32::from(at as i16) + 0.5) / 200.0 - 1.0);
                if shape.distance([x, y]) < 0.0 {
                    inside += 1;
                    extent = [extent[0].min(x), extent[1].min(y), extent[2].max(x), extent[3].max(y)];
                }
            }
        }
        (f32::from((inside / 16) as u16) / 1e4, extent)
    }

    #[test]
    fn every_shape_fills_its_square_in_one_direction_and_stands_in_its_middle() {
        for shape in Shape::ALL {
            let (area, [left, top, right, bottom]) = measured(shape);
            assert!((0.3..0.85).contains(&area), "{shape:?} covers {area}");
            let side = (right - left).max(bottom - top) / 2.0;
            assert!((0.88..=1.0).contains(&side), "{shape:?} is {side} wide");
            assert!((left + right).abs() < 0.02, "{shape:?}: {left} to {right}");
            assert!((top + bottom).abs() < 0.12, "{shape:?}: {top} to {bottom}");
        }
    }

    #[test]
    fn distances_grow_by_one_a_unit_away_from_the_edge() {
        for shape in Shape::ALL {
            for direction in [[0.8_f32, 0.6_f32], [-0.6, 0.8], [0.28, -0.96]] {
                let at = |r: f32| shape.distance([direction[0] * r, direction[1] * r]);
                assert!(at(0.05) < 0.0 && at(1.6) > 0.0, "{shape:?}");
                assert!(
                    (at(60.0) - at(50.0) - 10.0).abs() < if shape == Shape::Diamond { 5.0 } else { 0.1 },
                    "{shape:?}"
                );
            }
        }
    }
}
