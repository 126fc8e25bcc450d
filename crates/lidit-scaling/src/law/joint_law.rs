//! Loss against parameters and data, jointly.

use serde::{Deserialize, Serialize};

use super::power_law::PowerLaw;

/// `L(N, D) = E + A / N^a + B / D^b`: Hoffmann et al. 2022 (arXiv 2203.15556), equation 2. Liang et al. 2024 (arXiv
/// 2411.17470) write the same law as `(Nc / N)^a + (Tc / T)^b + E`, with `A = Nc^a` and `B = Tc^b`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct JointLaw {
    /// The loss that neither parameters nor data take away.
    #[serde(rename = "E")]
    pub floor: f64,
    /// The factor of the parameters' term.
    #[serde(rename = "A")]
    pub n_factor: f64,
    /// The power of the parameters' term.
    #[serde(rename = "a")]
    pub n_power: f64,
    /// The factor of the data's term.
    #[serde(rename = "B")]
    pub d_factor: f64,
    /// The power of the data's term.
    #[serde(rename = "b")]
    pub d_power: f64,
}

impl JointLaw {
    /// The loss of `n` parameters after `d` tokens.
    pub fn loss(&self, n: f64, d: f64) -> f64 {
        self.floor + self.n_term(n) + self.d_term(d)
    }

    /// What more parameters could still take away.
    pub fn n_term(&self, n: f64) -> f64 {
        self.n_factor / n.powf(self.n_power)
    }

    /// What more data could still take away.
    pub fn d_term(&self, d: f64) -> f64 {
        self.d_factor / d.powf(self.d_power)
    }

    /// The power of compute with which the best `N` grows, `b / (a + b)`.
    pub fn n_opt_exponent(&self) -> f64 {
        self.d_power / (self.n_power + self.d_power)
    }

    /// The power of compute with which the best `D` grows, `a / (a + b)`.
    pub fn d_opt_exponent(&self) -> f64 {
        self.n_power / (self.n_power + self.d_power)
    }

    /// The `(N, D)` of least loss with `k N^p D = c`; for `p = 1` equation 4 of Hoffmann et al. The best `N` grows with
    /// `c` to the power `b / (a + p b)`, the best `D` with `a / (a + p b)`.
    pub fn optimum(&self, c: f64, cost: PowerLaw) -> (f64, f64) {
        let PowerLaw {
            coefficient: k,
            exponent: p,
        } = cost;
        let ratio = self.n_power * self.n_factor / (p * self.d_power * self.d_factor);
        let n = ((ratio.ln() + self.d_power * (c / k).ln()) / (self.n_power + p * self.d_power)).exp();
        (n, c / cost.at(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_split_of_the_same_compute_beats_the_optimum() {
        let law = JointLaw {
            floor: 1.69,
            n_factor: 406.4,
            n_power: 0.34,
            d_factor: 410.7,
            d_power: 0.28,
        };
        for exponent in [1.0, 0.8] {
            let cost = PowerLaw {
                coefficient: 6.0,
                exponent,
            };
            let (n, d) = law.optimum(5.76e23, cost);
            assert!((cost.at(n) * d / 5.76e23 - 1.0).abs() < 1e-12);
            let best = law.loss(n, d);
            for factor in [0.9, 0.99, 1.01, 1.1] {
                assert!(law.loss(n * factor, 5.76e23 / cost.at(n * factor)) > best);
            }
        }
        assert!((law.n_opt_exponent() - 0.28 / 0.62).abs() < 1e-12);
    }
}
