//! What an evaluation is: `configs/eval/*.toml`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use lidit_scaling::scenes::{Category, HeldOut, Prompt, Suite, World};
use lidit_train::{ConfigFile, RunConfig, ValidationSet, Weights};
use serde::{Deserialize, Serialize};

use crate::artist::SamplerArgs;

/// Version of the config's format, `format_version`.
const FORMAT_VERSION: u32 = 1;

/// Most pictures of a prompt, prompts of a category, and seeds: each picture's own seed is made of these.
const MOST_IMAGES: u64 = 1 << 8;
const MOST_PROMPTS: usize = 1 << 24;
const MOST_SEEDS: u64 = 1 << 24;

/// An evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// Always `FORMAT_VERSION` of this file.
    pub format_version: u32,
    /// Whose pictures and loss.
    pub weights: Weights,
    /// Pictures or triples computed at once; changes memory and speed, and results by rounding only.
    pub batch: usize,
    /// Held-out triples of sample, time and noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationSet>,
    /// Prompts whose pictures are judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scenes: Option<ScenesConfig>,
    /// What replaces the run's own `sample.sampler`.
    #[serde(default)]
    pub sampler: SamplerArgs,
}

/// The table `[scenes]`: prompts about drawn scenes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenesConfig {
    /// Side of the pictures in pixels: the run's `data.image_size`.
    pub size: u32,
    /// Fewest and most objects of a scene that the run was trained on.
    pub objects: [usize; 2],
    /// Pairs of colour and shape that training never showed: `--held-out` of `lidit data build scenes`.
    pub held_out: usize,
    /// Which those are: its `--held-out-seed`.
    pub held_out_seed: u64,
    /// Chooses the prompts, and seeds the pictures' noise.
    pub seed: u64,
    /// What is asked for, but for `position_bias`.
    pub categories: Vec<Category>,
    /// Prompts of each category.
    pub prompts: usize,
    /// Prompts of the position-bias test; 0 for none. It needs 64 pixels.
    pub position_prompts: usize,
    /// Pictures of each prompt.
    pub images: u64,
}

impl EvalConfig {
    /// Reads the file `path`, with `sets` (each `key.path=value`).
    ///
    /// # Errors
    /// Names the file and the key.
    pub fn load(path: &Path, sets: &[String]) -> Result<Self> {
        let config: Self = ConfigFile::read(path)?.typed(sets)?;
        config
            .validate()
            .with_context(|| format!("in config {}", path.display()))?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        ensure!(
            self.format_version == FORMAT_VERSION,
            "format_version is {}, this lidit reads {FORMAT_VERSION}",
            self.format_version
        );
        ensure!(self.batch > 0, "batch is 0");
        ensure!(
            self.validation.is_some() || self.scenes.is_some(),
            "there is neither [validation] nor [scenes]: nothing to evaluate"
        );
        if let Some(validation) = &self.validation {
            validation.validate()?;
        }
        self.scenes.as_ref().map_or(Ok(()), ScenesConfig::validate)
    }
}

impl ScenesConfig {
    /// Refuses a run that draws pictures of another size.
    pub fn check_size(&self, run: &RunConfig) -> Result<()> {
        ensure!(
            self.size == run.data.image_size,
            "scenes.size is {}, but the run's pictures have data.image_size = {}",
            self.size,
            run.data.image_size
        );
        Ok(())
    }

    /// Where the prompts come from.
    ///
    /// # Errors
    /// There is no such world.
    pub fn suite(&self) -> Result<Suite> {
        let held_out = HeldOut::draw(self.held_out, self.held_out_seed)?;
        let [fewest, most] = self.objects;
        Ok(Suite::new(World::new(self.size, fewest..=most, held_out)?, self.seed))
    }

