//! Prompts to test a model with.

use super::arrange::Actor;
use super::caption::{clear_relation, listing, phrase, place_of, place_words, relation_words, sentence};
use super::category::Category;
use super::colour::Colour;
use super::draws::{Draws, Purpose};
use super::fact::Fact;
use super::judge::see;
use super::object::Description;
use super::prompt::Prompt;
use super::scene::Scene;
use super::shape::Shape;
use super::sight::Sight;
use super::texture::Texture;
use super::world::{World, WorldError};

/// Prompts about the scenes of a world. The same seed gives the same prompts, and more prompts begin with fewer.
#[derive(Clone, Debug, PartialEq)]
pub struct Suite {
    world: World,
    seed: u64,
}

// Room for more categories than there are.
const STREAMS: u64 = 64;
const MOST_COUNTED: usize = 5;

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

    /// The categories that this world can show.
    pub fn categories(&self) -> Vec<Category> {
        Category::ALL
            .into_iter()
            .filter(|category| self.check(*category).is_ok())
            .collect()
    }

    /// The first `count` prompts of a category. Where pairs are held out, every second prompt of a category that names
    /// colours with shapes ([`Category::asks_held_out`]) names a held-out pair.
    pub fn prompts(&self, category: Category, count: usize) -> Result<Vec<Prompt>, WorldError> {
        self.check(category)?;
        Ok((0..count as u64).map(|index| self.prompt(category, index)).collect())
    }

    /// What the judge sees in random scenes of the training distribution: how often a prompt holds in them is chance.
    pub fn chance(&self) -> Vec<Sight> {
        let scenes = (0..Self::CHANCE_PICTURES).map(|index| self.world.scene(self.seed, index));
        scenes.map(|scene| see(&scene.draw(self.world.size()))).collect()
    }

    fn check(&self, category: Category) -> Result<(), WorldError> {
        let (size, objects) = (self.world.size(), *self.world.objects().end());
        if size >= category.least_size() && objects >= category.least_objects() {
            return Ok(());
        }
        Err(WorldError::Category {
            category: category.name(),
            least_size: category.least_size(),
            least_objects: category.least_objects(),
            size,
            objects,
        })
    }

    fn prompt(&self, category: Category, index: u64) -> Prompt {
        let stream = index.wrapping_mul(STREAMS).wrapping_add(category as u64);
        let mut draws = Draws::new(self.seed, Purpose::Prompts, stream);
        let held_out = category.asks_held_out() && index % 2 == 1 && !self.world.held_out().pairs().is_empty();
        let cast = self.cast(category, held_out, &mut draws);
        let (scene, list, facts) = loop {
            let scene = self.world.arrange(&cast, &mut draws);
            if let Some((list, facts)) = said(category, &cast, &scene, &mut draws) {
                break (scene, list, facts);
            }
        };
        Prompt {
            category,
            text: sentence(&list, cast[0].count, None, &mut draws),
            facts,
            held_out,
            scene,
        }
    }

    // In order of mention.
    fn cast(&self, category: Category, held_out: bool, draws: &mut Draws) -> Vec<Actor> {
        let most = *self.world.objects().end();
        let (kinds, count) = match category {
            Category::Counting => (1, 2 + draws.below(most.min(MOST_COUNTED) - 1)),
            Category::Spatial | Category::TwoObjects | Category::Attribution => (2, 1),
            Category::PositionBias => (4 + draws.below(most - 3), 1),
            _ => (1, 1),
        };
        let mut pairs = self.world.held_out().others();
        draws.shuffle(&mut pairs);
        if held_out {
            pairs.insert(0, draws.pick(self.world.held_out().pairs()));
        }
        let mut chosen: Vec<(Colour, Shape)> = Vec::with_capacity(kinds);
        for pair in pairs {
            // Two objects that differ in both: of two red ones, one attribute would be bound wherever it went.
            let differs = |other: &(Colour, Shape)| other.0 != pair.0 && other.1 != pair.1;
            if chosen.len() < kinds && (kinds > 2 || chosen.iter().all(differs)) {
                chosen.push(pair);
            }
        }
        draws.shuffle(&mut chosen);
        let texture = (category == Category::Texture).then(|| draws.pick(&Texture::MARKED));
        let actor = |(colour, shape)| Actor {
            colour,
            shape,
            texture,
            count,
        };
        chosen.into_iter().map(actor).collect()
    }
}

