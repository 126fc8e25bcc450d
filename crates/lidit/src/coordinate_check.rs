//! `lidit coordinate-check CONFIG`: whether a rate that suits one width suits the others.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lidit_train::{Coordinate, CoordinateCheck, RunConfig, growth};
use serde_json::json;

use crate::device::DeviceArg;
use crate::fetch;
use crate::outcome::Outcome;

/// Arguments of `lidit coordinate-check`.
#[derive(clap::Args)]
pub struct Args {
    /// A run's config: data, encoders, depth, features of a head, rate.
    config: PathBuf,
    /// Change one key: `--set train.lr=1e-3`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Widths to train, muP's base width first.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 128, 256, 512])]
    widths: Vec<usize>,
    /// Optimizer steps of each network; the blocks move from the second on.
    #[arg(long, value_name = "N", default_value_t = 8)]
    steps: usize,
    /// Where every number goes, as CSV.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu")]
    device: DeviceArg,
}

/// Trains every width with and without muP and says how much more a wider network moves.
pub fn run(args: &Args) -> Result<Outcome> {
    ensure!(args.widths.len() > 1, "--widths needs two widths or more");
    ensure!(
        args.steps >= 2,
        "--steps is {}: the blocks move from the second step on",
        args.steps
    );
    let check = CoordinateCheck {
        config: RunConfig::load(&args.config, &args.sets)?,
        widths: &args.widths,
        steps: args.steps,
        device: args.device.open(0)?,
        locate: &fetch::resolve_model,
    };
    let coordinates = check.run(|name, width| eprintln!("{name}, width {width}"))?;
    std::fs::write(&args.out, csv(&coordinates)).with_context(|| format!("writing {}", args.out.display()))?;
    let growth = growth(&coordinates);
    let mut text = format!(
        "after step {}, a layer's change grows with the width to the power of",
        args.steps
    );
    let mut exponents = json!({});
    for (parametrization, layer, exponent) in &growth {
        let _ = write!(text, "\n{parametrization:<10}{layer:<14}{exponent:>6.2}");
        exponents[*parametrization][layer] = json!(exponent);
    }
    Ok(Outcome::done(
        text,
        json!({ "out": args.out, "widths": args.widths, "steps": args.steps, "growth": exponents }),
    ))
}

fn csv(coordinates: &[Coordinate]) -> String {
    let mut csv = "parametrization,width,step,layer,size,change\n".to_owned();
    for c in coordinates {
        let _ = writeln!(
            csv,
            "{},{},{},{},{:.6e},{:.6e}",
            c.parametrization, c.width, c.step, c.layer, c.size, c.change
        );
    }
    csv
}
