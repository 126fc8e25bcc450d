//! Which runs the law is fitted to.

use serde::{Deserialize, Serialize};

use super::point::Point;

/// The runs of one size on one amount of data: seeds are averaged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The names of its runs.
    pub names: Vec<String>,
    /// Trainable parameters.
    pub n: f64,
    /// Image tokens seen.
    pub d: f64,
    /// `C_model` in FLOPs.
    pub c: f64,
    /// The mean loss.
    pub loss: f64,
    /// Its standard error: from the spread over runs, or, of a single run, the table's.
    pub se: Option<f64>,
}

impl Measurement {
    /// `(n, d, loss)`.
    pub fn coordinates(&self) -> (f64, f64, f64) {
        (self.n, self.d, self.loss)
    }

    fn of(points: &[&Point]) -> Self {
        let count = points.len() as f64;
        let mean = |value: fn(&Point) -> f64| points.iter().map(|point| value(point)).sum::<f64>() / count;
        let loss = mean(|point| point.loss);
        let se = if let [single] = points {
            single.se
        } else {
            let squares: f64 = points.iter().map(|point| (point.loss - loss).powi(2)).sum();
            Some((squares / (count - 1.0) / count).sqrt())
        };
        Self {
            names: points.iter().map(|point| point.name.clone()).collect(),
            n: points[0].n,
            d: points[0].d,
            c: mean(|point| point.c),
            loss,
            se,
        }
    }
}

/// A run that the law is not fitted to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// The points of a fit, and those that are not in it.
pub struct Selection {
    /// Averaged over seeds, by size, then data.
    pub used: Vec<Measurement>,
    /// In the table's order.
    pub left_out: Vec<LeftOut>,
    /// Number of runs in `used`.
    pub runs: usize,
}

impl Selection {
    /// Takes the runs that saw no sample twice. Without `tokens_per_sample` nobody knows which did, and all are taken.
    pub fn of(points: &[Point], tokens_per_sample: Option<f64>) -> Self {
        let epochs = |point: &Point| Some(point.d / (point.u? * tokens_per_sample?));
        let mut left_out = Vec::new();
        let mut single_epoch = Vec::new();
        for point in points {
            match epochs(point) {
                // Whole batches: the last step may reach past the last sample.
                Some(epochs) if epochs > 1.01 => left_out.push(LeftOut {
                    name: point.name.clone(),
                    reason: format!("{epochs:.1} epochs over its data; the law is of single-epoch runs"),
                }),
                _ => single_epoch.push(point),
            }
        }
        let runs = single_epoch.len();
        single_epoch.sort_by(|a, b| a.n.total_cmp(&b.n).then(a.d.total_cmp(&b.d)));
        let used = single_epoch
            .chunk_by(|a, b| same(a.n, b.n) && same(a.d, b.d))
            .map(Measurement::of)
            .collect();
        Self { used, left_out, runs }
    }
}

/// Equal but for rounding in a table.
pub fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * a.abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str, n: f64, d: f64, loss: f64) -> Point {
        Point {
            name: name.to_owned(),
            n,
            d,
            c: 6.0 * n * d,
            loss,
            se: Some(0.5),
            u: Some(100.0),
            seed: None,
        }
    }

    #[test]
    fn seeds_are_averaged_and_their_spread_is_the_error() {
        let points = [
            point("b", 2.0, 5.0, 1.0),
            point("a", 1.0, 5.0, 3.0),
            point("c", 2.0, 5.0, 2.0),
        ];
        let selection = Selection::of(&points, None);
        assert_eq!((selection.used.len(), selection.runs), (2, 3));
        let [single, pair] = &selection.used[..] else { panic!() };
        assert_eq!((single.loss, single.se), (3.0, Some(0.5)));
        assert_eq!((pair.loss, pair.se), (1.5, Some(0.5)));
        assert_eq!(pair.names, ["b", "c"]);
    }

    #[test]
    fn runs_that_saw_samples_twice_are_left_out() {
        let points = [point("once", 1.0, 1600.0, 1.0), point("twice", 1.0, 3200.0, 1.0)];
        let selection = Selection::of(&points, Some(16.0));
        assert_eq!(selection.used.len(), 1);
        assert_eq!(selection.left_out[0].name, "twice");
        assert!(selection.left_out[0].reason.starts_with("2.0 epochs"));
        assert_eq!(Selection::of(&points, None).used.len(), 2);
    }
}
