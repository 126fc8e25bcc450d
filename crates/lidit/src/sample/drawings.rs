//! Which pictures `lidit sample` draws.

use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lidit_train::{Drawing, RunConfig, check_size, size_of_aspect};
use serde::Deserialize;

/// Prompts, seeds and sizes; a picture for each prompt and seed, a prompt's seeds side by side.
#[derive(clap::Args, Default)]
pub struct DrawingArgs {
    /// What to draw; may be repeated [default: the run's own sample.prompts].
    #[arg(long = "prompt", value_name = "TEXT")]
    prompt: Vec<String>,
    /// A file with a prompt a line, `-` for standard input. In a .jsonl file each line is an object: `prompt`, and if
    /// wanted `seed`, `width` and `height`.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Seeds the noise; may be repeated [default: the run's].
    #[arg(long, value_name = "N")]
    seed: Vec<u64>,
    /// The seeds A, A + 1, .. B - 1.
    #[arg(long, value_name = "A..B", value_parser = parse_seeds)]
    seeds: Option<Range<u64>>,
    /// Width and height in pixels, multiples of a token's [default: the run's `data.image_size`].
    #[arg(long, value_name = "WxH", value_parser = parse_size, conflicts_with = "aspect")]
    size: Option<[u32; 2]>,
    /// Width to height, at about the area of the run's `data.image_size`.
    #[arg(long, value_name = "W:H", value_parser = parse_aspect)]
    aspect: Option<[u32; 2]>,
}

/// A line of a .jsonl file of prompts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    prompt: String,
    seed: Option<u64>,
    width: Option<u32>,
    height: Option<u32>,
}

impl Line {
    fn plain(prompt: &str) -> Self {
        Self {
            prompt: prompt.to_owned(),
            seed: None,
            width: None,
            height: None,
        }
    }
}

fn parse_pair(text: &str, mark: char) -> Option<[u32; 2]> {
    let (a, b) = text.split_once(mark)?;
    let pair = [a.trim().parse().ok()?, b.trim().parse().ok()?];
    (pair[0] > 0 && pair[1] > 0).then_some(pair)
}

fn parse_size(text: &str) -> Result<[u32; 2], String> {
    parse_pair(text, 'x').ok_or_else(|| "width and height above 0 are needed, like 96x64".to_owned())
}

fn parse_aspect(text: &str) -> Result<[u32; 2], String> {
    parse_pair(text, ':').ok_or_else(|| "two numbers above 0 are needed, like 16:9".to_owned())
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let range = text
        .split_once("..")
        .and_then(|(a, b)| Some(a.trim().parse().ok()?..b.trim().parse().ok()?));
    match range {
        Some(range) if !range.is_empty() => Ok(range),
        _ => Err("a range that holds a number is needed, like 0..8, whose last is 7".to_owned()),
    }
}

impl DrawingArgs {
    /// The pictures, in order.
    ///
    /// # Errors
    /// There is no prompt, a file can't be read, or a size does not fit the network.
    pub fn read(&self, config: &RunConfig) -> Result<Vec<Drawing>> {
        let lines = self.lines(config)?;
        let token = config.token_pixels()?;
        let size = self.size(config, token);
        let mut seeds = self.seed.clone();
        seeds.extend(self.seeds.clone().into_iter().flatten());
        if seeds.is_empty() {
            seeds.push(config.sample.seed);
        }
        let mut drawings = Vec::with_capacity(lines.len() * seeds.len());
        for line in &lines {
            let [width, height] = match (line.width, line.height) {
                (Some(width), Some(height)) => [width, height],
                _ => size,
            };
            check_size(token, width, height).with_context(|| format!("prompt `{}`", line.prompt))?;
            let own = line.seed.map(|seed| vec![seed]);
            drawings.extend(own.as_ref().unwrap_or(&seeds).iter().map(|&seed| Drawing {
                prompt: line.prompt.clone(),
                seed,
                width,
                height,
            }));
        }
        Ok(drawings)
    }

    fn lines(&self, config: &RunConfig) -> Result<Vec<Line>> {
        let mut lines: Vec<Line> = self.prompt.iter().map(|prompt| Line::plain(prompt)).collect();
        if let Some(path) = &self.prompts {
            let of_file = read_file(path)?;
            ensure!(
                !of_file.is_empty(),
                "{} has no prompt: write one a line",
                path.display()
            );
            lines.extend(of_file);
        } else if lines.is_empty() {
            lines = config.sample.prompts.iter().map(|prompt| Line::plain(prompt)).collect();
            ensure!(
                !lines.is_empty(),
                "nothing to draw: name a --prompt, the run's config has no sample.prompts"
            );
        }
        Ok(lines)
    }

    fn size(&self, config: &RunConfig, token: u32) -> [u32; 2] {
        let side = config.data.image_size;
        match (self.size, self.aspect) {
            (Some(size), _) => size,
            (None, Some([across, down])) => {
                size_of_aspect(token, f64::from(side) * f64::from(side), across, down).into()
            }
            (None, None) => [side, side],
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<Line>> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("reading prompts from standard input")?;
        text
    } else {
        std::fs::read_to_string(path).with_context(|| format!("reading prompts from {}", path.display()))?
    };
    let filled = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    if path.extension().is_none_or(|extension| extension != "jsonl") {
        return Ok(filled.map(|(_, line)| Line::plain(line.trim())).collect());
    }
    filled
        .map(|(i, text)| {
            let line: Line =
                serde_json::from_str(text).with_context(|| format!("{} line {}", path.display(), i + 1))?;
            ensure!(
                line.width.is_some() == line.height.is_some(),
                "{} line {}: width and height go together",
                path.display(),
                i + 1
            );
            Ok(line)
        })
        .collect()
}
