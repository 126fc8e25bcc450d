//! The joint law's least squares, robust against runs that went wrong.

use super::joint_law::JointLaw;
use super::linear::{least_squares, solve};

/// Log losses further than this from the law count by their distance instead of its square (Hoffmann et al., D.3).
const DELTA: f64 = 1e-3;
/// The exponents from which the search starts, each with each.
const EXPONENTS: [f64; 7] = [0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0];
const SPARSE_EXPONENTS: [f64; 3] = [0.06, 0.3, 1.0];
const FIRST_STEPS: usize = 20;
const LAST_STEPS: usize = 2000;
/// How many of the starts are followed to their end.
const FOLLOWED: usize = 3;

/// `ln E, ln A, ln B, a, b`, with A and B at the points' mean `N` and `D`, which tells them apart from the exponents.
type Parameters = [f64; 5];

/// How densely the search starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Starts {
    /// From a grid of exponents.
    Grid,
    /// From a known law and a few others: for draws of the bootstrap.
    Near(JointLaw),
}

/// The fit of a joint law to log losses: the sum of Huber's function of `ln loss - LSE(ln E, ln A - a ln N, ln B - b ln D)`
/// is made least over the five parameters, inside bounds.
pub struct Problem {
    /// `ln N` from its mean.
    x: Vec<f64>,
    /// `ln D` from its mean.
    y: Vec<f64>,
    x_mean: f64,
    y_mean: f64,
    target: Vec<f64>,
    low: Parameters,
    high: Parameters,
}

/// Where the search ended.
pub struct Minimum {
    /// The law.
    pub law: JointLaw,
    /// The sum of Huber's function, with distances in units of log loss.
    pub objective: f64,
    /// Parameters that ended at a bound, by name.
    pub at_bounds: Vec<&'static str>,
}

