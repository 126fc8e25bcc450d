//! The joint law fitted to measurements, with bands.

use serde::{Deserialize, Serialize};

use super::bootstrap::{Draws, Residuals};
use super::huber::{Problem, Starts};
use super::interval::Interval;
pub use super::joint_law::JointLaw;
use super::power_law::PowerLaw;
use super::selection::{Measurement, same};

/// A joint law needs more points than its five parameters.
pub const LEAST_POINTS: usize = 6;
/// Two values of a variable don't tell a factor, a power and a floor apart.
const LEAST_VALUES: usize = 3;

/// The joint law fitted to measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JointFit {
    /// The law.
    #[serde(flatten)]
    pub law: JointLaw,
    /// `b / (a + b)`: with how much compute the best `N` grows.
    pub n_opt_exponent: f64,
    /// `a / (a + b)`.
    pub d_opt_exponent: f64,
    /// 95 % intervals.
    pub bands: Bands,
    /// The root mean square of log losses from the law, in %.
    pub residual_percent: f64,
    /// The sum of Huber's function.
    pub objective: f64,
    /// Parameters that ended at a bound of the search.
    pub at_bounds: Vec<String>,
    /// How well the points tell the parameters apart, from 0 (not) to 1.
    pub resolution: f64,
    /// The laws of the bootstrap's draws.
    #[serde(skip)]
    pub draws: Vec<JointLaw>,
    /// What predictions of one more run add to the law's own spread.
    #[serde(skip)]
    pub errors: Vec<f64>,
}

/// 95 % intervals of the law's parameters; none without draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bands {
    /// Of the floor.
    #[serde(rename = "E")]
    pub floor: Option<Interval>,
    /// Of the parameters' factor.
    #[serde(rename = "A")]
    pub n_factor: Option<Interval>,
    /// Of the parameters' power.
    #[serde(rename = "a")]
    pub n_power: Option<Interval>,
    /// Of the data's factor.
    #[serde(rename = "B")]
    pub d_factor: Option<Interval>,
    /// Of the data's power.
    #[serde(rename = "b")]
    pub d_power: Option<Interval>,
    /// Of `b / (a + b)`.
    pub n_opt_exponent: Option<Interval>,
    /// Of `a / (a + b)`.
    pub d_opt_exponent: Option<Interval>,
}

impl JointFit {
    /// Fits the law; `draws` of the bootstrap with `seed` give the bands. An error says what the points lack.
    pub fn of(points: &[Measurement], draws: usize, seed: u64) -> Result<Self, String> {
        enough(points)?;
        let coordinates: Vec<_> = points.iter().map(Measurement::coordinates).collect();
        let problem = Problem::new(&coordinates);
        let minimum = problem
            .solve(Starts::Grid)
            .ok_or("the joint law's search found no start: n, d and loss do not vary")?;
        let law = minimum.law;
        let residuals: Vec<f64> = coordinates
            .iter()
            .map(|(n, d, loss)| (loss / law.loss(*n, *d)).ln())
            .collect();
        let mut fit = Self {
            law,
            n_opt_exponent: law.n_opt_exponent(),
            d_opt_exponent: law.d_opt_exponent(),
            bands: Bands::default(),
            residual_percent: 100.0
                * (residuals.iter().map(|residual| residual * residual).sum::<f64>() / residuals.len() as f64).sqrt(),
            objective: minimum.objective,
            at_bounds: minimum.at_bounds.into_iter().map(str::to_owned).collect(),
            resolution: problem.resolution(&law),
            draws: Vec::new(),
            errors: Vec::new(),
        };
        fit.resample(
            &coordinates,
            &Residuals::new(&residuals, scales(points), 5),
            draws,
            seed,
        );
        fit.bands = fit.bands();
        Ok(fit)
    }

    fn resample(&mut self, coordinates: &[(f64, f64, f64)], residuals: &Residuals, count: usize, seed: u64) {
        let mut draws = Draws::new(seed);
        for _ in 0..count {
            let redrawn: Vec<_> = coordinates
                .iter()
                .zip(residuals.deal(&mut draws))
                .map(|((n, d, _), residual)| (*n, *d, self.law.loss(*n, *d) * residual.exp()))
                .collect();
            let error = residuals.one(&mut draws);
            if let Some(minimum) = Problem::new(&redrawn).solve(Starts::Near(self.law)) {
                self.draws.push(minimum.law);
                self.errors.push(error);
            }
        }
    }

    fn bands(&self) -> Bands {
        let of = |value: fn(&JointLaw) -> f64| Interval::of(self.draws.iter().map(value));
        Bands {
            floor: of(|law| law.floor),
            n_factor: of(|law| law.n_factor),
            n_power: of(|law| law.n_power),
            d_factor: of(|law| law.d_factor),
            d_power: of(|law| law.d_power),
            n_opt_exponent: of(JointLaw::n_opt_exponent),
            d_opt_exponent: of(JointLaw::d_opt_exponent),
        }
    }

    /// Where the law itself lies at `(n, d)`, with 95 %.
    pub fn band(&self, n: f64, d: f64) -> Option<Interval> {
        Interval::of(self.draws.iter().map(|law| law.loss(n, d)))
    }

    /// Where the best loss at compute `c` lies, with 95 %: each draw has its own optimum.
    pub fn optimum_band(&self, c: f64, cost: PowerLaw) -> Option<Interval> {
        Interval::of(self.draws.iter().map(|law| {
            let (n, d) = law.optimum(c, cost);
            law.loss(n, d)
        }))
    }

    /// Where one more run at `(n, d)` would lie, with 95 %: the law's spread and a run's.
    pub fn prediction(&self, n: f64, d: f64) -> Option<Interval> {
        let draws = self.draws.iter().zip(&self.errors);
        Interval::of(draws.map(|(law, error)| law.loss(n, d) * error.exp()))
    }
}

/// The points' standard errors in log loss, when all have one.
fn scales(points: &[Measurement]) -> Option<Vec<f64>> {
    points
        .iter()
        .map(|point| Some(point.se? / point.loss).filter(|scale| *scale > 0.0))
        .collect()
}

fn enough(points: &[Measurement]) -> Result<(), String> {
    let values = |of: fn(&Measurement) -> f64| {
        let mut values: Vec<f64> = points.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.dedup_by(|a, b| same(*a, *b));
        values.len()
    };
    let (sizes, tokens) = (values(|point| point.n), values(|point| point.d));
    if points.len() < LEAST_POINTS || sizes < LEAST_VALUES || tokens < LEAST_VALUES {
        return Err(format!(
            "the joint law has 5 parameters and needs at least {LEAST_POINTS} points with {LEAST_VALUES} different n and \
             {LEAST_VALUES} different d, not {} with {sizes} and {tokens}",
            points.len()
        ));
    }
    Ok(())
}
