//! The world: which scenes there are, and how often.

use std::ops::RangeInclusive;

use image::RgbImage;
use thiserror::Error;

use super::arrange::Actor;
use super::caption::Caption;
use super::draws::{Draws, Purpose};
use super::held_out::HeldOut;
use super::scene::Scene;

/// Scenes of some picture size and number of objects, without the held-out pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    size: u32,
    objects: RangeInclusive<usize>,
    held_out: HeldOut,
}

/// A picture of a training set with what is said of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The scene drawn.
    pub scene: Scene,
    /// The drawing.
    pub picture: RgbImage,
    /// Captions that say the same scene in different words and detail.
    pub captions: Vec<Caption>,
}

/// A world that can't be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WorldError {
    /// Pictures too small or too large.
    #[error("pictures of {size} pixels a side: scenes are drawn at 32 to 256")]
    Size {
        /// Pixels a side.
        size: u32,
    },
    /// Objects that could not be told apart, or none.
    #[error("{low} to {high} objects: at {size} pixels a side 1 to {most} are readable")]
    Objects {
        /// The fewest asked for.
        low: usize,
        /// The most asked for.
        high: usize,
        /// Pixels a side.
        size: u32,
        /// The most that are readable.
        most: usize,
    },
    /// Too many pairs held out.
    #[error("{count} held-out pairs of colour and shape: at most 16, or single colours would hardly be met")]
    HeldOut {
        /// How many.
        count: usize,
    },
    /// A kind of prompt that this world can't show.
    #[error(
        "{category} prompts need pictures of {least_size} pixels a side and scenes of {least_objects} objects or more: \
         these have {size} pixels and up to {objects} objects"
    )]
    Category {
        /// Its name.
        category: &'static str,
        /// The smallest size.
        least_size: u32,
        /// The fewest objects.
        least_objects: usize,
        /// Pixels a side.
        size: u32,
        /// The most objects.
        objects: usize,
    },
}

impl World {
    /// Captions of every row.
    pub const CAPTIONS: usize = 3;

    /// A world of pictures of `size` pixels a side (32 to 256) with so many objects each: up to
    /// [`World::most_objects`].
    pub fn new(size: u32, objects: RangeInclusive<usize>, held_out: HeldOut) -> Result<Self, WorldError> {
        if !(32..=256).contains(&size) {
            return Err(WorldError::Size { size });
        }
        let (low, high, most) = (*objects.start(), *objects.end(), Self::most_objects(size));
        if low == 0 || low > high || high > most {
            return Err(WorldError::Objects { low, high, size, most });
        }
        Ok(Self {
            size,
            objects,
            held_out,
        })
    }

    /// The most objects that stay readable in a picture of this size: 2, and 8 from 64 pixels on.
    pub fn most_objects(size: u32) -> usize {
        if size < 64 { 2 } else { 8 }
    }

    /// Pixels a side.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// How many objects a scene has.
    pub fn objects(&self) -> &RangeInclusive<usize> {
        &self.objects
    }

    /// What no scene has.
    pub fn held_out(&self) -> &HeldOut {
        &self.held_out
    }

    /// Row `index` of the set that `seed` names; it depends on nothing else.
    pub fn row(&self, seed: u64, index: u64) -> Row {
        let scene = self.scene(seed, index);
        let mut draws = Draws::new(seed, Purpose::Captions, index);
        Row {
            picture: scene.draw(self.size),
            captions: (0..Self::CAPTIONS).map(|_| Caption::of(&scene, &mut draws)).collect(),
            scene,
        }
    }

    /// The scene of that row.
    pub fn scene(&self, seed: u64, index: u64) -> Scene {
        self.random_scene(&mut Draws::new(seed, Purpose::Scene, index))
    }

    pub(crate) fn random_scene(&self, draws: &mut Draws) -> Scene {
        let (low, high) = (*self.objects.start(), *self.objects.end());
        let count = low + draws.below(high - low + 1);
        let alike = if count > 1 && draws.happens(ALIKE) {
            2 + draws.below(count - 1)
        } else {
            1
        };
        let mut pairs = self.held_out.others();
        draws.shuffle(&mut pairs);
        let cast = pairs.iter().take(count + 1 - alike).enumerate();
        let cast: Vec<Actor> = cast
            .map(|(number, &(colour, shape))| Actor {
                colour,
                shape,
                texture: None,
                count: if number == 0 { alike } else { 1 },
            })
            .collect();
        self.arrange(&cast, draws)
    }
}

// How often a scene has several objects alike, so that there is something to count.
const ALIKE: f32 = 0.35;
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_row_depends_on_seed_and_index_alone() {
        let world = World::new(64, 1..=8, HeldOut::none()).unwrap();
        assert_eq!(world.row(3, 17), world.row(3, 17));
        assert_ne!(world.row(3, 17).scene, world.row(4, 17).scene);
        assert_ne!(world.row(3, 17).scene, world.row(3, 18).scene);
    }

    #[test]
    fn what_could_not_be_read_is_refused() {
        let message = |size, objects| World::new(size, objects, HeldOut::none()).unwrap_err().to_string();
        assert_eq!(
            message(16, 1..=1),
            "pictures of 16 pixels a side: scenes are drawn at 32 to 256"
        );
        assert_eq!(
            message(32, 1..=3),
            "1 to 3 objects: at 32 pixels a side 1 to 2 are readable"
        );
        assert_eq!(
            message(64, 0..=3),
            "0 to 3 objects: at 64 pixels a side 1 to 8 are readable"
        );
    }
}