impl Problem {
    /// Points of `(n, d, loss)`.
    pub fn new(points: &[(f64, f64, f64)]) -> Self {
        let mean = |of: fn(&(f64, f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
        let (x_mean, y_mean) = (mean(|point| point.0.ln()), mean(|point| point.1.ln()));
        let target: Vec<f64> = points.iter().map(|point| point.2.ln()).collect();
        let least = target.iter().copied().fold(f64::INFINITY, f64::min);
        let most = target.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self {
            x: points.iter().map(|point| point.0.ln() - x_mean).collect(),
            y: points.iter().map(|point| point.1.ln() - y_mean).collect(),
            x_mean,
            y_mean,
            target,
            low: [
                least - 1e4f64.ln(),
                least - 1e6f64.ln(),
                least - 1e6f64.ln(),
                0.005,
                0.005,
            ],
            high: [least, most + 3.0, most + 3.0, 3.0, 3.0],
        }
    }

    /// The best of many starts.
    pub fn solve(&self, starts: Starts) -> Option<Minimum> {
        let grid: &[f64] = match starts {
            Starts::Grid => &EXPONENTS,
            Starts::Near(_) => &SPARSE_EXPONENTS,
        };
        let mut found: Vec<(Parameters, f64)> = grid
            .iter()
            .flat_map(|a| grid.iter().map(|b| (*a, *b)))
            .filter_map(|(a, b)| self.start(a, b))
            .chain(match starts {
                Starts::Grid => None,
                Starts::Near(law) => Some(self.centred(&law)),
            })
            .map(|start| self.descend(start, FIRST_STEPS))
            .collect();
        found.sort_by(|a, b| a.1.total_cmp(&b.1));
        let (parameters, objective) = found
            .into_iter()
            .take(FOLLOWED)
            .map(|(start, _)| self.descend(start, LAST_STEPS))
            .min_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(Minimum {
            law: self.law(&parameters),
            objective,
            at_bounds: self.at_bounds(&parameters),
        })
    }

    /// The objective at a law.
    #[cfg(test)]
    pub fn objective_at(&self, law: &JointLaw) -> f64 {
        self.objective(&self.centred(law))
    }

    /// For given exponents the law is linear in `E, A, B`: least squares on the relative error gives them.
    fn start(&self, a: f64, b: f64) -> Option<Parameters> {
        let rows: Vec<[f64; 3]> = (0..self.target.len())
            .map(|i| [0.0, -a * self.x[i], -b * self.y[i]].map(|term| (term - self.target[i]).exp()))
            .collect();
        let terms = least_squares(&rows, &vec![1.0; rows.len()])?;
        let mut start = [0.0, 0.0, 0.0, a, b];
        for (place, term) in start.iter_mut().zip(terms) {
            // A term that should be negative starts small.
            *place = term.max(self.high[0].exp() * 1e-2).ln();
        }
        Some(self.clamped(start))
    }

    fn descend(&self, start: Parameters, steps: usize) -> (Parameters, f64) {
        let mut at = start;
        let mut value = self.objective(&at);
        let mut damping = 1e-3;
        let mut idle = 0;
        for _ in 0..steps {
            let (gradient, curvature) = self.slopes(&at);
            let free = self.free(&at, &gradient);
            let mut lower = None;
            while damping < 1e12 {
                let trial = self.clamped(step(&at, &gradient, &curvature, free, damping));
                let trial_value = self.objective(&trial);
                if trial_value < value {
                    lower = Some((trial, trial_value));
                    damping = f64::max(damping * 0.2, 1e-12);
                    break;
                }
                damping *= 5.0;
            }
            let Some((trial, trial_value)) = lower else { break };
            idle = if value - trial_value > 1e-12 * value {
                0
            } else {
                idle + 1
            };
            (at, value) = (trial, trial_value);
            if idle == 5 {
                break;
            }
        }
        (at, value)
    }

    /// The shares of the three terms and the residual of point `i`.
    fn terms(&self, at: &Parameters, i: usize) -> ([f64; 3], f64) {
        let logs = [at[0], at[1] - at[3] * self.x[i], at[2] - at[4] * self.y[i]];
        let most = logs[0].max(logs[1]).max(logs[2]);
        let exponentials = logs.map(|log| (log - most).exp());
        let sum: f64 = exponentials.iter().sum();
        (
            exponentials.map(|exponential| exponential / sum),
            most + sum.ln() - self.target[i],
        )
    }

    fn objective(&self, at: &Parameters) -> f64 {
        (0..self.target.len())
            .map(|i| {
                let distance = self.terms(at, i).1.abs();
                if distance <= DELTA {
                    0.5 * distance * distance
                } else {
                    DELTA * (distance - 0.5 * DELTA)
                }
            })
            .sum()
    }

    /// The gradient, and the curvature of the least-squares problem whose weights touch Huber's function here from above.
    fn slopes(&self, at: &Parameters) -> (Parameters, [Parameters; 5]) {
        let mut gradient = [0.0; 5];
        let mut curvature = [[0.0; 5]; 5];
        for i in 0..self.target.len() {
            let ([floor, n, d], residual) = self.terms(at, i);
            let row = [floor, n, d, -n * self.x[i], -d * self.y[i]];
            let weight = (DELTA / residual.abs()).min(1.0);
            for j in 0..5 {
                gradient[j] += weight * residual * row[j];
                for k in 0..5 {
                    curvature[j][k] += weight * row[j] * row[k];
                }
            }
        }
        (gradient, curvature)
    }

    fn clamped(&self, mut at: Parameters) -> Parameters {
        for (i, value) in at.iter_mut().enumerate() {
            *value = value.clamp(self.low[i], self.high[i]);
        }
        at
    }

    /// Which parameters may move: not those that would leave their bounds.
    fn free(&self, at: &Parameters, gradient: &Parameters) -> [bool; 5] {
        std::array::from_fn(|i| {
            !(at[i] <= self.low[i] && gradient[i] > 0.0 || at[i] >= self.high[i] && gradient[i] < 0.0)
        })
    }

    fn at_bounds(&self, at: &Parameters) -> Vec<&'static str> {
        let near = |i: usize| at[i] - self.low[i] < 1e-6 || self.high[i] - at[i] < 1e-6;
        ["E", "A", "B", "a", "b"]
            .into_iter()
            .enumerate()
            .filter_map(|(i, name)| near(i).then_some(name))
            .collect()
    }

    fn law(&self, at: &Parameters) -> JointLaw {
        JointLaw {
            floor: at[0].exp(),
            n_factor: (at[1] + at[3] * self.x_mean).exp(),
            n_power: at[3],
            d_factor: (at[2] + at[4] * self.y_mean).exp(),
            d_power: at[4],
        }
    }

    fn centred(&self, law: &JointLaw) -> Parameters {
        self.clamped([
            law.floor.ln(),
            law.n_factor.ln() - law.n_power * self.x_mean,
            law.d_factor.ln() - law.d_power * self.y_mean,
            law.n_power,
            law.d_power,
        ])
    }

    /// How nearly some change of the parameters leaves all losses as they are: the square root of the smallest eigenvalue
    /// over the largest, of the parameters' correlations at a law. 0 for a table that can't tell them apart.
    pub fn resolution(&self, law: &JointLaw) -> f64 {
        let at = self.centred(law);
        let mut matrix = [[0.0; 5]; 5];
        for i in 0..self.target.len() {
            let [floor, n, d] = self.terms(&at, i).0;
            let row = [floor, n, d, -n * self.x[i], -d * self.y[i]];
            for j in 0..5 {
                for k in 0..5 {
                    matrix[j][k] += row[j] * row[k];
                }
            }
        }
        let scale: [f64; 5] = std::array::from_fn(|j| matrix[j][j].sqrt().max(1e-300));
        for j in 0..5 {
            for k in 0..5 {
                matrix[j][k] /= scale[j] * scale[k];
            }
        }
        let (low, high) = super::linear::eigenvalue_range(matrix);
        (low.max(0.0) / high).sqrt()
    }
}

/// A step of Levenberg and Marquardt over the free parameters.
fn step(
    at: &Parameters,
    gradient: &Parameters,
    curvature: &[Parameters; 5],
    free: [bool; 5],
    damping: f64,
) -> Parameters {
    let mut matrix = *curvature;
    let mut right = gradient.map(|slope| -slope);
    for i in 0..5 {
        matrix[i][i] = curvature[i][i] * (1.0 + damping) + 1e-18;
        if !free[i] {
            matrix[i] = [0.0; 5];
            for row in &mut matrix {
                row[i] = 0.0;
            }
            matrix[i][i] = 1.0;
            right[i] = 0.0;
        }
    }
    let change = solve(matrix, right).unwrap_or([0.0; 5]);
    std::array::from_fn(|i| at[i] + change[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAW: JointLaw = JointLaw {
        floor: 1.69,
        n_factor: 406.4,
        n_power: 0.34,
        d_factor: 410.7,
        d_power: 0.28,
    };

    fn grid() -> Vec<(f64, f64, f64)> {
        let sizes = [1e7, 1e8, 1e9, 1e10];
        let tokens = [1e9, 1e10, 1e11, 1e12];
        sizes
            .iter()
            .flat_map(|n| tokens.iter().map(|d| (*n, *d, LAW.loss(*n, *d))))
            .collect()
    }

    #[test]
    fn losses_without_noise_give_the_law_back() {
        let found = Problem::new(&grid()).solve(Starts::Grid).unwrap();
        assert!(found.objective < 1e-16, "{}", found.objective);
        assert!((found.law.n_power - 0.34).abs() < 1e-5 && (found.law.d_power - 0.28).abs() < 1e-5);
        assert!((found.law.floor - 1.69).abs() < 1e-4 && found.at_bounds.is_empty());
    }

    #[test]
    fn one_run_that_went_wrong_changes_little() {
        let mut points = grid();
        points[6].2 *= 1.5;
        let found = Problem::new(&points).solve(Starts::Grid).unwrap();
        assert!((found.law.n_power - 0.34).abs() < 5e-3, "{:?}", found.law);
        assert!((found.law.d_power - 0.28).abs() < 5e-3, "{:?}", found.law);
    }

    #[test]
    fn a_law_without_a_floor_ends_at_the_bound_of_e() {
        let points: Vec<_> = grid()
            .iter()
            .map(|(n, d, _)| (*n, *d, 5.0 * n.powf(-0.1) - 0.1))
            .collect();
        let found = Problem::new(&points).solve(Starts::Grid).unwrap();
        assert!(found.at_bounds.contains(&"E"), "{:?} {:?}", found.law, found.at_bounds);
    }

    #[test]
    fn data_that_grows_with_the_model_is_not_resolved() {
        let together: Vec<_> = (0..16)
            .map(|i| {
                let n = 1e7 * f64::powf(1.5, f64::from(i));
                (n, 20.0 * n, LAW.loss(n, 20.0 * n))
            })
            .collect();
        assert!(Problem::new(&together).resolution(&LAW) < 0.1 * Problem::new(&grid()).resolution(&LAW));
    }
}
