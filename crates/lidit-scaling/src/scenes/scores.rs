//! Verdicts gathered into scores with their errors, beside chance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::category::Category;
use super::prompt::{Prompt, Verdict, quartile};
use super::score::{Cluster, Score};
use super::sight::Sight;

/// Which prompts of a category a score is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// All.
    All,
    /// Those that name no held-out pair.
    Seen,
    /// Those that name one.
    HeldOut,
}

/// A category's line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CategoryScore {
    /// The category.
    pub category: Category,
    /// Which of its prompts.
    pub split: Split,
    /// How often everything that a prompt states held.
    #[serde(flatten)]
    pub score: Score,
    /// The mean share of what a prompt states that held.
    pub share: f64,
    /// The same over pictures of other scenes.
    pub chance_share: f64,
}

/// A line of the position-bias test: pairs named in one quarter of their prompts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuartileScore {
    /// The quarter, 0 to 3.
    pub quartile: usize,
    /// How often a pair was in the picture.
    #[serde(flatten)]
    pub score: Score,
}

/// Verdicts, gathered.
#[derive(Clone, Debug)]
pub struct Scores {
    chance: Vec<Sight>,
    prompts: BTreeMap<String, Asked>,
}

// A prompt and its verdicts.
#[derive(Clone, Debug)]
struct Asked {
    category: Category,
    held_out: bool,
    /// For every picture, which facts held.
    right: Vec<Vec<bool>>,
    /// How often each fact, and all of them, hold by chance.
    chance_facts: Vec<f64>,
    chance_all: f64,
}

impl Scores {
    /// No verdicts yet; `chance` is what was seen in random scenes ([`super::Suite::chance`]).
    pub fn new(chance: Vec<Sight>) -> Self {
        Self {
            chance,
            prompts: BTreeMap::new(),
        }
    }

    /// Adds the verdict on a picture of this prompt. Several pictures of one prompt are counted as such.
    pub fn add(&mut self, prompt: &Prompt, verdict: &Verdict) {
        let key = format!("{} {}", prompt.category.name(), prompt.text);
        let chance = &self.chance;
        let asked = self.prompts.entry(key).or_insert_with(|| {
            let share = |holds: &dyn Fn(&Sight) -> bool| {
                chance.iter().filter(|sight| holds(sight)).count() as f64 / chance.len().max(1) as f64
            };
            Asked {
                category: prompt.category,
                held_out: prompt.held_out,
                right: Vec::new(),
                chance_facts: prompt
                    .facts
                    .iter()
                    .map(|fact| share(&|sight| fact.holds(sight)))
                    .collect(),
                chance_all: share(&|sight| prompt.facts.iter().all(|fact| fact.holds(sight))),
            }
        });
        asked.right.push(verdict.right.clone());
    }

    /// Every category that has verdicts, and its splits where it has both kinds.
    pub fn categories(&self) -> Vec<CategoryScore> {
        let splits = [Split::All, Split::Seen, Split::HeldOut];
        let lines = Category::ALL.into_iter().flat_map(|category| {
            let both = [true, false].map(|held_out| self.of(category).any(|asked| asked.held_out == held_out));
            splits
                .into_iter()
                .filter_map(move |split| (both == [true; 2] || split == Split::All).then_some((category, split)))
        });
        lines
            .filter_map(|(category, split)| self.line(category, split))
            .collect()
    }

    /// The position-bias test by quarter; empty without its prompts.
    pub fn quartiles(&self) -> Vec<QuartileScore> {
        let line = |wanted: usize| {
            let clusters = self.of(Category::PositionBias).map(|asked| {
                let count = asked.chance_facts.len();
                let here: Vec<usize> = (0..count).filter(|index| quartile(*index, count) == wanted).collect();
                Cluster {
                    n: here.len() * asked.right.len(),
                    right: asked
                        .right
                        .iter()
                        .flat_map(|right| here.iter().filter(|at| right[**at]))
                        .count(),
                    chance: here.iter().map(|at| asked.chance_facts[*at]).sum::<f64>() * asked.right.len() as f64,
                }
            });
            let score = Score::of(&clusters.collect::<Vec<_>>(), self.chance.len())?;
            Some(QuartileScore {
                quartile: wanted,
                score,
            })
        };
        (0..4).filter_map(line).collect()
    }

    /// Whether the table counts: the model draws a single object as asked, more often than chance by
    /// [`Score::ERRORS`] standard errors.
    pub fn count(&self) -> bool {
        self.line(Category::SingleObject, Split::All)
            .is_some_and(|line| line.score.beats_chance)
    }

    fn of(&self, category: Category) -> impl Iterator<Item = &Asked> {
        self.prompts.values().filter(move |asked| asked.category == category)
    }

