//! Colours of objects and backgrounds.

use serde::{Deserialize, Serialize};

/// The colour of an object: eight that stay apart from each other and from every background.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// Red.
    Red,
    /// Orange.
    Orange,
    /// Yellow.
    Yellow,
    /// Green.
    Green,
    /// Cyan; captions also say turquoise.
    Cyan,
    /// Blue.
    Blue,
    /// Purple; captions also say violet.
    Purple,
    /// Pink.
    Pink,
}

impl Colour {
    /// Every colour.
    pub const ALL: [Self; 8] = [
        Self::Red,
        Self::Orange,
        Self::Yellow,
        Self::Green,
        Self::Cyan,
        Self::Blue,
        Self::Purple,
        Self::Pink,
    ];

    /// The name that metadata has.
    pub fn name(self) -> &'static str {
        self.words()[0]
    }

    /// What captions call it, the name first.
    pub(crate) fn words(self) -> &'static [&'static str] {
        match self {
            Self::Red => &["red"],
            Self::Orange => &["orange"],
            Self::Yellow => &["yellow"],
            Self::Green => &["green"],
            Self::Cyan => &["cyan", "turquoise"],
            Self::Blue => &["blue"],
            Self::Purple => &["purple", "violet"],
            Self::Pink => &["pink"],
        }
    }

    /// sRGB, 0 to 255.
    pub fn rgb(self) -> [f32; 3] {
        match self {
            Self::Red => [215.0, 35.0, 35.0],
            Self::Orange => [245.0, 140.0, 20.0],
            Self::Yellow => [245.0, 220.0, 40.0],
            Self::Green => [40.0, 160.0, 60.0],
            Self::Cyan => [40.0, 200.0, 220.0],
            Self::Blue => [40.0, 70.0, 220.0],
            Self::Purple => [130.0, 50.0, 180.0],
            Self::Pink => [240.0, 100.0, 175.0],
        }
    }

    /// sRGB of stripes, dots and checks on an object of this colour: the same hue, darker.
    pub fn mark_rgb(self) -> [f32; 3] {
        self.rgb().map(|channel| channel * MARK)
    }
}

// Darker marks read as marks; darker still, an object on grey would lose its fill beside them.
const MARK: f32 = 0.42;

/// What objects stand on: light, so that marks are darker than an object and the object darker than its background.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Background {
    /// White.
    White,
    /// Light grey.
    Grey,
    /// Pale yellow.
    Cream,
}

impl Background {
    /// Every background.
    pub const ALL: [Self; 3] = [Self::White, Self::Grey, Self::Cream];

    /// The name that captions and metadata have.
    pub fn name(self) -> &'static str {
        match self {
            Self::White => "white",
            Self::Grey => "grey",
            Self::Cream => "cream",
        }
    }

    /// sRGB, 0 to 255.
    pub fn rgb(self) -> [f32; 3] {
        match self {
            Self::White => [255.0, 255.0, 255.0],
            Self::Grey => [200.0, 200.0, 200.0],
            Self::Cream => [250.0, 238.0, 200.0],
        }
    }
}
