//! Where objects stand: readable, apart, and otherwise at random.

use super::colour::{Background, Colour};
use super::draws::Draws;
use super::object::Object;
use super::scene::Scene;
use super::shape::Shape;
use super::texture::Texture;
use super::world::World;

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
        let low = (least / self.size() as f32).max(LEAST_SIDE);
        draws.between(low, MOST_SIDE[count.min(MOST_SIDE.len()) - 1].max(low))
    }

    fn draw_texture(&self, object: &Object, draws: &mut Draws) -> Texture {
        if object.side * self.size() as f32 >= marked_pixels(object.shape) && draws.happens(MARKED) {
            draws.pick(&Texture::MARKED)
        } else {
            Texture::Plain
        }
    }

    // Larger objects first; where they don't fit, all shrink a little.
    fn place(&self, objects: &mut [Object], draws: &mut Draws) {
        let mut order: Vec<usize> = (0..objects.len()).collect();
        order.sort_by(|a, b| objects[*b].side.total_cmp(&objects[*a].side));
        let low = (LEAST_PIXELS / self.size() as f32).max(LEAST_SIDE);
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
        let pixel = 1.0 / self.size() as f32;
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
    use super::super::held_out::HeldOut;
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
}
