//! What is seen in a picture: known of a scene, told by the judge of a picture.

use serde::{Deserialize, Serialize};

use super::colour::{Background, Colour};
use super::object::{Description, Size};
use super::shape::Shape;
use super::texture::Texture;

/// The objects of a picture and what they stand on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sight {
    /// `None` where it is no background of this world.
    pub background: Option<Background>,
    /// From the top left, row by row of their middles.
    pub objects: Vec<Seen>,
}

impl Sight {
    /// The objects that fit a description.
    pub fn fitting(&self, what: Description) -> impl Iterator<Item = &Seen> {
        self.objects.iter().filter(move |seen| seen.fits(&what))
    }
}

/// One object as it is seen; `None` where it looks like nothing of this world.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Its shape.
    pub shape: Option<Shape>,
    /// Its colour.
    pub colour: Option<Colour>,
    /// Its texture.
    pub texture: Option<Texture>,
    /// Its middle, `[x, y]` as shares of the picture's width and height.
    pub centre: [f32; 2],
    /// The side of the square that it fills, as a share of the picture's shorter side.
    pub side: f32,
}

impl Seen {
    /// Whether everything that is said of it is so.
    pub fn fits(&self, what: &Description) -> bool {
        what.shape.is_none_or(|shape| self.shape == Some(shape))
            && what.colour.is_none_or(|colour| self.colour == Some(colour))
            && what.texture.is_none_or(|texture| self.texture == Some(texture))
            && what.size.is_none_or(|size| Size::of(self.side) == size)
    }
}
