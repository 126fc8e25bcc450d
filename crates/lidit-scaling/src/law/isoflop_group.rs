//! The points of one compute budget.

use super::isoflop::Budget;
use super::linear::least_squares;
use super::power_law::PowerLaw;
use super::selection::Measurement;

/// A parabola has three coefficients.
pub const LEAST_POINTS: usize = 3;

/// Points of one budget, ready to be fitted again and again.
pub struct Group {
    pub c: f64,
    pub n_centre: f64,
    pub rows: Vec<[f64; 3]>,
    pub losses: Vec<f64>,
    pub tokens: PowerLaw,
}

/// The minimum of a parabola.
pub struct Vertex {
    pub parabola: [f64; 3],
    pub x: f64,
    pub loss: f64,
}

impl Group {
    pub fn of(points: &[&Measurement]) -> Result<Self, String> {
        if points.len() < LEAST_POINTS {
            return Err(format!(
                "{} {}; a parabola needs {LEAST_POINTS}",
                points.len(),
                if points.len() == 1 { "size" } else { "sizes" }
            ));
        }
        let n_centre = (points.iter().map(|point| point.n.ln()).sum::<f64>() / points.len() as f64).exp();
        let rows = points
            .iter()
            .map(|point| (point.n / n_centre).ln())
            .map(|x| [1.0, x, x * x])
            .collect();
        let tokens =
            PowerLaw::fit(points.iter().map(|point| (point.n, point.d))).ok_or("all points are of one size")?;
        Ok(Self {
            c: mean_compute(points),
            n_centre,
            rows,
            losses: points.iter().map(|point| point.loss).collect(),
            tokens,
        })
    }

    pub fn vertex(&self, losses: &[f64]) -> Result<Vertex, String> {
        let parabola: [f64; 3] = least_squares(&self.rows, losses).ok_or("fewer than three different sizes")?;
        if parabola[2] <= 0.0 {
            return Err("the parabola opens downwards: the loss has no minimum".to_owned());
        }
        let x = -parabola[1] / (2.0 * parabola[2]);
        Ok(Vertex {
            parabola,
            x,
            loss: parabola[0] - parabola[2] * x * x,
        })
    }

    pub fn optimum(&self, vertex: &Vertex) -> (f64, f64) {
        let n = self.n_centre * vertex.x.exp();
        (n, self.tokens.at(n))
    }

    pub fn budget(&self) -> Result<Budget, String> {
        let vertex = self.vertex(&self.losses)?;
        let (low, high) = self
            .rows
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), row| {
                (low.min(row[1]), high.max(row[1]))
            });
        if vertex.x < low || vertex.x > high {
            let (wanted, side) = if vertex.x < low {
                ("smaller", "rises")
            } else {
                ("larger", "falls")
            };
            return Err(format!(
                "the loss still {side} with the size at this end of its points: {wanted} models are needed"
            ));
        }
        let (n_opt, d_opt) = self.optimum(&vertex);
        Ok(Budget {
            c: self.c,
            points: self.rows.len(),
            parabola: vertex.parabola,
            n_centre: self.n_centre,
            n_low: self.n_centre * low.exp(),
            n_high: self.n_centre * high.exp(),
            n_opt,
            d_opt,
            loss: vertex.loss,
            n_opt_band: None,
        })
    }
}

/// A parabola's value in a row of `1, x, x^2`.
pub fn value(parabola: &[f64; 3], row: &[f64; 3]) -> f64 {
    parabola
        .iter()
        .zip(row)
        .map(|(coefficient, power)| coefficient * power)
        .sum()
}

/// The geometric mean of the points' compute.
pub fn mean_compute(points: &[&Measurement]) -> f64 {
    (points.iter().map(|point| point.c.ln()).sum::<f64>() / points.len() as f64).exp()
}
