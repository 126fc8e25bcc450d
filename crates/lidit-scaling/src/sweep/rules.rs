//! What follows from a run's size and length: steps, batch, rate, warm-up.

use serde::Deserialize;

use super::SweepError;

/// `[rules]` of a sweep file. Without a rule, a run keeps what its config says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// What decides how long a run trains.
    #[serde(default)]
    pub length: Length,
    /// `train.global_batch` from N and D.
    #[serde(default)]
    pub batch: Option<BatchRule>,
    /// `train.lr` from N and D.
    #[serde(default)]
    pub lr: Option<PowerRule>,
    /// `train.warmup_steps` as a share of the steps.
    #[serde(default)]
    pub warmup_share: Option<f64>,
}

/// What decides how long a run trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// `train.steps` of its config.
    #[default]
    Steps,
    /// So many passes over `data.max_samples`.
    Epochs(f64),
    /// Its isoFLOP budget; the samples become `data.max_samples`, so that each is seen once.
    Budget,
}

/// `value * (N / parameters)^n_exponent * (S / samples)^d_exponent`, N the trainable parameters and S the samples that the
/// run sees. Laws for rate and batch have this form (arXiv 2411.17470, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerRule {
    /// At the reference size and length.
    pub value: f64,
    /// Reference N.
    pub parameters: f64,
    /// How it moves with N.
    pub n_exponent: f64,
    /// Reference S.
    pub samples: f64,
    /// How it moves with S.
    pub d_exponent: f64,
}

/// A power rule rounded to a whole number of `multiple`, at least one of them.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchRule {
    /// The rule.
    pub rule: PowerRule,
    /// What a batch is a multiple of: ranks, or ranks times micro-batch.
    pub multiple: u64,
}

/// What a run's config says before the rules.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Given {
    /// Samples of its data: `data.max_samples`, or all.
    pub samples: u64,
    /// `train.steps`.
    pub steps: u64,
    /// `train.global_batch`.
    pub batch: u64,
}

/// What a run's network costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    /// Trainable parameters.
    pub parameters: u64,
    /// To train on one image.
    pub flops_per_image: f64,
}

/// What the rules make of a run. `None` keeps what the config says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settled {
    /// `data.max_samples`.
    pub max_samples: Option<u64>,
    /// `train.steps`.
    pub steps: Option<u64>,
    /// `train.global_batch`.
    pub batch: Option<u64>,
    /// `train.lr`.
    pub lr: Option<f64>,
    /// `train.warmup_steps`.
    pub warmup_steps: Option<u64>,
}

impl Rules {
    /// What a run of this price should do.
    pub fn settle(&self, given: Given, price: Price, budget: Option<f64>) -> Settled {
        let seen = match (self.length, budget) {
            (Length::Epochs(epochs), _) => epochs * given.samples as f64,
            (Length::Budget, Some(budget)) => budget / price.flops_per_image,
            _ => (given.steps * given.batch) as f64,
        };
        let parameters = price.parameters as f64;
        let batch = self.batch.map(|rule| rule.at(parameters, seen));
        let used = batch.unwrap_or(given.batch);
        let steps = match self.length {
            Length::Steps if batch.is_none() => given.steps,
            _ => ((seen / used as f64).round() as u64).max(1),
        };
        Settled {
            max_samples: (self.length == Length::Budget).then_some(steps * used),
            steps: (steps != given.steps).then_some(steps),
            batch,
            lr: self.lr.map(|rule| rule.at(parameters, seen)),
            warmup_steps: self.warmup_share.map(|share| (share * steps as f64).round() as u64),
        }
    }

    pub(super) fn validate(&self, has_budgets: bool) -> Result<(), SweepError> {
        let refuse = |key: &str, reason: &str| Err(SweepError::key(format!("rules.{key}"), reason));
        if has_budgets != (self.length == Length::Budget) {
            return refuse("length", "\"budget\" and the table [isoflop] need each other");
        }
        if matches!(self.length, Length::Epochs(epochs) if !(epochs > 0.0 && epochs.is_finite())) {
            return refuse("length", "epochs are above 0");
        }
        if self.warmup_share.is_some_and(|share| !(0.0..1.0).contains(&share)) {
            return refuse("warmup_share", "must be at least 0 and below 1");
        }
        if let Some(rule) = self.lr {
            rule.validate("rules.lr")?;
        }
        if let Some(batch) = self.batch {
            batch.rule.validate("rules.batch.rule")?;
            if batch.multiple == 0 {
                return refuse("batch.multiple", "must be at least 1");
            }
        }
        Ok(())
    }
}

impl PowerRule {
    fn at(&self, parameters: f64, samples: f64) -> f64 {
        self.value
            * (parameters / self.parameters).powf(self.n_exponent)
            * (samples / self.samples).powf(self.d_exponent)
    }

    fn validate(&self, key: &str) -> Result<(), SweepError> {
        for (name, number) in [
            ("value", self.value),
            ("parameters", self.parameters),
            ("samples", self.samples),
        ] {
            if !(number > 0.0 && number.is_finite()) {
                return Err(SweepError::key(format!("{key}.{name}"), "must be above 0"));
            }
        }
        for (name, number) in [("n_exponent", self.n_exponent), ("d_exponent", self.d_exponent)] {
            if !number.is_finite() {
                return Err(SweepError::key(format!("{key}.{name}"), "must be a number"));
            }
        }
        Ok(())
    }
}

impl BatchRule {
    fn at(&self, parameters: f64, samples: f64) -> u64 {
        let multiples = (self.rule.at(parameters, samples) / self.multiple as f64).round() as u64;
        multiples.max(1) * self.multiple
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: Given = Given {
        samples: 1000,
        steps: 70,
        batch: 16,
    };
    const PRICE: Price = Price {
        parameters: 4_000_000,
        flops_per_image: 1e9,
    };

    #[test]
    fn without_rules_a_run_keeps_its_config() {
        assert_eq!(Rules::default().settle(GIVEN, PRICE, None), Settled::default());
    }

    #[test]
    fn a_pass_over_the_samples_sets_the_steps() {
        let rules = Rules {
            length: Length::Epochs(2.0),
            warmup_share: Some(0.1),
            ..Rules::default()
        };
        let settled = rules.settle(GIVEN, PRICE, None);
        assert_eq!(
            (settled.steps, settled.max_samples, settled.warmup_steps),
            (Some(125), None, Some(13))
        );
    }

    #[test]
    fn a_budget_is_spent_on_samples_that_are_seen_once() {
        let rules = Rules {
            length: Length::Budget,
            ..Rules::default()
        };
        let settled = rules.settle(GIVEN, PRICE, Some(1.6e12));
        assert_eq!((settled.steps, settled.max_samples), (Some(100), Some(1600)));
    }

    #[test]
    fn rate_and_batch_are_powers_of_size_and_samples() {
        let rule = PowerRule {
            value: 1e-3,
            parameters: 1e6,
            n_exponent: -0.5,
            samples: 1120.0,
            d_exponent: 0.0,
        };
        let rules = Rules {
            lr: Some(rule),
            batch: Some(BatchRule {
                rule: PowerRule {
                    value: 20.0,
                    n_exponent: 0.5,
                    ..rule
                },
                multiple: 16,
            }),
            ..Rules::default()
        };
        let settled = rules.settle(GIVEN, PRICE, None);
        assert!((settled.lr.unwrap_or(0.0) - 5e-4).abs() < 1e-12);
        // 40 is nearest to three times 16 from below: 2.5 rounds up.
        assert_eq!((settled.batch, settled.steps), (Some(48), Some(23)));
    }
}
