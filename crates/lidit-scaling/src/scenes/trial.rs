//! The judge on trial: how often it is right on drawings, clean and damaged.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{ImageError, Rgb, RgbImage};
use serde::Serialize;

use super::category::Category;
use super::draws::{Draws, Purpose};
use super::fact::Fact;
use super::judge::see;
use super::prompt::Prompt;
use super::suite::Suite;
use super::world::WorldError;

/// What is done to a drawing before it is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Damage {
    /// Nothing.
    Clean,
    /// A Gaussian blur of this deviation in pixels.
    Blur(f32),
    /// Gaussian noise of this deviation on every channel, as a share of 255.
    Noise(f32),
    /// JPEG of this quality, 1 to 100.
    Jpeg(u8),
}

impl Damage {
    /// The columns of the judge's table.
    pub const ALL: [Self; 10] = [
        Self::Clean,
        Self::Blur(0.5),
        Self::Blur(1.0),
        Self::Blur(2.0),
        Self::Noise(0.05),
        Self::Noise(0.1),
        Self::Noise(0.2),
        Self::Jpeg(90),
        Self::Jpeg(50),
        Self::Jpeg(20),
    ];

    /// As "blur 0.5".
    pub fn name(self) -> String {
        match self {
            Self::Clean => "clean".to_owned(),
            Self::Blur(deviation) => format!("blur {deviation}"),
            Self::Noise(deviation) => format!("noise {deviation}"),
            Self::Jpeg(quality) => format!("jpeg {quality}"),
        }
    }

    /// The damaged picture. `index` chooses the noise.
    pub fn apply(self, picture: &RgbImage, index: u64) -> Result<RgbImage, ImageError> {
        match self {
            Self::Clean => Ok(picture.clone()),
            Self::Blur(deviation) => Ok(image::imageops::blur(picture, deviation)),
            Self::Noise(deviation) => Ok(noisy(picture, 255.0 * deviation, index)),
            Self::Jpeg(quality) => {
                let mut bytes = Cursor::new(Vec::new());
                picture.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, quality))?;
                Ok(image::load_from_memory(bytes.get_ref())?.into_rgb8())
            }
        }
    }
}

// Box and Muller's transform of two uniform draws.
fn noisy(picture: &RgbImage, deviation: f32, index: u64) -> RgbImage {
    let mut draws = Draws::new(0, Purpose::Damage, index);
    let mut noise = || (-2.0 * (1.0 - draws.uniform()).ln()).sqrt() * (std::f32::consts::TAU * draws.uniform()).cos();
    let mut damaged = picture.clone();
    for pixel in damaged.pixels_mut() {
        *pixel = Rgb(pixel
            .0
            .map(|channel| (f32::from(channel) + deviation * noise()).round().clamp(0.0, 255.0) as u8));
    }
    damaged
}

/// How often the judge was right about the prompts of one category under one damage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Facts that hold in the picture.
    pub true_facts: usize,
    /// Of those, the ones that it said hold.
    pub true_right: usize,
    /// Facts of other prompts of the category that do not hold in the picture.
    pub false_facts: usize,
    /// Of those, the ones that it said do not.
    pub false_right: usize,
    /// Prompts of the category.
    pub prompts: usize,
    /// Those of which it said that everything holds in the next prompt's picture: chance.
    pub mismatched: usize,
}

impl Tally {
    /// The share of all facts that it was right about.
    pub fn accuracy(&self) -> f64 {
        (self.true_right + self.false_right) as f64 / (self.true_facts + self.false_facts).max(1) as f64
    }
}

// Prompts whose facts are asked of every picture, besides its own.
const OTHERS: usize = 8;

