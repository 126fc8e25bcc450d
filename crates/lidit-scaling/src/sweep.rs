//! Grids of runs over a base config: `configs/sweep/*.toml`.

mod axis;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;
use toml::Table;

pub use self::axis::{Axis, AxisValue};
pub use self::rules::{BatchRule, Given, PowerRule, Price, Rules, Settled};

/// Version of a sweep file.
pub const FORMAT_VERSION: u32 = 1;

/// A sweep as its file says it. Paths are as written; whoever reads the file resolves them against it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// Always [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The run config that every run changes.
    pub base: PathBuf,
    /// The evaluation config that every finished run is put through; none without it.
    #[serde(default)]
    pub evaluate: Option<PathBuf>,
    /// How runs come by their encoders' states.
    pub features: Features,
    /// A piece of a run's config over the base, the same in every run. It may `include` parts.
    #[serde(default)]
    pub change: Table,
    /// What differs between runs: every combination of their values is a run.
    #[serde(default)]
    pub axes: Vec<Axis>,
    /// Compute budgets for every combination, which decide how long it trains; none without it.
    #[serde(default)]
    pub isoflop: Option<IsoFlop>,
    /// What follows from a run's size and length.
    #[serde(default)]
    pub rules: Rules,
}

/// How the runs of a sweep come by their encoders' states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Features {
    /// Encoded once for all runs with the same encoders, into the sweep's folder.
    Shared,
    /// As each run's config says.
    Own,
}

/// An isoFLOP grid: each budget is spent by each combination of the axes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IsoFlop {
    /// Training FLOPs of the network (`C_model`).
    pub budgets: Vec<f64>,
}

/// One run of a sweep, before it is priced.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The names of its values, joined: the run's folder.
    pub name: String,
    /// The value's name on each axis, by the axis' name.
    pub axes: BTreeMap<String, String>,
    /// Pieces of config to lay over the base, in order. The first are the sweep's own `change`.
    pub pieces: Vec<Table>,
    /// Its compute budget, in an isoFLOP grid.
    pub budget: Option<f64>,
}

/// A sweep file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// Not TOML, an unknown key, a wrong type.
    #[error("line {line}: {message}")]
    Parse {
        /// From 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A key whose value can't be.
    #[error("key `{key}`: {reason}")]
    Key {
        /// Dotted.
        key: String,
        /// What is wrong and what to do.
        reason: String,
    },
}

impl SweepError {
    fn parse(text: &str, error: &toml::de::Error) -> Self {
        let before = error.span().and_then(|span| text.get(..span.start));
        Self::Parse {
            line: 1 + before.map_or(0, |before| before.matches('\n').count()),
            message: error.message().trim().replace('\n', ", "),
        }
    }

    fn key(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Key {
            key: key.into(),
            reason: reason.into(),
        }
    }
}

impl Sweep {
    /// Reads a sweep file's text.
    pub fn parse(text: &str) -> Result<Self, SweepError> {
        let sweep: Self = toml::from_str(text).map_err(|error| SweepError::parse(text, &error))?;
        if sweep.format_version != FORMAT_VERSION {
            let reason = format!("is {}, this lidit reads {FORMAT_VERSION}", sweep.format_version);
            return Err(SweepError::key("format_version", reason));
        }
        if let Some(isoflop) = &sweep.isoflop {
            isoflop.validate()?;
        }
        sweep.rules.validate(sweep.isoflop.is_some())?;
        sweep.choices()?;
        Ok(sweep)
    }

    /// Every run: the product of the axes, the last one fastest, and of the budgets, fastest of all.
    ///
    /// # Errors
    /// An axis without values, two runs of one name, a value that is not a piece of config.
    pub fn choices(&self) -> Result<Vec<Choice>, SweepError> {
        let first = Choice {
            name: String::new(),
            axes: BTreeMap::new(),
            pieces: if self.change.is_empty() {
                vec![]
            } else {
                vec![self.change.clone()]
            },
            budget: None,
        };
        let mut choices = vec![first];
        let mut axes = BTreeSet::new();
        for (i, axis) in self.axes.iter().enumerate() {
            if !axes.insert(&axis.name) {
                let reason = format!("two axes are called {}", axis.name);
                return Err(SweepError::key(format!("axes.{i}.name"), reason));
            }
            let values = axis.values(i)?;
            choices = choices
                .iter()
                .flat_map(|choice| values.iter().map(|value| choice.with(&axis.name, value)))
                .collect();
        }
        if let Some(isoflop) = &self.isoflop {
            choices = choices
                .iter()
                .flat_map(|choice| isoflop.budgets.iter().map(|&flops| choice.within(flops)))
                .collect();
        }
        let mut names = BTreeSet::new();
        for choice in &mut choices {
            if choice.name.is_empty() {
                "base".clone_into(&mut choice.name);
            }
            if !names.insert(choice.name.clone()) {
                let reason = format!(
                    "two runs would be called {}: give the values of each axis names of their own",
                    choice.name
                );
                return Err(SweepError::key("axes", reason));
            }
        }
        Ok(choices)
    }
}

