//! The best size at each compute budget.

use serde::{Deserialize, Serialize};

use super::bootstrap::{Draws, Residuals};
use super::interval::Interval;
use super::isoflop_group::{Group, LEAST_POINTS, Vertex, mean_compute, value};
use super::power_law::PowerLaw;
use super::selection::Measurement;

/// A line through two budgets' optima has no error.
const LEAST_BUDGETS: usize = 2;

/// Fits at equal compute: Hoffmann et al. 2022 (arXiv 2203.15556), approach 2. At each budget a parabola of loss in `ln N`; through
/// their minima, power laws in compute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IsoFlop {
    /// Budgets with a minimum inside their points, by compute.
    pub budgets: Vec<Budget>,
    /// Budgets that are left out, and why.
    pub left_out: Vec<String>,
    /// The best `N` against compute.
    pub n_opt: PowerLaw,
    /// The best `D` against compute.
    pub d_opt: PowerLaw,
    /// The least loss against compute.
    pub loss: PowerLaw,
    /// 95 % interval of the exponent of `n_opt`; none when no parabola has a point to spare.
    pub n_opt_band: Option<Interval>,
    /// 95 % interval of the exponent of `d_opt`.
    pub d_opt_band: Option<Interval>,
    /// 95 % interval of the exponent of `loss`.
    pub loss_band: Option<Interval>,
}

/// The points of one compute budget and their parabola.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// Compute: the points' geometric mean.
    pub c: f64,
    /// Number of points.
    pub points: usize,
    /// `[p, q, r]` of `loss = p + q x + r x^2`, where `x = ln(N / n_centre)`.
    pub parabola: [f64; 3],
    /// The points' mean size.
    pub n_centre: f64,
    /// Their smallest size.
    pub n_low: f64,
    /// Their largest.
    pub n_high: f64,
    /// The best size.
    pub n_opt: f64,
    /// Its data, on the line of `ln D` against `ln N` of these points.
    pub d_opt: f64,
    /// Its loss.
    pub loss: f64,
    /// 95 % interval of the best size.
    pub n_opt_band: Option<Interval>,
}

impl Budget {
    /// The parabola's loss at a size.
    pub fn at(&self, n: f64) -> f64 {
        let x = (n / self.n_centre).ln();
        self.parabola[0] + x * (self.parabola[1] + x * self.parabola[2])
    }
}

impl IsoFlop {
    /// Fits points whose compute is within a factor `1 + tolerance` of their budget's least. An error says what they lack.
    pub fn of(points: &[Measurement], tolerance: f64, draws: usize, seed: u64) -> Result<Self, String> {
        let mut left_out = Vec::new();
        let mut fitted = Vec::new();
        for points in budgets(points, tolerance) {
            let c = mean_compute(&points);
            match Group::of(&points).and_then(|group| Ok((group.budget()?, group))) {
                Ok(found) => fitted.push(found),
                Err(problem) => left_out.push(format!("C = {c:.3e}: {problem}")),
            }
        }
        if fitted.len() < LEAST_BUDGETS {
            return Err(format!(
                "the isoFLOP laws need {LEAST_BUDGETS} budgets of at least {LEAST_POINTS} sizes whose loss has a minimum \
                 inside them, and have {} of {}",
                fitted.len(),
                fitted.len() + left_out.len()
            ));
        }
        let (mut budgets, groups): (Vec<Budget>, Vec<Group>) = fitted.into_iter().unzip();
        let laws = Laws::of(
            budgets
                .iter()
                .map(|budget| (budget.c, budget.n_opt, budget.d_opt, budget.loss)),
        )
        .ok_or("the isoFLOP budgets do not differ: raise the spread of compute or lower the tolerance")?;
        let redrawn = resample(&budgets, &groups, draws, seed);
        for (i, budget) in budgets.iter_mut().enumerate() {
            budget.n_opt_band = Interval::of(redrawn.iter().filter_map(|(sizes, _)| sizes[i]));
        }
        let band = |of: fn(&Laws) -> PowerLaw| {
            Interval::of(redrawn.iter().filter_map(|(_, laws)| Some(of(laws.as_ref()?).exponent)))
        };
        Ok(Self {
            left_out,
            n_opt: laws.n_opt,
            d_opt: laws.d_opt,
            loss: laws.loss,
            n_opt_band: band(|laws| laws.n_opt),
            d_opt_band: band(|laws| laws.d_opt),
            loss_band: band(|laws| laws.loss),
            budgets,
        })
    }
}

struct Laws {
    n_opt: PowerLaw,
    d_opt: PowerLaw,
    loss: PowerLaw,
}

impl Laws {
    /// Of optima `(c, n, d, loss)`.
    fn of(optima: impl Iterator<Item = (f64, f64, f64, f64)>) -> Option<Self> {
        let optima: Vec<_> = optima.collect();
        Some(Self {
            n_opt: PowerLaw::fit(optima.iter().map(|(c, n, _, _)| (*c, *n)))?,
            d_opt: PowerLaw::fit(optima.iter().map(|(c, _, d, _)| (*c, *d)))?,
            loss: PowerLaw::fit(optima.iter().map(|(c, _, _, loss)| (*c, *loss)))?,
        })
    }
}

