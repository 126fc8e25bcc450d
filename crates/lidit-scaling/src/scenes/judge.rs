//! The judge: what is in a picture, told from its pixels alone.
//!
//! What differs from the picture's border is cut into pieces ([`pieces`]); each piece is compared with every shape of
//! this world, moved and scaled to fit ([`outline`]); what lies inside tells texture and colour ([`inside`]). Nothing
//! is random, and nothing of the scene that was drawn, or asked for, is known.

mod crop;
mod ground;
mod inside;
mod outline;
mod pieces;

use image::RgbImage;

use self::crop::Crop;
use self::ground::Ground;
use self::outline::Outline;
use super::sight::{Seen, Sight};

/// Reads a picture: its background and its objects. Pictures of 16 pixels a side or more; smaller ones show nothing.
pub fn see(picture: &RgbImage) -> Sight {
    if picture.width().min(picture.height()) < LEAST_PIXELS {
        return Sight::default();
    }
    let ground = Ground::of(picture);
    let pieces = pieces::pieces(&ground);
    let labels = pieces::labels(&ground, &pieces);
    let objects = pieces.iter().enumerate().map(|(number, piece)| {
        let crop = Crop::of(&ground, piece, &labels, number);
        let scale = [ground.width as f32, ground.height as f32];
        describe(&crop, ground.noise, scale)
    });
    let mut objects: Vec<Seen> = objects.collect();
    objects.sort_by(|a, b| {
        a.centre[1]
            .total_cmp(&b.centre[1])
            .then(a.centre[0].total_cmp(&b.centre[0]))
    });
    Sight {
        background: ground.named(),
        objects,
    }
}

// What looks like no shape of this world has no colour or texture either: it is no object that a caption could mean.
fn describe(crop: &Crop, noise: f32, scale: [f32; 2]) -> Seen {
    let outline = Outline::fit(crop, noise);
    let side = outline.side * crop.pool as f32;
    let shorter = scale[0].min(scale[1]);
    let centre = crop.in_picture(outline.centre);
    let mut seen = Seen {
        shape: None,
        colour: None,
        texture: None,
        centre: [centre[0] / scale[0], centre[1] / scale[1]],
        side: side / shorter,
    };
    let inside =
        (0..2).all(|axis| (side * (0.5 - BEYOND)..=scale[axis] - side * (0.5 - BEYOND)).contains(&centre[axis]));
    if outline.fits() && inside && side >= LEAST_OBJECT.max(LEAST_SHARE * shorter) {
        seen.shape = Some(outline.shape);
        (seen.texture, seen.colour) = inside::read(crop, &outline, noise);
    }
    seen
}

