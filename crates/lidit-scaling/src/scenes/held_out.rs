//! Combinations of colour and shape that training never shows.

use serde::{Deserialize, Serialize};

use super::colour::Colour;
use super::draws::{Draws, Purpose};
use super::shape::Shape;
use super::world::WorldError;

/// Pairs of colour and shape that are in no scene and no caption of a training set, so that prompts for them test
/// composition: the model has met both parts, never together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldOut {
    pairs: Vec<(Colour, Shape)>,
}

impl HeldOut {
    /// At most so many: with more, a colour or a shape would be met in too few pairs.
    pub const MOST: usize = 16;

    /// Nothing held out.
    pub fn none() -> Self {
        Self::default()
    }

    /// The first `count` pairs of a list that the seed chooses; the list with more pairs begins with that with fewer.
    /// Every colour and shape is held out about equally often.
    pub fn draw(count: usize, seed: u64) -> Result<Self, WorldError> {
        if count > Self::MOST {
            return Err(WorldError::HeldOut { count });
        }
        let mut draws = Draws::new(seed, Purpose::HeldOut, 0);
        let mut colours = Colour::ALL;
        let mut shapes = Shape::ALL;
        draws.shuffle(&mut colours);
        draws.shuffle(&mut shapes);
        // 7 and 8 have no common divisor: the two cycles meet in 56 different pairs.
        let pairs = (0..count).map(|number| (colours[number % colours.len()], shapes[number % shapes.len()]));
        Ok(Self { pairs: pairs.collect() })
    }

    /// Whether this pair is held out.
    pub fn contains(&self, colour: Colour, shape: Shape) -> bool {
        self.pairs.contains(&(colour, shape))
    }

    /// The pairs.
    pub fn pairs(&self) -> &[(Colour, Shape)] {
        &self.pairs
    }

    /// Every pair that is not held out.
    pub(crate) fn others(&self) -> Vec<(Colour, Shape)> {
        let all = Colour::ALL
            .into_iter()
            .flat_map(|colour| Shape::ALL.map(|shape| (colour, shape)));
        all.filter(|pair| !self.pairs.contains(pair)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pairs_are_spread_over_colours_and_shapes_and_more_begin_with_fewer() {
        let most = HeldOut::draw(HeldOut::MOST, 3).unwrap();
        assert_eq!(HeldOut::draw(5, 3).unwrap().pairs(), &most.pairs()[..5]);
        assert_ne!(HeldOut::draw(5, 4).unwrap().pairs(), &most.pairs()[..5]);
        for (number, pair) in most.pairs().iter().enumerate() {
            assert!(!most.pairs()[..number].contains(pair), "{pair:?} twice");
        }
        for colour in Colour::ALL {
            assert_eq!(most.pairs().iter().filter(|pair| pair.0 == colour).count(), 2);
        }
        for shape in Shape::ALL {
            let count = most.pairs().iter().filter(|pair| pair.1 == shape).count();
            assert!((2..=3).contains(&count), "{shape:?} {count} times");
        }
        assert_eq!(most.others().len(), 56 - 16);
        assert!(HeldOut::draw(17, 3).is_err());
    }
}