/// Per draw, each budget's best size and the laws through them; a parabola that opens downwards in a draw is not in it.
fn resample(budgets: &[Budget], groups: &[Group], draws: usize, seed: u64) -> Vec<(Vec<Option<f64>>, Option<Laws>)> {
    let residuals = pooled(budgets, groups);
    if residuals.iter().all(|residual| *residual == 0.0) {
        return Vec::new();
    }
    let residuals = Residuals::new(&residuals, None, 0);
    let mut source = Draws::new(seed);
    (0..draws)
        .map(|_| {
            let vertices: Vec<Option<Vertex>> = budgets
                .iter()
                .zip(groups)
                .map(|(budget, group)| {
                    let losses: Vec<f64> = group
                        .rows
                        .iter()
                        .map(|row| value(&budget.parabola, row) + residuals.one(&mut source))
                        .collect();
                    group.vertex(&losses).ok()
                })
                .collect();
            let optima = vertices.iter().zip(groups).filter_map(|(vertex, group)| {
                let (n, d) = group.optimum(vertex.as_ref()?);
                Some((group.c, n, d, vertex.as_ref()?.loss))
            });
            let laws = Laws::of(optima);
            let sizes = vertices
                .iter()
                .zip(groups)
                .map(|(vertex, group)| Some(group.optimum(vertex.as_ref()?).0))
                .collect();
            (sizes, laws)
        })
        .collect()
}

/// The residuals of all budgets, widened together for the three coefficients that each parabola used up.
fn pooled(budgets: &[Budget], groups: &[Group]) -> Vec<f64> {
    let residuals: Vec<f64> = budgets
        .iter()
        .zip(groups)
        .flat_map(|(budget, group)| {
            let of = |(row, loss): (&[f64; 3], &f64)| loss - value(&budget.parabola, row);
            group.rows.iter().zip(&group.losses).map(of).collect::<Vec<f64>>()
        })
        .collect();
    let spare = residuals.len() - LEAST_POINTS * groups.len();
    if spare == 0 {
        return vec![0.0; residuals.len()];
    }
    let widened = (residuals.len() as f64 / spare as f64).sqrt();
    residuals.iter().map(|residual| residual * widened).collect()
}

/// Points by budget: a budget's compute is within a factor `1 + tolerance` of its least.
pub fn budgets(points: &[Measurement], tolerance: f64) -> Vec<Vec<&Measurement>> {
    let mut sorted: Vec<&Measurement> = points.iter().collect();
    sorted.sort_by(|a, b| a.c.total_cmp(&b.c));
    let mut budgets: Vec<Vec<&Measurement>> = Vec::new();
    for point in sorted {
        match budgets.last_mut() {
            Some(budget) if point.c <= budget[0].c * (1.0 + tolerance) => budget.push(point),
            _ => budgets.push(vec![point]),
        }
    }
    budgets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(n: f64, c: f64, loss: f64) -> Measurement {
        Measurement {
            names: vec!["a".to_owned()],
            n,
            d: c / (6.0 * n),
            c,
            loss,
            se: None,
        }
    }

    fn parabola(c: f64, n_opt: f64, sizes: &[f64]) -> Vec<Measurement> {
        let loss = |n: f64| 3.0 * f64::powf(c, -0.02) + 0.05 * (n / n_opt).ln().powi(2);
        sizes.iter().map(|n| measurement(*n, c, loss(*n))).collect()
    }

    #[test]
    fn minima_lie_where_they_were_put() {
        let points: Vec<_> = [1e15, 1e16, 1e17]
            .iter()
            .flat_map(|c| {
                let best = 0.01 * f64::powf(*c, 0.5);
                parabola(*c, best, &[best / 4.0, best / 2.0, best, best * 3.0])
            })
            .collect();
        let fit = IsoFlop::of(&points, 0.05, 100, 1).unwrap();
        assert!((fit.n_opt.exponent - 0.5).abs() < 1e-9 && (fit.n_opt.coefficient / 0.01 - 1.0).abs() < 1e-6);
        assert!((fit.d_opt.exponent - 0.5).abs() < 1e-9 && (fit.loss.exponent + 0.02).abs() < 1e-9);
        let budget = &fit.budgets[1];
        assert!((budget.n_opt / 1e6 - 1.0).abs() < 1e-9 && (budget.d_opt / (1e16 / 6e6) - 1.0).abs() < 1e-6);
        assert!((budget.at(budget.n_opt) - budget.loss).abs() < 1e-12);
    }

    #[test]
    fn budgets_without_a_minimum_inside_are_named_and_left_out() {
        let mut points = parabola(1e15, 1e5, &[5e4, 1e5, 2e5]);
        points.extend(parabola(1e16, 3e5, &[1e5, 3e5, 9e5]));
        points.extend(parabola(1e17, 1e6, &[2e6, 4e6, 8e6]));
        points.extend(parabola(1e18, 3e6, &[1e6, 3e6]));
        let fit = IsoFlop::of(&points, 0.05, 0, 1).unwrap();
        assert_eq!(fit.budgets.len(), 2);
        assert!(fit.left_out[0].contains("smaller models"), "{}", fit.left_out[0]);
        assert!(fit.left_out[1].contains("2 sizes"), "{}", fit.left_out[1]);
        assert_eq!(fit.n_opt_band, None);
        assert!(
            IsoFlop::of(&points[6..], 0.05, 0, 1)
                .unwrap_err()
                .contains("have 0 of 2")
        );
    }

    #[test]
    fn compute_within_the_tolerance_is_one_budget() {
        let points = [1.0, 1.04, 1.2, 1.25].map(|c| measurement(1.0, c, 1.0));
        let sizes: Vec<usize> = budgets(&points, 0.05).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 2]);
    }
}
