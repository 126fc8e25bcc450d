//! What prompts test.

use serde::{Deserialize, Serialize};

/// A kind of prompt. The eight of T2I-CompBench and `GenEval` that this world has, one object alone, and the
/// position-bias test of the LI-DiT paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// "a red circle": one object by colour and shape. A table of scores counts where this one beats chance.
    SingleObject,
    /// "a red object".
    Colour,
    /// "a circle".
    Shape,
    /// "a striped object".
    Texture,
    /// "a red circle left of a blue square".
    Spatial,
    /// "three red circles".
    Counting,
    /// "a circle and a square".
    TwoObjects,
    /// "a red circle in the top left".
    Position,
    /// "a red circle and a blue square".
    Attribution,
    /// Four to eight pairs of adjective and noun, scored by where in the prompt each is named. 64 pixels or more.
    PositionBias,
}

impl Category {
    /// Every category.
    pub const ALL: [Self; 10] = [
        Self::SingleObject,
        Self::Colour,
        Self::Shape,
        Self::Texture,
        Self::Spatial,
        Self::Counting,
        Self::TwoObjects,
        Self::Position,
        Self::Attribution,
        Self::PositionBias,
    ];

    /// The name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::SingleObject => "single_object",
            Self::Colour => "colour",
            Self::Shape => "shape",
            Self::Texture => "texture",
            Self::Spatial => "spatial",
            Self::Counting => "counting",
            Self::TwoObjects => "two_objects",
            Self::Position => "position",
            Self::Attribution => "attribution",
            Self::PositionBias => "position_bias",
        }
    }

    /// The smallest picture, in pixels a side, in which its prompts can be drawn readably.
    pub fn least_size(self) -> u32 {
        match self {
            Self::PositionBias => 64,
            _ => 32,
        }
    }

    /// The fewest objects that its prompts have.
    pub fn least_objects(self) -> usize {
        match self {
            Self::SingleObject | Self::Colour | Self::Shape | Self::Texture | Self::Position => 1,
            Self::Spatial | Self::Counting | Self::TwoObjects | Self::Attribution => 2,
            Self::PositionBias => 4,
        }
    }

    /// Whether its prompts name colours with shapes, so that they can ask for held-out pairs. The position-bias test
    /// does not: it asks where in a prompt things get lost, not which.
    pub fn asks_held_out(self) -> bool {
        matches!(
            self,
            Self::SingleObject | Self::Spatial | Self::Counting | Self::Position | Self::Attribution
        )
    }
}