const LEAST_PIXELS: u32 = 16;
// Objects are drawn with sides of 9 pixels and 0.14 of the picture's or more.
const LEAST_OBJECT: f32 = 7.5;
// The share of an object that may be cut off.
const BEYOND: f32 = 0.08;
const LEAST_SHARE: f32 = 0.115;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use image::Rgb;

    use super::super::draws::{Draws, Purpose};
    use super::super::{
        Background, Category, Colour, Damage, HeldOut, Prompt, Scene, Shape, Suite, Texture, Verdict, World,
    };
    use super::*;

    fn prompts(size: u32, category: Category) -> Vec<Prompt> {
        let world = World::new(size, 1..=World::most_objects(size), HeldOut::none()).unwrap();
        Suite::new(world, 3).prompts(category, 24).unwrap()
    }

    // Every scene of these prompts is changed in one respect, and then not one of them must pass.
    fn all_wrong(category: Category, change: impl Fn(&mut Scene)) {
        for size in [32, 64] {
            for prompt in prompts(size, category) {
                assert!(
                    Verdict::of(&prompt.scene.draw(size), &prompt).all_right(),
                    "{}",
                    prompt.text
                );
                let mut scene = prompt.scene.clone();
                change(&mut scene);
                let verdict = Verdict::of(&scene.draw(size), &prompt);
                assert!(!verdict.all_right(), "{}: {scene:?} {:?}", prompt.text, verdict.sight);
            }
        }
    }

    fn next<T: PartialEq + Copy>(all: &[T], one: T) -> T {
        let at = all.iter().position(|other| *other == one).unwrap();
        all[(at + 1) % all.len()]
    }

    #[test]
    fn a_wrong_picture_is_judged_wrong() {
        all_wrong(Category::SingleObject, |scene| {
            scene.objects[0].colour = next(&Colour::ALL, scene.objects[0].colour);
        });
        all_wrong(Category::SingleObject, |scene| {
            scene.objects[0].shape = next(&Shape::ALL, scene.objects[0].shape);
        });
        all_wrong(Category::Texture, |scene| {
            scene.objects[0].texture = next(&Texture::ALL, scene.objects[0].texture);
        });
        all_wrong(Category::Texture, |scene| scene.objects[0].texture = Texture::Plain);
        all_wrong(Category::Counting, |scene| scene.objects.truncate(1));
        all_wrong(Category::TwoObjects, |scene| scene.objects.truncate(1));
        all_wrong(Category::Attribution, |scene| {
            let [a, b] = [0, 1].map(|at| scene.objects[at].colour);
            (scene.objects[0].colour, scene.objects[1].colour) = (b, a);
        });
        all_wrong(Category::Spatial, |scene| {
            for object in &mut scene.objects {
                object.centre = object.centre.map(|at| 1.0 - at);
            }
        });
        all_wrong(Category::Position, |scene| {
            let [x, y] = scene.objects[0].centre;
            scene.objects[0].side = 0.3;
            let far = |at: f32| if at > 0.5 { 0.2 } else { 0.8 };
            scene.objects[0].centre = [far(x), far(y)];
        });
    }

    #[test]
    fn the_position_test_tells_which_pair_is_missing() {
        for prompt in prompts(64, Category::PositionBias) {
            let mut scene = prompt.scene.clone();
            scene.objects.remove(1);
            let verdict = Verdict::of(&scene.draw(64), &prompt);
            let wrong: Vec<usize> = (0..verdict.right.len()).filter(|at| !verdict.right[*at]).collect();
            assert_eq!(wrong, [1], "{}", prompt.text);
        }
    }

    #[test]
    fn nothing_is_seen_in_blank_noise_smears_and_tiny_pictures() {
        let nameless = |picture: &RgbImage| see(picture).objects.iter().all(|seen| seen.shape.is_none());
        for size in [32, 64, 128] {
            for background in Background::ALL {
                let blank = Scene {
                    background,
                    objects: vec![],
                }
                .draw(size);
                assert_eq!(
                    see(&blank),
                    Scene {
                        background,
                        objects: vec![]
                    }
                    .sight()
                );
                for index in 0..4 {
                    let noise = Damage::Noise(0.5).apply(&blank, index).unwrap();
                    assert!(nameless(&noise), "{size} {background:?} {:?}", see(&noise));
                }
            }
            let uniform = &mut Draws::new(size.into(), Purpose::Damage, 0);
            let static_noise = RgbImage::from_fn(size, size, |_, _| Rgb([0; 3].map(|_: u8| uniform.below(256) as u8)));
            assert!(nameless(&static_noise), "{:?}", see(&static_noise));
            let slope = RgbImage::from_fn(size, size, |x, y| {
                Rgb([(x * 255 / size) as u8, (y * 255 / size) as u8, 90])
            });
            assert!(nameless(&slope), "{:?}", see(&slope));
        }
        assert_eq!(see(&RgbImage::new(8, 40)), Sight::default());
    }

    #[test]
    fn shapes_of_other_worlds_have_no_name() {
        type Inside<'a> = &'a dyn Fn(f32, f32) -> bool;
        let paint = |size: u32, inside: Inside| {
            RgbImage::from_fn(size, size, |x, y| {
                let [x, y] = [x, y].map(|at| 2.0 * (at as f32 + 0.5) / size as f32 - 1.0);
                Rgb(if inside(x, y) { [215, 35, 35] } else { [255; 3] })
            })
        };
        let others: [(&str, Inside); 5] = [
            ("bar", &|x, y| x.abs() < 0.7 && y.abs() < 0.3),
            ("ring", &|x, y| (0.35..0.7).contains(&x.hypot(y))),
            ("half disc", &|x, y| x.hypot(y) < 0.7 && y < 0.0),
            ("corner", &|x, y| {
                x.abs() < 0.6 && y.abs() < 0.6 && (x < -0.2 || y < -0.2)
            }),
            ("two discs that touch", &|x, y| (x.abs() - 0.38).hypot(y) < 0.4),
        ];
        for size in [32, 64, 128] {
            for (name, inside) in others {
                let sight = see(&paint(size, inside));
                assert_eq!(sight.objects.len(), 1, "{name} at {size}");
                assert_eq!(
                    (sight.objects[0].shape, sight.objects[0].colour),
                    (None, None),
                    "{name} at {size}"
                );
            }
            let disc = see(&paint(size, &|x, y| x.hypot(y) < 0.7));
            assert_eq!(disc.objects[0].shape, Some(Shape::Circle));
        }
    }
}
