//! The world: which scenes there are, and how often.

use std::ops::RangeInclusive;

use image::RgbImage;
use thiserror::Error;

use super::caption::Caption;
use super::colour::{Background, Colour};
use super::draws::{Draws, Purpose};
use super::held_out::HeldOut;
use super::object::Object;
use super::scene::Scene;
use super::shape::Shape;
use super::texture::Texture;

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

/// Objects to place: `count` alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Actor {
    pub colour: Colour,
    pub shape: Shape,
    /// Drawn where `None`.
    pub texture: Option<Texture>,
    pub count: usize,
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

    /// Places a cast at random, every object readable and apart from the others.
    pub(crate) fn arrange(&self, cast: &[Actor], draws: &mut Draws) -> Scene {
        let background = draws.pick(&Background::ALL);
        let count = cast.iter().map(|actor| actor.count).sum();
        let sides: Vec<f32> = cast.iter().map(|actor| self.draw_side(actor, count, draws)).collect();
        let mut objects = Vec::with_capacity(count);
        for (actor, side) in cast.iter().zip(sides) {
            let object = Object {
                shape: actor.shape,
                colour: actor.colour,
                texture: actor.texture.unwrap_or(Texture::Plain),
                centre: [0.5; 2],
                side,
            };
            objects.extend(std::iter::repeat_n(object, actor.count));
        }
        self.place(&mut objects, draws);
        let mut first = 0;
        for actor in cast {
            let alike = &mut objects[first..first + actor.count];
            first += actor.count;
            if actor.texture.is_none() {
                let texture = self.draw_texture(&alike[0], draws);
                for object in alike {
                    object.texture = texture;
                }
            }
        }
        Scene { background, objects }
    }

    fn draw_side(&self, actor: &Actor, count: usize, draws: &mut Draws) -> f32 {
        let marked = actor.texture.is_some_and(|texture| texture != Texture::Plain);
        let least = if marked {
            marked_pixels(actor.shape)
        } else {
            LEAST_PIXELS
        };
        let low = (least / self.size as f32).max(LEAST_SIDE);
        draws.between(low, MOST_SIDE[count.min(MOST_SIDE.len()) - 1].max(low))
    }

    fn draw_texture(&self, object: &Object, draws: &mut Draws) -> Texture {
        if object.side * self.size as f32 >= marked_pixels(object.shape) && draws.happens(MARKED) {
            draws.pick(&Texture::MARKED)
        } else {
            Texture::Plain
        }
    }

    // Larger objects first; where they don't fit, all shrink a little.
    fn place(&self, objects: &mut [Object], draws: &mut Draws) {
        let mut order: Vec<usize> = (0..objects.len()).collect();
        order.sort_by(|a, b| objects[*b].side.total_cmp(&objects[*a].side));
        let low = (LEAST_PIXELS / self.size as f32).max(LEAST_SIDE);
        while !order.iter().enumerate().all(|(number, &one)| {
            let placed = self.free_centre(objects, &order[..number], objects[one].side, draws);
            objects[one].centre = placed.unwrap_or([0.5; 2]);
            placed.is_some()
        }) {
            for object in &mut *objects {
                object.side = (object.side * 0.98).max(low);
            }
        }
    }

    fn free_centre(&self, objects: &[Object], placed: &[usize], side: f32, draws: &mut Draws) -> Option<[f32; 2]> {
        let pixel = 1.0 / self.size as f32;
        let gap = (GAP_PIXELS * pixel).max(GAP);
        let edge = side / 2.0 + (EDGE_PIXELS * pixel).max(EDGE);
        (0..TRIES).find_map(|_| {
            let centre = [draws.between(edge, 1.0 - edge), draws.between(edge, 1.0 - edge)];
            let apart = placed.iter().all(|&other| {
                let other = &objects[other];
                let least = side.midpoint(other.side) + gap;
                (0..2).any(|axis| (centre[axis] - other.centre[axis]).abs() >= least)
            });
            apart.then_some(centre)
        })
    }
}

// How often a scene has several objects alike, so that there is something to count.
const ALIKE: f32 = 0.35;
// How often an object large enough for it has a texture with marks.
const MARKED: f32 = 0.6;
// The smallest side of an object in pixels: below, shapes are a matter of opinion.
const LEAST_PIXELS: f32 = 9.0;
// The smallest and, by the number of objects, the largest side as shares of the picture's.
const LEAST_SIDE: f32 = 0.14;
const MOST_SIDE: [f32; 8] = [0.7, 0.43, 0.38, 0.35, 0.3, 0.28, 0.25, 0.24];
// Room between objects and to the edge, in pixels and as a share of the side: the larger of the two.
const GAP_PIXELS: f32 = 2.0;
const GAP: f32 = 0.045;
const EDGE_PIXELS: f32 = 1.0;
const EDGE: f32 = 0.025;
const TRIES: usize = 40;

// The same for one with marks: thin shapes show less of a pattern.
fn marked_pixels(shape: Shape) -> f32 {
    match shape {
        Shape::Star | Shape::Cross => 16.0,
        _ => 12.0,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn objects_are_readable_and_apart() {
        for size in [32, 48, 64, 128, 256] {
            let most = World::most_objects(size);
            let world = World::new(size, 1..=most, HeldOut::none()).unwrap();
            let mut counts = vec![0; most + 1];
            for index in 0..300 {
                let objects = world.scene(1, index).objects;
                counts[objects.len()] += 1;
                for (number, one) in objects.iter().enumerate() {
                    let side = one.side * size as f32;
                    assert!(side > LEAST_PIXELS - 0.01, "{side} pixels at {size}");
                    assert!(
                        one.texture == Texture::Plain || side > marked_pixels(one.shape) * 0.999,
                        "{one:?} at {size}"
                    );
                    let edge = one.side / 2.0;
                    assert!(one.centre.iter().all(|at| (edge..=1.0 - edge).contains(at)), "{one:?}");
                    for other in &objects[..number] {
                        let apart = [0, 1].map(|axis| (one.centre[axis] - other.centre[axis]).abs());
                        let gap = apart[0].max(apart[1]) - one.side.midpoint(other.side);
                        assert!(gap * size as f32 > GAP_PIXELS - 0.01, "{objects:?}");
                    }
                }
            }
            assert!(counts[1..].iter().all(|count| *count * most * 2 > 300), "{counts:?}");
        }
    }

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
