//! One object of a scene, and what may be said of it.

use serde::{Deserialize, Serialize};

use super::colour::Colour;
use super::shape::Shape;
use super::texture::Texture;

/// How large an object is beside the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Size {
    /// A side below 0.36 of the picture's.
    Small,
    /// The others.
    Large,
}

impl Size {
    pub(crate) const LIMIT: f32 = 0.36;

    /// The size of an object with this side, as a share of the picture's.
    pub fn of(side: f32) -> Self {
        if side < Self::LIMIT { Self::Small } else { Self::Large }
    }
}

/// Where an object's middle lies: the picture cut at 0.4 and 0.6 of its width and of its height.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Top left.
    TopLeft,
    /// Top.
    Top,
    /// Top right.
    TopRight,
    /// Left.
    Left,
    /// Centre.
    Centre,
    /// Right.
    Right,
    /// Bottom left.
    BottomLeft,
    /// Bottom.
    Bottom,
    /// Bottom right.
    BottomRight,
}

impl Place {
    /// Every place, row by row.
    pub const ALL: [Self; 9] = [
        Self::TopLeft,
        Self::Top,
        Self::TopRight,
        Self::Left,
        Self::Centre,
        Self::Right,
        Self::BottomLeft,
        Self::Bottom,
        Self::BottomRight,
    ];

    pub(crate) const CUTS: [f32; 2] = [0.4, 0.6];

    /// The place of a point `[x, y]`, as shares of the picture's width and height.
    pub fn of([x, y]: [f32; 2]) -> Self {
        let third = |at: f32| Self::CUTS.iter().filter(|cut| at >= **cut).count();
        Self::ALL[3 * third(y) + third(x)]
    }
}

/// How one object lies to another, by their middles: the direction in which they are further apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// Left of the other.
    LeftOf,
    /// Right of the other.
    RightOf,
    /// Above the other.
    Above,
    /// Below the other.
    Below,
}

impl Relation {
    /// Every relation.
    pub const ALL: [Self; 4] = [Self::LeftOf, Self::RightOf, Self::Above, Self::Below];

    /// How something at `a` lies to something at `b`; both are `[x, y]`.
    pub fn of(a: [f32; 2], b: [f32; 2]) -> Self {
        let [dx, dy] = [b[0] - a[0], b[1] - a[1]];
        match (dx.abs() > dy.abs(), dx > 0.0, dy > 0.0) {
            (true, true, _) => Self::LeftOf,
            (true, false, _) => Self::RightOf,
            (false, _, true) => Self::Above,
            (false, _, false) => Self::Below,
        }
    }

    /// How the other lies to the first.
    pub fn inverse(self) -> Self {
        match self {
            Self::LeftOf => Self::RightOf,
            Self::RightOf => Self::LeftOf,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
        }
    }
}

/// An object of a scene. Lengths are shares of the picture's side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// Its shape.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
    /// Its texture.
    pub texture: Texture,
    /// Its middle, `[x, y]` from the top left.
    pub centre: [f32; 2],
    /// The side of the square that it fills.
    pub side: f32,
}

/// What is said of an object; what is `None` is left open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Description {
    /// Its colour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colour: Option<Colour>,
    /// Its shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// Its texture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texture: Option<Texture>,
    /// Its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
}
