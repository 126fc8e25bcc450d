//! What a table can't tell.

use serde::{Deserialize, Serialize};

use super::compute_cost::ComputeCost;
use super::joint::JointFit;
use super::rank::spearman;
use super::selection::Measurement;

/// Points that a joint law should have: three for each parameter.
const ENOUGH_POINTS: usize = 15;
/// Rank correlation of sizes and data above which they can't be told apart.
const CONFOUNDED: f64 = 0.9;
/// Resolution below which parameters can't be told apart; a 4 x 4 grid over three decades has about 0.03.
const UNRESOLVED: f64 = 0.002;
/// A decade of compute.
const LEAST_SPREAD: f64 = 10.0;
/// How much `c / (n d)` may vary.
const UNEVEN_COST: f64 = 1.5;
/// A term must change the loss this many times more than the points scatter.
const VISIBLE: f64 = 3.0;
/// The widest interval of an exponent that still says something.
const WIDE_BAND: f64 = 0.3;

/// Something that a reader of the law must know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// A short name for scripts, as `too-few-points`.
    pub kind: String,
    /// What is the matter and what to do, in plain words.
    pub text: String,
}

impl Warning {
    pub(super) fn new(kind: &str, text: String) -> Self {
        Self {
            kind: kind.to_owned(),
            text,
        }
    }

    /// What the points themselves can't tell, whatever is fitted to them.
    pub(super) fn of_points(points: &[Measurement]) -> Vec<Self> {
        let mut warnings = Vec::new();
        if points.len() < ENOUGH_POINTS {
            warnings.push(Self::new(
                "too-few-points",
                format!(
                    "{} points for a law of 5 parameters: fewer than {ENOUGH_POINTS} leave its bands too narrow; add runs",
                    points.len()
                ),
            ));
        }
        let range = Range::of(points.iter().map(|point| point.c));
        if range.ratio() < LEAST_SPREAD {
            warnings.push(Self::new(
                "little-spread",
                format!(
                    "compute spans a factor of {:.1} only, less than a decade: exponents are read from too short a line",
                    range.ratio()
                ),
            ));
        }
        let logs = |of: fn(&Measurement) -> f64| points.iter().map(of).collect::<Vec<f64>>();
        let correlation = spearman(&logs(|point| point.n), &logs(|point| point.d));
        if correlation.abs() > CONFOUNDED {
            warnings.push(Self::new(
                "confounded",
                format!(
                    "N and D move together over the points (rank correlation {correlation:.2}): what each of them does \
                     can't be told apart; add runs of one size with different data"
                ),
            ));
        }
        warnings
    }

    /// What the joint law can't tell.
    pub(super) fn of_law(points: &[Measurement], fit: &JointFit, cost: &ComputeCost) -> Vec<Self> {
        let mut warnings = Vec::new();
        if !fit.at_bounds.is_empty() {
            warnings.push(Self::new(
                "at-bounds",
                format!(
                    "{} ended at the bounds of the search (E at 0, a term at 0, or an exponent at 0.005 or 3): the points \
                     do not determine it",
                    fit.at_bounds.join(", ")
                ),
            ));
        }
        if cost.k_high / cost.k_low > UNEVEN_COST {
            let p = cost.per_token.exponent;
            let (a, b) = (fit.law.n_power, fit.law.d_power);
            warnings.push(Self::new(
                "uneven-cost",
                format!(
                    "a token costs {:.2} to {:.2} FLOPs a parameter over the points (C is about N^{p:.2} D): at this cost \
                     the best N grows with C^{:.3} and the best D with C^{:.3}, not with b/(a+b) and a/(a+b)",
                    cost.k_low,
                    cost.k_high,
                    b / (a + p * b),
                    a / (a + p * b)
                ),
            ));
        }
        if fit.resolution < UNRESOLVED {
            warnings.push(Self::new(
                "unresolved",
                format!(
                    "the points hardly tell the law's parameters apart (resolution {:.1e}): read predictions inside \
                     their range, not single parameters",
                    fit.resolution
                ),
            ));
        }
        if let Some(band) = fit.bands.n_opt_exponent
            && band.high - band.low > WIDE_BAND
        {
            warnings.push(Self::new(
                "wide-band",
                format!(
                    "the best size may grow with any power of compute from {:.2} to {:.2}: no advice on sizes follows",
                    band.low, band.high
                ),
            ));
        }
        warnings.extend(invisible("N", "parameters", points, fit, |fit, point| {
            fit.law.n_term(point.n)
        }));
        warnings.extend(invisible("D", "data", points, fit, |fit, point| {
            fit.law.d_term(point.d)
        }));
        warnings.extend(one_sided(points, fit, cost));
        warnings
    }
}

fn invisible(
    variable: &str,
    word: &str,
    points: &[Measurement],
    fit: &JointFit,
    term: fn(&JointFit, &Measurement) -> f64,
) -> Option<Warning> {
    let range = Range::of(points.iter().map(|point| term(fit, point)));
    let mean_loss = points.iter().map(|point| point.loss).sum::<f64>() / points.len() as f64;
    let scatter = fit.residual_percent / 100.0 * mean_loss;
    let seen = range.high - range.low;
    (seen < VISIBLE * scatter).then(|| {
        Warning::new(
            "term-in-noise",
            format!(
                "over the points the term of {variable} changes the loss by {seen:.2e}, and the points scatter by \
                 {scatter:.2e}: the effect of {word} is not seen"
            ),
        )
    })
}

/// Says when all runs are on one side of the best size for their compute.
fn one_sided(points: &[Measurement], fit: &JointFit, cost: &ComputeCost) -> Option<Warning> {
    let sizes = Range::of(
        points
            .iter()
            .map(|point| point.n / fit.law.optimum(point.c, cost.per_token).0),
    );
    let tokens = Range::of(points.iter().map(|point| point.d / point.n));
    let per_parameter = format!("{:.3} to {:.3} tokens a parameter", tokens.low, tokens.high);
    if sizes.low > 1.0 {
        Some(Warning::new(
            "under-trained",
            format!(
                "all models are larger than the best for their compute ({per_parameter}): they are under-trained, and \
                 the optimum lies outside the points; add runs with more data"
            ),
        ))
    } else if sizes.high < 1.0 {
        Some(Warning::new(
            "over-trained",
            format!(
                "all models are smaller than the best for their compute ({per_parameter}): the optimum lies outside the \
                 points; add larger models"
            ),
        ))
    } else {
        None
    }
}

struct Range {
    low: f64,
    high: f64,
}

impl Range {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        values.fold(
            Self {
                low: f64::INFINITY,
                high: f64::NEG_INFINITY,
            },
            |range, value| Self {
                low: range.low.min(value),
                high: range.high.max(value),
            },
        )
    }

    fn ratio(&self) -> f64 {
        self.high / self.low
    }
}