/// Draws the scenes of `count` prompts of a category, damages and judges them.
pub fn trial(suite: &Suite, category: Category, damage: Damage, count: usize) -> Result<Tally, TrialError> {
    let prompts = suite.prompts(category, count)?;
    let mut tally = Tally::default();
    for (number, prompt) in prompts.iter().enumerate() {
        let picture = damage.apply(&prompt.scene.draw(suite.world().size()), number as u64)?;
        let (told, known) = (see(&picture), prompt.scene.sight());
        let others = (1..=OTHERS).map(|step| &prompts[(number + step) % prompts.len()]);
        for fact in others
            .flat_map(|other: &Prompt| &other.facts)
            .filter(|fact| !fact.holds(&known))
        {
            tally.false_facts += 1;
            tally.false_right += usize::from(!fact.holds(&told));
        }
        tally.true_facts += prompt.facts.len();
        tally.true_right += prompt.facts.iter().filter(|fact: &&Fact| fact.holds(&told)).count();
        tally.prompts += 1;
        let next = &prompts[(number + 1) % prompts.len()];
        tally.mismatched += usize::from(next.facts.iter().all(|fact| fact.holds(&told)));
    }
    Ok(tally)
}

/// A trial that could not be held.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The world has no such prompts.
    #[error(transparent)]
    World(#[from] WorldError),
    /// A drawing could not be encoded as JPEG and read back.
    #[error("damaging a drawing by JPEG")]
    Image(#[from] ImageError),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::held_out::HeldOut;
    use super::super::world::World;
    use super::*;

    fn suite(size: u32) -> Suite {
        let world = World::new(size, 1..=World::most_objects(size), HeldOut::draw(8, 0).unwrap()).unwrap();
        Suite::new(world, 11)
    }

    // Right and all facts of all categories.
    fn sum(suite: &Suite, damage: Damage, count: usize) -> Tally {
        let tallies = suite
            .categories()
            .into_iter()
            .map(|category| trial(suite, category, damage, count).unwrap());
        tallies.fold(Tally::default(), |a, b| Tally {
            true_facts: a.true_facts + b.true_facts,
            true_right: a.true_right + b.true_right,
            false_facts: a.false_facts + b.false_facts,
            false_right: a.false_right + b.false_right,
            prompts: a.prompts + b.prompts,
            mismatched: a.mismatched + b.mismatched,
        })
    }

    #[test]
    fn clean_drawings_are_judged_right() {
        for (size, count) in [(32, 60), (64, 40), (128, 25)] {
            let suite = suite(size);
            for category in suite.categories() {
                let tally = trial(&suite, category, Damage::Clean, count).unwrap();
                let right = [
                    (tally.true_right, tally.true_facts),
                    (tally.false_right, tally.false_facts),
                ];
                for (right, all) in right {
                    let share = right as f64 / all as f64;
                    assert!(share >= 0.995, "{category:?} at {size}: {right} of {all}");
                }
                assert!(
                    tally.true_facts >= count && tally.false_facts >= count,
                    "{category:?}: {tally:?}"
                );
            }
        }
    }

    #[test]
    fn damaged_drawings_are_mostly_judged_right() {
        for (size, damage, least) in [
            (32, Damage::Blur(0.5), 0.99),
            (32, Damage::Noise(0.2), 0.97),
            (32, Damage::Jpeg(50), 0.97),
            (64, Damage::Noise(0.1), 0.99),
            (64, Damage::Blur(1.0), 0.95),
        ] {
            let tally = sum(&suite(size), damage, 12);
            let share = tally.true_right as f64 / tally.true_facts as f64;
            assert!(share >= least, "{} at {size}: {tally:?}", damage.name());
            assert!(tally.accuracy() >= least, "{} at {size}: {tally:?}", damage.name());
        }
    }

    #[test]
    fn another_prompts_picture_is_judged_wrong() {
        let tally = sum(&suite(64), Damage::Clean, 20);
        // Of 20 prompts some are alike: "a striped thing", then "a dotted thing", then "a striped thing" again.
        assert!(tally.mismatched * 8 < tally.prompts, "{tally:?}");
    }
}
