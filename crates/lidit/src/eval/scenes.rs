//! Pictures of prompts about scenes, drawn and judged.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image::RgbImage;
use lidit_data::Dataset;
use lidit_scaling::scenes::{Category, CategoryScore, Prompt, QuartileScore, Scores, Split, Suite, Verdict};
use lidit_train::{Drawing, GridRow, ImageGrid, RunConfig, Tile, check_size};
use serde::{Deserialize, Serialize};

use super::config::ScenesConfig;
use crate::artist::Artist;

/// Pictures of a category that grid.png shows.
const SHOWN: usize = 8;

/// Prompts, and the pictures that are to be drawn of each.
pub struct ScenesTest {
    suite: Suite,
    /// One a picture: those of one prompt follow each other.
    pictures: Vec<(Prompt, Drawing)>,
    files: Vec<PathBuf>,
}

/// What the judge says of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenesScores {
    /// Whether single objects are drawn as asked, above chance by 5 standard errors: else the scores mean nothing.
    pub counts: bool,
    /// A line a category, and where pairs are held out one for prompts with and one for those without them.
    pub categories: Vec<CategoryScore>,
    /// The position-bias test, by the quarter of the prompt; empty without it.
    pub quartiles: Vec<QuartileScore>,
    /// Every picture.
    pub pictures: Vec<JudgedPicture>,
}

/// A picture and its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgedPicture {
    /// In the evaluation's folder.
    pub file: PathBuf,
    /// What it should show.
    pub prompt: String,
    /// What that tests.
    pub category: Category,
    /// Whether it names a held-out pair.
    pub held_out: bool,
    /// Of its noise.
    pub seed: u64,
    /// Whether each of the prompt's statements holds, in order.
    pub right: Vec<bool>,
}

impl ScenesTest {
    /// The test of `config`, for a run.
    ///
    /// # Errors
    /// The run draws pictures of another size, or was trained with other pairs held out; the world can't show a category.
    pub fn new(config: &ScenesConfig, run: &RunConfig) -> Result<Self> {
        config.check_size(run)?;
        let size = config.size;
        check_size(run.token_pixels()?, size, size)?;
        check_held_out(config, run)?;
        let (mut pictures, mut files) = (Vec::new(), Vec::new());
        for (number, prompt) in config.prompts()? {
            let category = prompt.category;
            for image in 0..config.images {
                files.push(PathBuf::from(format!(
                    "pictures/{}-{number:04}-{image}.png",
                    category.name()
                )));
                let drawing = Drawing {
                    prompt: prompt.text.clone(),
                    seed: config.seed_of(category, number, image),
                    width: size,
                    height: size,
                };
                pictures.push((prompt.clone(), drawing));
            }
        }
        Ok(Self {
            suite: config.suite()?,
            pictures,
            files,
        })
    }

    /// All that the encoders are asked for: the prompts, and the empty one for guidance.
    pub fn prompts(&self) -> Vec<String> {
        let texts = self.pictures.iter().map(|(prompt, _)| prompt.text.clone());
        std::iter::once(String::new()).chain(texts).collect()
    }

    /// Draws all pictures, `batch` at once, into `out`, and judges them.
    pub fn judge(&self, batch: usize, artist: &mut Artist, out: &Path) -> Result<ScenesScores> {
        let folder = out.join("pictures");
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        artist.remember(&self.prompts())?;
        let drawings: Vec<Drawing> = self.pictures.iter().map(|(_, drawing)| drawing.clone()).collect();
        let mut judged: Vec<Option<(RgbImage, Verdict)>> = vec![None; drawings.len()];
        let file = artist.picture_file();
        artist.draw(&drawings, batch, |i, picture| {
            let verdict = Verdict::of(&picture, &self.pictures[i].0);
            let said = [("verdict", said(&verdict.right).to_owned())];
            file.write(&out.join(&self.files[i]), &drawings[i], &picture, &said)?;
            judged[i] = Some((picture, verdict));
            Ok(())
        })?;
        let judged: Vec<(RgbImage, Verdict)> = judged.into_iter().flatten().collect();
        let mut scores = Scores::new(self.suite.chance());
        for ((prompt, _), (_, verdict)) in self.pictures.iter().zip(&judged) {
            scores.add(prompt, verdict);
        }
        let pictures = self.pictures.iter().zip(&self.files).zip(&judged);
        let scores = ScenesScores {
            counts: scores.count(),
            categories: scores.categories(),
            quartiles: scores.quartiles(),
            pictures: pictures
                .map(|(((prompt, drawing), file), (_, verdict))| JudgedPicture {
                    file: file.clone(),
                    prompt: prompt.text.clone(),
                    category: prompt.category,
                    held_out: prompt.held_out,
                    seed: drawing.seed,
                    right: verdict.right.clone(),
                })
                .collect(),
        };
        let images: Vec<&RgbImage> = judged.iter().map(|(picture, _)| picture).collect();
        let grid = out.join("grid.png");
        scores
            .grid(&images)
            .draw()?
            .save(&grid)
            .with_context(|| format!("writing {}", grid.display()))?;
        Ok(scores)
    }
}

