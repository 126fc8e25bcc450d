//! `lidit bench judge`: how often the judge of Scenes is right, on clean and on damaged drawings.

use std::fmt::Write as _;

use anyhow::Result;
use lidit_scaling::scenes::{
    Category, Damage, HeldOut, Scores, Sight, Suite, Tally, TrialError, Verdict, World, trial,
};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde_json::{Value, json};

use crate::outcome::Outcome;

/// Arguments of `lidit bench judge`.
#[derive(clap::Args)]
pub struct Args {
    /// Scenes of every category.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..))]
    rows: u32,
    /// Sides of pictures in pixels, comma-separated.
    #[arg(long, value_name = "PIXELS", value_delimiter = ',', default_values_t = [32, 64, 128])]
    size: Vec<u32>,
    /// Chooses the scenes.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
}

/// Draws, damages and judges.
pub fn run(args: &Args) -> Result<Outcome> {
    let mut text = String::new();
    let mut sizes = Vec::new();
    for &size in &args.size {
        let world = World::new(size, 1..=World::most_objects(size), HeldOut::none())?;
        let suite = Suite::new(world, args.seed);
        let lines = measured(&suite, args.rows as usize, &suite.chance())?;
        describe(&mut text, size, &lines)?;
        sizes.push(json!({ "size": size, "judged": lines.iter().flat_map(Line::json).collect::<Vec<_>>() }));
    }
    Ok(Outcome::done(
        text.trim_end(),
        json!({ "rows": args.rows, "sizes": sizes }),
    ))
}

// A category, and what came of it under every damage.
struct Line {
    category: Category,
    tallies: Vec<Tally>,
    /// How often its prompts hold in random scenes.
    chance: f64,
}

impl Line {
    fn json(&self) -> Vec<Value> {
        let each = Damage::ALL.iter().zip(&self.tallies);
        let value = |(damage, tally): (&Damage, &Tally)| {
            json!({
                "category": self.category,
                "damage": damage.name(),
                "accuracy": tally.accuracy(),
                "true_right": tally.true_right,
                "true_facts": tally.true_facts,
                "false_right": tally.false_right,
                "false_facts": tally.false_facts,
                "prompts": tally.prompts,
                "mismatched": tally.mismatched,
                "chance": self.chance,
            })
        };
        each.map(value).collect()
    }
}

fn measured(suite: &Suite, rows: usize, random: &[Sight]) -> Result<Vec<Line>, TrialError> {
    let categories = suite.categories();
    let line = |category: &Category| {
        let tallies = Damage::ALL.iter().map(|damage| trial(suite, *category, *damage, rows));
        Ok(Line {
            category: *category,
            tallies: tallies.collect::<Result<_, TrialError>>()?,
            chance: chance(suite, *category, rows, random)?,
        })
    };
    categories.par_iter().map(line).collect()
}

fn chance(suite: &Suite, category: Category, rows: usize, random: &[Sight]) -> Result<f64, TrialError> {
    let mut scores = Scores::new(random.to_vec());
    for prompt in suite.prompts(category, rows)? {
        scores.add(&prompt, &Verdict::of_sight(prompt.scene.sight(), &prompt));
    }
    Ok(scores.categories().first().map_or(0.0, |line| line.score.chance))
}

fn describe(text: &mut String, size: u32, lines: &[Line]) -> Result<(), std::fmt::Error> {
    let tables: [(&str, Share); 2] = [
        ("facts that hold, judged to hold", |tally| {
            (tally.true_right, tally.true_facts)
        }),
        ("facts that do not, judged not to", |tally| {
            (tally.false_right, tally.false_facts)
        }),
    ];
    for (title, share) in tables {
        writeln!(text, "{size} pixels, % of {title}:")?;
        write!(text, "{:14}", "")?;
        for damage in Damage::ALL {
            write!(text, " {:>10}", damage.name())?;
        }
        writeln!(text)?;
        for line in lines {
            write!(text, "{:14}", line.category.name())?;
            for tally in &line.tallies {
                let (right, all) = share(tally);
                write!(text, " {:>10.1}", 100.0 * right as f64 / all.max(1) as f64)?;
            }
            writeln!(text)?;
        }
    }
    writeln!(
        text,
        "{size} pixels, % of prompts that hold in random scenes, and in the next prompt's picture:"
    )?;
    for Line {
        category,
        tallies,
        chance,
    } in lines
    {
        let next = tallies
            .first()
            .map_or(0.0, |tally| tally.mismatched as f64 / tally.prompts.max(1) as f64);
        writeln!(
            text,
            "{:14} {:>10.1} {:>10.1}",
            category.name(),
            100.0 * chance,
            100.0 * next
        )?;
    }
    writeln!(text)
}

type Share = fn(&Tally) -> (usize, usize);