// What the prompt lists and states; `None` where the scene leaves it unclear.
fn said(category: Category, cast: &[Actor], scene: &Scene, draws: &mut Draws) -> Option<(String, Vec<Fact>)> {
    let what = |actor: &Actor| Description {
        colour: (!matches!(category, Category::Shape | Category::Texture | Category::TwoObjects))
            .then_some(actor.colour),
        shape: (!matches!(category, Category::Colour | Category::Texture)).then_some(actor.shape),
        texture: actor.texture,
        size: None,
    };
    let first = what(&cast[0]);
    match category {
        Category::Spatial => {
            let relation = clear_relation(&scene.objects[0], &scene.objects[1])?;
            let object = what(&cast[1]);
            let [a, b] = [first, object].map(|what| phrase(what, 1, draws));
            let fact = Fact::Relation {
                subject: first,
                relation,
                object,
            };
            Some((format!("{a} {} {b}", relation_words(relation, draws)), vec![fact]))
        }
        Category::Position => {
            let place = place_of(&scene.objects[0])?;
            let list = format!("{} {}", phrase(first, 1, draws), place_words(place, draws));
            Some((list, vec![Fact::Placed { what: first, place }]))
        }
        Category::Counting => {
            let count = cast[0].count;
            Some((phrase(first, count, draws), vec![Fact::Count { what: first, count }]))
        }
        _ => {
            let phrases: Vec<String> = cast.iter().map(|actor| phrase(what(actor), 1, draws)).collect();
            let facts = cast.iter().map(|actor| Fact::Exists { what: what(actor) });
            Some((listing(&phrases, draws), facts.collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::held_out::HeldOut;
    use super::*;

    fn suite(size: u32, held_out: usize) -> Suite {
        let world = World::new(size, 1..=World::most_objects(size), HeldOut::draw(held_out, 4).unwrap()).unwrap();
        Suite::new(world, 9)
    }

    #[test]
    fn every_prompt_holds_in_its_scene_and_more_prompts_begin_with_fewer() {
        for suite in [suite(32, 8), suite(64, 0)] {
            for category in suite.categories() {
                let prompts = suite.prompts(category, 40).unwrap();
                for prompt in &prompts {
                    let sight = prompt.scene.sight();
                    assert!(prompt.facts.iter().all(|fact| fact.holds(&sight)), "{}", prompt.text);
                    assert!(!prompt.facts.is_empty() && !prompt.text.is_empty());
                }
                assert_eq!(suite.prompts(category, 7).unwrap(), prompts[..7]);
            }
        }
    }

    #[test]
    fn every_second_prompt_for_pairs_asks_for_a_held_out_one() {
        let suite = suite(64, 8);
        let held_out = suite.world().held_out();
        for category in suite.categories() {
            for (index, prompt) in suite.prompts(category, 20).unwrap().iter().enumerate() {
                assert_eq!(prompt.held_out, category.asks_held_out() && index % 2 == 1);
                let objects = &prompt.scene.objects;
                let shown = objects
                    .iter()
                    .any(|object| held_out.contains(object.colour, object.shape));
                assert_eq!(shown, prompt.held_out, "{}", prompt.text);
            }
        }
        assert!(
            self::suite(64, 0)
                .prompts(Category::Counting, 20)
                .unwrap()
                .iter()
                .all(|prompt| !prompt.held_out)
        );
    }

    #[test]
    fn what_a_world_cannot_show_is_refused() {
        let message = suite(32, 0).prompts(Category::PositionBias, 1).unwrap_err().to_string();
        assert!(
            message.starts_with("position_bias prompts need pictures of 64 pixels"),
            "{message}"
        );
        assert_eq!(suite(32, 0).categories().len(), 9);
        let single = World::new(64, 1..=1, HeldOut::none()).unwrap();
        assert_eq!(Suite::new(single, 0).categories().len(), 5);
    }
}