impl ScenesScores {
    /// The first `images` of every category, with their verdicts.
    fn grid(&self, images: &[&RgbImage]) -> ImageGrid {
        let all = self.categories.iter().filter(|line| line.split == Split::All);
        let rows = all.map(|line| {
            let own = self.pictures.iter().zip(images);
            let own = own.filter(|(picture, _)| picture.category == line.category);
            let tiles = own.take(SHOWN).map(|(picture, image)| Tile {
                image: (*image).clone(),
                caption: format!("{}: {}", said(&picture.right), picture.prompt),
            });
            GridRow {
                heading: Some(format!(
                    "{}: {:.2} right, by chance {:.2}",
                    line.category.name(),
                    line.score.mean,
                    line.score.chance
                )),
                tiles: tiles.collect(),
            }
        });
        ImageGrid { rows: rows.collect() }
    }

    /// A line a score.
    pub fn table(&self) -> String {
        let mut lines = vec![format!(
            "{:<32}{:>6}{:>8}  {:^17}{:>8}",
            "scenes", "n", "right", "95 % interval", "chance"
        )];
        let mut line = |name: String, score: &lidit_scaling::scenes::Score| {
            let beats = if score.beats_chance { "  above chance" } else { "" };
            lines.push(format!(
                "{name:<32}{:>6}{:>8.3}  {:>7.3} - {:<7.3}{:>8.3}{beats}",
                score.n, score.mean, score.low, score.high, score.chance
            ));
        };
        for category in &self.categories {
            let split = match category.split {
                Split::All => "",
                Split::Seen => ", pairs seen",
                Split::HeldOut => ", pairs held out",
            };
            line(format!("{}{split}", category.category.name()), &category.score);
        }
        for quartile in &self.quartiles {
            line(format!("position quartile {}", quartile.quartile + 1), &quartile.score);
        }
        if !self.counts {
            lines.push("single objects do not beat chance by 5 standard errors: these scores do not count".to_owned());
        }
        lines.join("\n")
    }
}

fn said(right: &[bool]) -> &'static str {
    if right.iter().all(|&right| right) {
        "right"
    } else {
        "wrong"
    }
}

/// Refuses other held-out pairs than those that the run's training set says it was built with.
fn check_held_out(config: &ScenesConfig, run: &RunConfig) -> Result<()> {
    let training = match Dataset::open(&run.data) {
        Ok(training) => training,
        Err(error) => {
            eprintln!("note: which pairs were held out of training is not checked: {error}");
            return Ok(());
        }
    };
    for manifest in training.manifests().filter(|manifest| manifest.name == "scenes") {
        let words: Vec<&str> = manifest.recipe.split_whitespace().collect();
        let after = |flag: &str| {
            words
                .iter()
                .position(|word| *word == flag)
                .and_then(|at| words.get(at + 1))
        };
        let of_set = (after("--held-out"), after("--held-out-seed"));
        let (pairs, seed) = (config.held_out.to_string(), config.held_out_seed.to_string());
        // Of no pairs, the seed chooses none.
        let same_seed = config.held_out == 0 || of_set.1 == Some(&seed.as_str());
        ensure!(
            of_set.0 == Some(&pairs.as_str()) && same_seed,
            "scenes.held_out = {pairs} with scenes.held_out_seed = {seed}, but the run's training set was built by `{}`",
            manifest.recipe
        );
    }
    Ok(())
}
