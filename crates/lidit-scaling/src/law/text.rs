//! The law for people.

use std::fmt::{self, Display, Formatter};

use super::fit::Fit;
use super::interval::Interval;
use super::isoflop::IsoFlop;
use super::joint::JointFit;
use super::leave_out::LeaveOut;
use super::power_law::PowerLaw;

/// Points of the curve that people see: `--json` has all.
const CURVE_STEP: usize = 10;
/// Runs left out that are listed by name.
const LISTED: usize = 10;

impl Display for Fit {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{} points ({} runs), {} runs left out; C = {:.3} N D ({:.3} to {:.3})",
            self.points_used,
            self.runs_used,
            self.left_out.len(),
            self.cost.k,
            self.cost.k_low,
            self.cost.k_high
        )?;
        for run in self.left_out.iter().take(LISTED) {
            writeln!(out, "  left out: {}: {}", run.name, run.reason)?;
        }
        if let Some(joint) = &self.joint {
            write_joint(out, joint)?;
            writeln!(
                out,
                "\nbest split of a compute budget\n  {:>10} {:>10} {:>10} {:>9}",
                "C", "N", "D", "loss"
            )?;
            for point in self.curve.iter().step_by(CURVE_STEP) {
                let band = band(point.band);
                writeln!(
                    out,
                    "  {:>10.3e} {:>10.3e} {:>10.3e} {:>9.4}{band}",
                    point.c, point.n, point.d, point.loss
                )?;
            }
        }
        if let Some(isoflop) = &self.isoflop {
            write_isoflop(out, isoflop)?;
        }
        for problem in &self.not_fitted {
            writeln!(out, "\nnot fitted: {problem}")?;
        }
        for left in &self.leave_largest_out {
            write_left_out(out, left)?;
        }
        for warning in &self.warnings {
            writeln!(out, "\nwarning: {}", warning.text)?;
        }
        Ok(())
    }
}

fn write_joint(out: &mut Formatter<'_>, fit: &JointFit) -> fmt::Result {
    writeln!(out, "\njoint law L(N, D) = E + A / N^a + B / D^b, with 95 % intervals")?;
    let rows = [
        ("E", fit.law.floor, fit.bands.floor),
        ("A", fit.law.n_factor, fit.bands.n_factor),
        ("a", fit.law.n_power, fit.bands.n_power),
        ("B", fit.law.d_factor, fit.bands.d_factor),
        ("b", fit.law.d_power, fit.bands.d_power),
        ("N_opt ~ C^", fit.n_opt_exponent, fit.bands.n_opt_exponent),
        ("D_opt ~ C^", fit.d_opt_exponent, fit.bands.d_opt_exponent),
    ];
    for (name, value, interval) in rows {
        writeln!(out, "  {name:<10} {value:>10.4}{}", band(interval))?;
    }
    writeln!(
        out,
        "  points scatter by {:.3} % (root mean square of log losses)",
        fit.residual_percent
    )
}

fn write_isoflop(out: &mut Formatter<'_>, fit: &IsoFlop) -> fmt::Result {
    writeln!(out, "\nisoFLOP parabolas")?;
    writeln!(
        out,
        "  {:>10} {:>6} {:>10} {:>10} {:>9}",
        "C", "points", "N_opt", "D_opt", "loss"
    )?;
    for budget in &fit.budgets {
        let (c, points, n, d, loss) = (budget.c, budget.points, budget.n_opt, budget.d_opt, budget.loss);
        writeln!(out, "  {c:>10.3e} {points:>6} {n:>10.3e} {d:>10.3e} {loss:>9.4}")?;
    }
    for problem in &fit.left_out {
        writeln!(out, "  left out: {problem}")?;
    }
    for (name, law, interval) in [
        ("N_opt", fit.n_opt, fit.n_opt_band),
        ("D_opt", fit.d_opt, fit.d_opt_band),
        ("loss", fit.loss, fit.loss_band),
    ] {
        let PowerLaw { coefficient, exponent } = law;
        writeln!(out, "  {name:<5} = {coefficient:.4e} C^{exponent:.4}{}", band(interval))?;
    }
    Ok(())
}

fn write_left_out(out: &mut Formatter<'_>, left: &LeaveOut) -> fmt::Result {
    writeln!(
        out,
        "\nforetold without the {} (from {} points)",
        left.left_out, left.points
    )?;
    if let Some(problem) = &left.problem {
        return writeln!(out, "  not done: {problem}");
    }
    writeln!(
        out,
        "  {:>10} {:>10} {:>9} {:>9} {:>8}",
        "N", "D", "measured", "foretold", "error"
    )?;
    for point in &left.held_out {
        writeln!(
            out,
            "  {:>10.3e} {:>10.3e} {:>9.4} {:>9.4} {:>+7.2}%{}{}",
            point.n,
            point.d,
            point.loss,
            point.predicted,
            point.error_percent,
            band(point.band),
            if point.inside == Some(false) { " missed" } else { "" }
        )?;
    }
    Ok(())
}

fn band(interval: Option<Interval>) -> String {
    interval.map_or_else(String::new, |Interval { low, high }| {
        format!("  [{}, {}]", short(low), short(high))
    })
}

fn short(value: f64) -> String {
    if value.abs() >= 1e4 || (value != 0.0 && value.abs() < 1e-3) {
        format!("{value:.2e}")
    } else {
        format!("{value:.4}")
    }
}