impl Choice {
    fn with(&self, axis: &str, value: &AxisValue) -> Self {
        let mut choice = self.named(axis, &value.name, &value.label);
        choice.pieces.push(value.piece.clone());
        choice
    }

    fn within(&self, budget: f64) -> Self {
        let name = format!("{budget:e}");
        let mut choice = self.named("budget", &name, &format!("c{name}"));
        choice.budget = Some(budget);
        choice
    }

    fn named(&self, axis: &str, value: &str, label: &str) -> Self {
        let mut choice = self.clone();
        choice.axes.insert(axis.to_owned(), value.to_owned());
        if !choice.name.is_empty() {
            choice.name.push('-');
        }
        choice.name.push_str(label);
        choice
    }
}

impl IsoFlop {
    fn validate(&self) -> Result<(), SweepError> {
        let refuse = |reason: &str| Err(SweepError::key("isoflop.budgets", reason));
        if self.budgets.is_empty() {
            return refuse("is empty: name at least one budget in FLOPs, such as 1e15");
        }
        if self.budgets.iter().any(|flops| !flops.is_finite() || *flops <= 0.0) {
            return refuse("budgets are FLOPs above 0");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GRID: &str = r#"
        format_version = 1
        base = "../run/base.toml"
        features = "shared"

        [change]
        train.log_every = 50

        [[axes]]
        name = "size"
        values = [
            { name = "small", include = ["../model/small.toml"] },
            { name = "big", model.depth = 4, train.lr = 1e-3 },
        ]

        [[axes]]
        name = "seed"
        key = "train.seed"
        values = [0, 1, 2]
    "#;

    #[test]
    fn a_grid_is_the_product_of_its_axes() {
        let choices = Sweep::parse(GRID).unwrap().choices().unwrap();
        let names: Vec<_> = choices.iter().map(|choice| choice.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "small-seed0",
                "small-seed1",
                "small-seed2",
                "big-seed0",
                "big-seed1",
                "big-seed2"
            ]
        );
        let last = &choices[5];
        assert_eq!(last.axes["size"], "big");
        assert_eq!(last.axes["seed"], "2");
        let pieces: Vec<String> = last
            .pieces
            .iter()
            .map(|piece| piece.to_string().replace('\n', " "))
            .collect();
        assert_eq!(
            pieces,
            [
                "[train] log_every = 50 ",
                "[model] depth = 4  [train] lr = 0.001 ",
                "[train] seed = 2 "
            ]
        );
        assert_eq!(
            choices[0].pieces[1].to_string(),
            "include = [\"../model/small.toml\"]\n"
        );
    }

    #[test]
    fn every_combination_spends_every_budget() {
        let grid = GRID.replace(
            "[[axes]]\n        name = \"seed\"",
            "[isoflop]\nbudgets = [1e15, 2.5e15]\n[rules]\nlength = \"budget\"\n[[axes]]\nname = \"seed\"",
        );
        let choices = Sweep::parse(&grid).unwrap().choices().unwrap();
        assert_eq!(choices.len(), 12);
        assert_eq!(choices[1].name, "small-seed0-c2.5e15");
        assert_eq!(
            (choices[1].budget, choices[1].axes["budget"].as_str()),
            (Some(2.5e15), "2.5e15")
        );
    }

    #[test]
    fn mistakes_are_named_by_key() {
        for (from, to, key) in [
            ("format_version = 1", "format_version = 2", "format_version"),
            ("format_version = 1", "format_version = 1\nbudget = 3", "budget"),
            ("key = \"train.seed\"", "", "axes.1.values.0"),
            ("key = \"train.seed\"", "key = \"train..seed\"", "axes.1.key"),
            ("values = [0, 1, 2]", "values = []", "axes.1.values"),
            ("values = [0, 1, 2]", "values = [0, 1, 1]", "axes"),
            ("name = \"seed\"", "name = \"size\"", "axes.1.name"),
            ("name = \"big\"", "name = \"../big\"", "axes.0.values.1.name"),
            ("name = \"big\",", "", "axes.0.values.1"),
            (
                "features = \"shared\"",
                "features = \"shared\"\n[isoflop]\nbudgets = []\n[rules]\nlength = \"budget\"",
                "isoflop.budgets",
            ),
            (
                "features = \"shared\"",
                "features = \"shared\"\n[isoflop]\nbudgets = [1e12]",
                "rules.length",
            ),
            (
                "features = \"shared\"",
                "features = \"shared\"\n[rules]\nlength = \"budget\"",
                "rules.length",
            ),
            (
                "features = \"shared\"",
                "features = \"shared\"\n[rules]\nwarmup_share = 2.0",
                "rules.warmup_share",
            ),
        ] {
            assert!(GRID.contains(from), "{from}");
            let error = Sweep::parse(&GRID.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")), "{to}: {error}");
        }
    }
}
