//! `lidit sweep fit`: the laws of loss against parameters, data and compute.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use lidit_scaling::law::{Fit, FitOptions, Table};
use serde_json::Value;

use super::SweepArgs;
use super::finished::law_table;
use crate::outcome::Outcome;

/// Keys that scripts may rely on; null when the joint law could not be fitted.
const JOINT_KEYS: [&str; 8] = ["E", "A", "a", "B", "b", "n_opt_exponent", "d_opt_exponent", "bands"];

/// Arguments of `lidit sweep fit`.
#[derive(clap::Args)]
pub struct Args {
    /// The sweep's file: its finished runs are fitted, by their validation losses.
    #[arg(required_unless_present = "table")]
    sweep: Option<PathBuf>,
    /// Where its runs are kept [default: runs/NAME of the file].
    #[arg(long, value_name = "DIR", conflicts_with = "table")]
    dir: Option<PathBuf>,
    /// Of this axis only this value, `AXIS=VALUE`: runs of one law differ in size and length alone. May be repeated.
    #[arg(long, value_name = "AXIS=VALUE", conflicts_with = "table")]
    only: Vec<String>,
    /// Instead of a sweep: runs as CSV with columns n, d, c, loss and, if known, u, seed, se, name.
    #[arg(long, conflicts_with = "sweep")]
    table: Option<PathBuf>,
    /// Image tokens of a sample: with the table's column u it tells runs that saw samples more than once.
    #[arg(long, requires = "table")]
    tokens_per_sample: Option<f64>,
    /// Write fit.json, fit.txt and points.csv into this folder.
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    options: OptionArgs,
}

/// How to fit.
#[derive(clap::Args)]
pub struct OptionArgs {
    /// Points whose compute differs by at most this share are of one isoFLOP budget.
    #[arg(long, default_value_t = 0.05)]
    tolerance: f64,
    /// Draws of the bootstrap; 0 for no bands.
    #[arg(long, default_value_t = 200)]
    draws: usize,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Args {
    /// What is fitted: where it came from, the runs, and how.
    fn input(&self) -> Result<(PathBuf, Table, FitOptions)> {
        let mut options = self.options.options();
        if let Some(table) = &self.table {
            options.tokens_per_sample = self.tokens_per_sample;
            return Ok((table.clone(), Table::read(table)?, options));
        }
        let sweep = SweepArgs {
            sweep: self.sweep.clone().unwrap_or_default(),
            dir: self.dir.clone(),
        };
        let folder = sweep.folder()?;
        let (table, tokens_per_sample) = law_table(&folder, &folder.points()?, &self.only)?;
        options.tokens_per_sample = tokens_per_sample;
        Ok((folder.root().to_owned(), table, options))
    }
}

impl OptionArgs {
    /// As the command line gave them.
    pub fn options(&self) -> FitOptions {
        FitOptions {
            tolerance: self.tolerance,
            draws: self.draws,
            seed: self.seed,
            tokens_per_sample: None,
        }
    }
}

/// Fits a table.
pub fn run(args: &Args) -> Result<Outcome> {
    let (from, table, options) = args.input()?;
    if !table.ignored.is_empty() {
        eprintln!("note: columns that the law does not use: {}", table.ignored.join(", "));
    }
    let fit = Fit::of(&table.points, options).with_context(|| from.display().to_string())?;
    let json = json(&fit)?;
    if let Some(folder) = &args.out {
        write(folder, &fit, &json, &table)?;
    }
    Ok(Outcome::done(fit.to_string(), json))
}

fn json(fit: &Fit) -> Result<Value> {
    let mut json = serde_json::to_value(fit)?;
    if let Some(object) = json.as_object_mut() {
        for key in JOINT_KEYS {
            object.entry(key).or_insert(Value::Null);
        }
    }
    Ok(json)
}

fn write(folder: &Path, fit: &Fit, json: &Value, table: &Table) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let pretty = serde_json::to_string_pretty(json)? + "\n";
    for (name, text) in [("fit.json", pretty), ("fit.txt", fit.to_string())] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(table.write(&folder.join("points.csv"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/law/grid.csv");

    fn args(table: &Path, out: Option<PathBuf>) -> Args {
        Args {
            sweep: None,
            dir: None,
            only: vec![],
            table: Some(table.to_owned()),
            out,
            options: OptionArgs {
                tolerance: 0.05,
                draws: 40,
                seed: 0,
            },
            tokens_per_sample: None,
        }
    }

    #[test]
    fn the_answer_has_the_promised_keys_and_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("fits");
        let outcome = run(&args(Path::new(TABLE), Some(out.clone()))).unwrap();
        for key in JOINT_KEYS {
            assert!(!outcome.json[key].is_null(), "{key}");
        }
        for key in ["isoflop", "leave_largest_out", "warnings", "points_used", "left_out"] {
            assert!(outcome.json.get(key).is_some(), "{key}");
        }
        assert!(outcome.json["bands"]["E"]["low"].as_f64() < outcome.json["E"].as_f64());
        let written: Value = serde_json::from_str(&fs::read_to_string(out.join("fit.json")).unwrap()).unwrap();
        // Reading a number may change its last bit.
        let keys = |json: &Value| json.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&written), keys(&outcome.json));
        assert!((written["E"].as_f64().unwrap() - outcome.json["E"].as_f64().unwrap()).abs() < 1e-12);
        assert_eq!(Table::read(&out.join("points.csv")).unwrap().points.len(), 25);
        assert!(outcome.text.contains("joint law"));
    }

    #[test]
    fn a_table_of_few_runs_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("few.csv");
        fs::write(&table, "n,d,c,loss\n1e6,1e7,6e13,0.5\n").unwrap();
        let error = format!("{:#}", run(&args(&table, None)).err().unwrap());
        assert!(
            error.contains("few.csv") && error.contains("not 1 with 1 and 1"),
            "{error}"
        );
    }
}
