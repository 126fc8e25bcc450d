//! All that a table says of the law.

use serde::{Deserialize, Serialize};

use super::compute_cost::ComputeCost;
use super::error::LawError;
use super::interval::Interval;
use super::isoflop::IsoFlop;
use super::joint::JointFit;
use super::leave_out::LeaveOut;
use super::point::Point;
use super::power_law::PowerLaw;
use super::selection::{LeftOut, Measurement, Selection};
use super::warning::Warning;

/// How far beyond the largest run the curve goes.
const CURVE_BEYOND: f64 = 10.0;
const CURVE_POINTS: usize = 41;

/// How to fit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FitOptions {
    /// Points whose compute differs by at most this share are of one isoFLOP budget.
    pub tolerance: f64,
    /// Draws of the bootstrap.
    pub draws: usize,
    /// The draws' seed.
    pub seed: u64,
    /// Image tokens of a sample; tells runs that saw a sample twice when the table has `u`.
    pub tokens_per_sample: Option<f64>,
}

/// All that a table says of the law.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// `L(N, D)`.
    #[serde(flatten)]
    pub joint: Option<JointFit>,
    /// The best size at each budget.
    pub isoflop: Option<IsoFlop>,
    /// What could not be fitted, and why.
    pub not_fitted: Vec<String>,
    /// What the runs cost.
    pub cost: ComputeCost,
    /// Predictions of the largest runs from the others.
    pub leave_largest_out: Vec<LeaveOut>,
    /// What a reader must know.
    pub warnings: Vec<Warning>,
    /// Points in the fit, seeds averaged.
    pub points_used: usize,
    /// Runs in the fit.
    pub runs_used: usize,
    /// Runs that are not in it.
    pub left_out: Vec<LeftOut>,
    /// The joint law's best loss against compute, at the runs' own cost of a token, `k' N^p`.
    pub curve: Vec<CurvePoint>,
    /// The points themselves.
    pub points: Vec<Measurement>,
    /// How it was fitted.
    pub options: FitOptions,
}

/// The best split of a compute budget.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Compute in FLOPs.
    pub c: f64,
    /// The best number of parameters.
    pub n: f64,
    /// The best number of tokens.
    pub d: f64,
    /// The loss there.
    pub loss: f64,
    /// Its 95 % interval.
    pub band: Option<Interval>,
}

impl Fit {
    /// Fits both laws. An error when neither can be fitted.
    pub fn of(points: &[Point], options: FitOptions) -> Result<Self, LawError> {
        check(&options)?;
        let Selection { used, left_out, runs } = Selection::of(points, options.tokens_per_sample);
        let FitOptions {
            tolerance, draws, seed, ..
        } = options;
        let (joint, isoflop) = match (
            JointFit::of(&used, draws, seed),
            IsoFlop::of(&used, tolerance, draws, seed),
        ) {
            (Err(joint), Err(isoflop)) => return Err(LawError::TooFew { joint, isoflop }),
            laws => laws,
        };
        let not_fitted = joint.as_ref().err().into_iter().chain(isoflop.as_ref().err());
        let not_fitted = not_fitted.cloned().collect();
        let (joint, isoflop) = (joint.ok(), isoflop.ok());
        let cost = ComputeCost::of(&used);
        let mut warnings = Warning::of_points(&used);
        warnings.extend(epochs_unknown(points, &options));
        let mut leave_largest_out = Vec::new();
        if let Some(fit) = &joint {
            warnings.extend(Warning::of_law(&used, fit, &cost));
            leave_largest_out.push(LeaveOut::largest_size(&used, draws, seed));
            leave_largest_out.push(LeaveOut::largest_compute(&used, tolerance, draws, seed));
        }
        Ok(Self {
            curve: joint
                .as_ref()
                .map(|fit| curve(fit, &used, cost.per_token))
                .unwrap_or_default(),
            joint,
            isoflop,
            not_fitted,
            cost,
            leave_largest_out,
            warnings,
            points_used: used.len(),
            runs_used: runs,
            left_out,
            points: used,
            options,
        })
    }
}

fn check(options: &FitOptions) -> Result<(), LawError> {
    let wrong = |option, expected, value| {
        Err(LawError::Option {
            option,
            expected,
            value,
        })
    };
    if !(0.0..1.0).contains(&options.tolerance) {
        return wrong("tolerance", "at least 0 and below 1", options.tolerance);
    }
    match options.tokens_per_sample {
        Some(tokens) if !(tokens.is_finite() && tokens > 0.0) => {
            wrong("tokens per sample", "a finite number above 0", tokens)
        }
        _ => Ok(()),
    }
}

fn epochs_unknown(points: &[Point], options: &FitOptions) -> Option<Warning> {
    (options.tokens_per_sample.is_none() && points.iter().any(|point| point.u.is_some())).then(|| {
        Warning::new(
            "epochs-unknown",
            "the table has u, but not how many tokens a sample has: runs that saw samples more than once can't be told \
             and are in the fit; give the tokens per sample"
                .to_owned(),
        )
    })
}

fn curve(fit: &JointFit, points: &[Measurement], cost: PowerLaw) -> Vec<CurvePoint> {
    let compute = points.iter().map(|point| point.c);
    let (low, high) = (
        compute.clone().fold(f64::INFINITY, f64::min),
        compute.fold(0.0, f64::max) * CURVE_BEYOND,
    );
    (0..CURVE_POINTS)
        .map(|i| {
            let c = low * (high / low).powf(i as f64 / (CURVE_POINTS - 1) as f64);
            let (n, d) = fit.law.optimum(c, cost);
            CurvePoint {
                c,
                n,
                d,
                loss: fit.law.loss(n, d),
                band: fit.optimum_band(c, cost),
            }
        })
        .collect()
}
