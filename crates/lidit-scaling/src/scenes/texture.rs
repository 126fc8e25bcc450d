//! What an object's inside looks like.

use serde::{Deserialize, Serialize};

/// The texture of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Texture {
    /// One colour.
    Plain,
    /// Horizontal bars in a darker shade.
    Striped,
    /// A grid of dots in a darker shade.
    Dotted,
    /// A chessboard of the colour and a darker shade.
    Checkered,
}

// Periods as shares of the object's side.
const STRIPE_PERIOD: f32 = 1.0 / 3.0;
const DOT_PERIOD: f32 = 1.0 / 3.0;
const DOT_RADIUS: f32 = 0.3 * DOT_PERIOD;
const CHECK_PERIOD: f32 = 2.0 / 5.0;

impl Texture {
    /// Every texture.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Striped, Self::Dotted, Self::Checkered];

    /// Those with marks.
    pub const MARKED: [Self; 3] = [Self::Striped, Self::Dotted, Self::Checkered];

    /// The name that metadata has.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Striped => "striped",
            Self::Dotted => "dotted",
            Self::Checkered => "checkered",
        }
    }

    /// How much of a pixel is mark rather than fill, 0 to 1. `at` is the pixel's centre from the object's, `side` the
    /// object's side and `pixel` the pixel's, all in one unit.
    pub(crate) fn mark(self, at: [f32; 2], side: f32, pixel: f32) -> f32 {
        let [x, y] = at;
        match self {
            Self::Plain => 0.0,
            Self::Striped => (0.5 + wave(y, STRIPE_PERIOD * side, pixel)).clamp(0.0, 1.0),
            Self::Dotted => {
                let period = DOT_PERIOD * side;
                let [dx, dy] = [x, y].map(|at| at - (at / period).round() * period);
                (0.5 - (dx.hypot(dy) - DOT_RADIUS * side) / pixel).clamp(0.0, 1.0)
            }
            Self::Checkered => {
                let period = CHECK_PERIOD * side;
                // Cells meet at the object's centre.
                let [a, b] = [x, y].map(|at| wave(at + period / 4.0, period, pixel).clamp(-0.5, 0.5));
                0.5 + 2.0 * a * b
            }
        }
    }
}

// Pixels from the nearest edge of a bar, positive inside; bars are half a period wide, one centred on 0.
fn wave(at: f32, period: f32, pixel: f32) -> f32 {
    let from_centre = (at - (at / period).round() * period).abs();
    (period / 4.0 - from_centre) / pixel
}