    /// Every prompt, with its number among those of its category: the same for every run.
    ///
    /// # Errors
    /// The world can't show a category.
    pub fn prompts(&self) -> Result<Vec<(usize, Prompt)>> {
        let suite = self.suite()?;
        let mut prompts = Vec::new();
        for (category, count) in self.counts() {
            prompts.extend(suite.prompts(category, count)?.into_iter().enumerate());
        }
        Ok(prompts)
    }

    /// How many prompts are asked of each category.
    fn counts(&self) -> Vec<(Category, usize)> {
        let listed = self.categories.iter().map(|&category| (category, self.prompts));
        let all = listed.chain([(Category::PositionBias, self.position_prompts)]);
        all.filter(|&(_, prompts)| prompts > 0).collect()
    }

    /// The seed of a picture: the same whatever else is asked for.
    pub fn seed_of(&self, category: Category, prompt: usize, image: u64) -> u64 {
        (self.seed << 40) | ((category as u64) << 32) | ((prompt as u64) << 8) | image
    }

    fn validate(&self) -> Result<()> {
        ensure!(
            self.counts().iter().any(|&(_, prompts)| prompts > 0),
            "scenes asks for no prompt: name scenes.categories, scenes.prompts or scenes.position_prompts"
        );
        ensure!(
            self.prompts.max(self.position_prompts) <= MOST_PROMPTS,
            "scenes.prompts and scenes.position_prompts are at most {MOST_PROMPTS}"
        );
        ensure!(
            (1..=MOST_IMAGES).contains(&self.images),
            "scenes.images is {}: it must be from 1 to {MOST_IMAGES}",
            self.images
        );
        ensure!(
            self.seed < MOST_SEEDS,
            "scenes.seed is {}: it must be below {MOST_SEEDS}",
            self.seed
        );
        for (number, category) in self.categories.iter().enumerate() {
            ensure!(
                *category != Category::PositionBias,
                "scenes.categories has position_bias: say scenes.position_prompts"
            );
            ensure!(
                !self.categories[..number].contains(category),
                "scenes.categories has {} twice",
                category.name()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    fn config() -> EvalConfig {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/eval/scenes-64.toml");
        EvalConfig::load(&path, &[]).unwrap()
    }

    #[test]
    fn pictures_have_seeds_of_their_own_that_no_count_changes() {
        let scenes = config().scenes.unwrap();
        let mut seeds = BTreeSet::new();
        for category in Category::ALL {
            for prompt in [0, 1, MOST_PROMPTS - 1] {
                for image in [0, 1, MOST_IMAGES - 1] {
                    assert!(seeds.insert(scenes.seed_of(category, prompt, image)));
                    let next = ScenesConfig {
                        seed: scenes.seed + 1,
                        ..scenes.clone()
                    };
                    assert!(seeds.insert(next.seed_of(category, prompt, image)));
                }
            }
        }
    }

    #[test]
    fn what_asks_for_nothing_is_refused_by_its_key() {
        let refused = |change: &dyn Fn(&mut EvalConfig)| {
            let mut config = config();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        let scenes = |change: &dyn Fn(&mut ScenesConfig)| refused(&|config| change(config.scenes.as_mut().unwrap()));
        assert!(refused(&|config| config.format_version = 2).contains("format_version is 2"));
        assert!(refused(&|config| config.batch = 0).contains("batch"));
        assert!(refused(&|config| (config.scenes, config.validation) = (None, None)).contains("neither"));
        assert!(scenes(&|scenes| (scenes.prompts, scenes.position_prompts) = (0, 0)).contains("no prompt"));
        assert!(scenes(&|scenes| scenes.images = 0).contains("scenes.images is 0"));
        assert!(scenes(&|scenes| scenes.seed = 1 << 24).contains("scenes.seed"));
        assert!(scenes(&|scenes| scenes.categories.push(Category::PositionBias)).contains("position_prompts"));
        assert!(scenes(&|scenes| scenes.categories.push(Category::Colour)).contains("colour twice"));
    }
}
