//! A prompt and the verdict on a picture made from it.

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::category::Category;
use super::fact::Fact;
use super::judge::see;
use super::scene::Scene;
use super::sight::Sight;

/// A prompt and everything it states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// What it tests.
    pub category: Category,
    /// The text.
    pub text: String,
    /// What it states, in order of mention.
    pub facts: Vec<Fact>,
    /// Whether it names a held-out combination.
    pub held_out: bool,
    /// A scene in which all of it holds: draw it as a reference.
    pub scene: Scene,
}

/// What the judge says of one picture and its prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The prompt's category.
    pub category: Category,
    /// The prompt's.
    pub held_out: bool,
    /// Whether each fact of the prompt holds, in its order. In the position-bias test each is a pair of adjective and
    /// noun.
    pub right: Vec<bool>,
    /// What the judge saw.
    pub sight: Sight,
}

impl Verdict {
    /// Judges a picture made from a prompt.
    pub fn of(picture: &RgbImage, prompt: &Prompt) -> Self {
        Self::of_sight(see(picture), prompt)
    }

    /// The same for what was seen already.
    pub fn of_sight(sight: Sight, prompt: &Prompt) -> Self {
        Self {
            category: prompt.category,
            held_out: prompt.held_out,
            right: prompt.facts.iter().map(|fact| fact.holds(&sight)).collect(),
            sight,
        }
    }

    /// Whether all that the prompt states holds.
    pub fn all_right(&self) -> bool {
        self.right.iter().all(|right| *right)
    }

    /// The share of what it states that holds, 0 to 1.
    pub fn share(&self) -> f64 {
        let right = self.right.iter().filter(|right| **right).count();
        right as f64 / self.right.len().max(1) as f64
    }
}

/// The quarter of a prompt, 0 to 3, in which fact `index` of `count` is named.
pub fn quartile(index: usize, count: usize) -> usize {
    (4 * index + 2) / count.max(1)
}