    fn line(&self, category: Category, split: Split) -> Option<CategoryScore> {
        let asked: Vec<&Asked> = self
            .of(category)
            .filter(|asked| split == Split::All || asked.held_out == (split == Split::HeldOut))
            .collect();
        let clusters = asked.iter().map(|asked| Cluster {
            n: asked.right.len(),
            right: asked
                .right
                .iter()
                .filter(|right| right.iter().all(|right| *right))
                .count(),
            chance: asked.chance_all * asked.right.len() as f64,
        });
        let score = Score::of(&clusters.collect::<Vec<_>>(), self.chance.len())?;
        let mean_over = |value: &dyn Fn(&Asked) -> f64| {
            asked
                .iter()
                .map(|asked| value(asked) * asked.right.len() as f64)
                .sum::<f64>()
                / score.n as f64
        };
        let share_of = |right: &[bool]| right.iter().filter(|right| **right).count() as f64 / right.len().max(1) as f64;
        Some(CategoryScore {
            category,
            split,
            score,
            share: mean_over(&|asked| mean(asked.right.iter().map(|right| share_of(right)))),
            chance_share: mean_over(&|asked| mean(asked.chance_facts.iter().copied())),
        })
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::held_out::HeldOut;
    use super::super::suite::Suite;
    use super::super::world::World;
    use super::*;

    fn suite(held_out: usize) -> Suite {
        Suite::new(World::new(64, 1..=8, HeldOut::draw(held_out, 0).unwrap()).unwrap(), 2)
    }

    // Verdicts on the prompts' own scenes, but for every `wrong`-th, which shows another prompt's.
    fn scores(suite: &Suite, count: usize, wrong: usize) -> Scores {
        let chance = (0..500).map(|index| suite.world().scene(8, index).sight());
        let mut scores = Scores::new(chance.collect());
        for category in suite.categories() {
            let prompts = suite.prompts(category, count).unwrap();
            for (number, prompt) in prompts.iter().enumerate() {
                let shown = if number % wrong == wrong - 1 {
                    (number + 1) % count
                } else {
                    number
                };
                scores.add(prompt, &Verdict::of_sight(prompts[shown].scene.sight(), prompt));
            }
        }
        scores
    }

    #[test]
    fn a_perfect_model_beats_chance_everywhere_and_one_that_ignores_prompts_nowhere() {
        let suite = suite(8);
        let right = scores(&suite, 60, usize::MAX);
        assert!(right.count());
        for line in right.categories() {
            assert!(line.score.mean > 0.999, "{line:?}");
            assert!(line.score.beats_chance && line.score.chance < 0.6, "{line:?}");
        }
        let ignorant = scores(&suite, 60, 1);
        assert!(!ignorant.count());
        assert!(ignorant.categories().iter().all(|line| !line.score.beats_chance));
        assert!(ignorant.quartiles().iter().all(|line| !line.score.beats_chance));
    }

    #[test]
    fn prompts_with_held_out_pairs_are_scored_apart() {
        let lines = scores(&suite(8), 20, 4).categories();
        let of = |category, split| {
            lines
                .iter()
                .find(|line| (line.category, line.split) == (category, split))
                .copied()
        };
        let [all, seen, held_out] =
            [Split::All, Split::Seen, Split::HeldOut].map(|split| of(Category::Attribution, split).unwrap());
        assert_eq!((all.score.n, seen.score.n, held_out.score.n), (20, 10, 10));
        // Every fourth is wrong, and those are all odd: held out.
        assert_eq!((all.score.mean, seen.score.mean, held_out.score.mean), (0.75, 1.0, 0.5));
        assert!(held_out.share >= held_out.score.mean && held_out.score.chance < 0.05);
        assert!(of(Category::Colour, Split::Seen).is_none());
    }

    #[test]
    fn every_pair_of_the_position_test_counts_in_the_quarter_where_it_is_named() {
        let suite = suite(0);
        let prompts = suite.prompts(Category::PositionBias, 30).unwrap();
        let mut scores = Scores::new(vec![suite.world().scene(0, 0).sight()]);
        for prompt in &prompts {
            // A model that forgets what is named last.
            let mut scene = prompt.scene.clone();
            scene.objects.pop();
            scores.add(prompt, &Verdict::of_sight(scene.sight(), prompt));
        }
        let lines = scores.quartiles();
        assert_eq!(
            lines.iter().map(|line| line.score.mean).take(3).collect::<Vec<_>>(),
            [1.0; 3]
        );
        assert!(lines[3].score.mean < 0.6, "{lines:?}");
        assert_eq!(
            lines.iter().map(|line| line.score.n).sum::<usize>(),
            prompts.iter().map(|prompt| prompt.facts.len()).sum::<usize>()
        );
        assert_eq!(quartile(0, 5), 0);
        assert_eq!([0, 1, 2, 3, 4, 5].map(|index| quartile(index, 6)), [0, 1, 1, 2, 3, 3]);
    }

    #[test]
    fn several_pictures_of_one_prompt_are_not_as_many_prompts() {
        let suite = suite(0);
        let prompts = suite.prompts(Category::Attribution, 20).unwrap();
        let scored = |times: usize| {
            let mut scores = Scores::new(vec![]);
            for (number, prompt) in prompts.iter().enumerate() {
                let shown = &prompts[if number < 10 { number } else { (number + 1) % 20 }];
                for _ in 0..times {
                    scores.add(prompt, &Verdict::of_sight(shown.scene.sight(), prompt));
                }
            }
            scores.categories()[0].score
        };
        let (once, often) = (scored(1), scored(50));
        assert_eq!((once.n, often.n, once.mean), (20, 1000, 0.5));
        assert!(
            (once.standard_error - often.standard_error).abs() < 1e-9,
            "{once:?} {often:?}"
        );
    }
}
