//! Two networks on the same triples.

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::json;

use super::record::{LevelLoss, ValidationRecord, at_levels, less, over_samples};
use crate::difference::Difference;

/// How much larger one network's validation loss is than another's. What makes a picture or a draw of noise hard is hard for
/// both and cancels: the error is that of the difference, triple by triple.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// Mean over all triples of the first's loss less the second's.
    pub difference: f64,
    /// Its standard error, clustered by sample.
    pub se: f64,
    /// The same at each time.
    pub levels: Vec<LevelLoss>,
    /// How much more the first's prompts gain; `None` where that was not measured of both.
    pub prompt_gain: Option<GainDifference>,
}

/// How much more one network's prompts gain than another's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GainDifference {
    /// Mean over all triples.
    pub difference: f64,
    /// Its standard error, clustered by sample.
    pub se: f64,
}

impl Paired {
    /// `a` less `b`.
    ///
    /// # Errors
    /// They were evaluated on other triples: both digests and what differs are named.
    pub fn of(a: &ValidationRecord, b: &ValidationRecord) -> Result<Self> {
        let found = Difference::all(&json!(a.identity), &json!(b.identity));
        let found: Vec<String> = found.iter().map(Difference::to_string).collect();
        ensure!(
            a.digest == b.digest && a.ids == b.ids,
            "these validation losses are of other triples, {} and {}, and can't be compared: {} (first and second)",
            a.digest,
            b.digest,
            found.join("; ")
        );
        let differences = less(&a.losses, &b.losses);
        let (difference, se) = over_samples(&differences);
        let times: Vec<f64> = a.levels.iter().map(|level| level.time).collect();
        Ok(Self {
            difference,
            se,
            levels: at_levels(&times, &differences),
            prompt_gain: a.prompt_gain.as_ref().zip(b.prompt_gain.as_ref()).map(|(a, b)| {
                let (difference, se) = over_samples(&less(&a.gains, &b.gains));
                GainDifference { difference, se }
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_hard_for_both_cancels() {
        let a = ValidationRecord::example(1, &[[1.0, 9.0], [5.0, 2.0], [40.0, 3.0]]);
        let b = ValidationRecord::example(2, &[[0.5, 8.5], [4.0, 1.0], [39.25, 2.25]]);
        let paired = Paired::of(&a, &b).unwrap();
        // Differences of samples: 0.5, 1, 0.75.
        assert!((paired.difference - 0.75).abs() < 1e-12);
        assert!((paired.se - (0.0625f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((a.val_loss - b.val_loss - paired.difference).abs() < 1e-12);
        assert!(paired.se < a.se / 20.0, "{} and {}", paired.se, a.se);
        assert!(paired.levels.iter().all(|level| (level.mean - 0.75).abs() < 1e-12));
        let back = Paired::of(&b, &a).unwrap();
        assert!((back.difference + 0.75).abs() < 1e-12);
        assert_eq!(paired.prompt_gain, None);
        let beside = |record: &ValidationRecord, gain: f32| {
            let rows = record.losses.iter();
            let without: Vec<Vec<f32>> = rows.map(|row| row.iter().map(|loss| loss + gain).collect()).collect();
            record.clone().beside(&without)
        };
        let gain = Paired::of(&beside(&a, 0.5), &beside(&b, 0.25))
            .unwrap()
            .prompt_gain
            .unwrap();
        assert!((gain.difference - 0.25).abs() < 1e-6 && gain.se < 1e-6, "{gain:?}");
    }

    #[test]
    fn other_triples_are_refused_with_both_digests_and_what_differs() {
        let a = ValidationRecord::example(1, &[[1.0, 9.0], [5.0, 2.0]]);
        let mut b = a.clone();
        b.identity.seed = 7;
        b.digest = b.identity.digest().unwrap();
        let message = Paired::of(&a, &b).unwrap_err().to_string();
        for part in [a.digest.as_str(), b.digest.as_str(), "seed is 0 there and 7 here"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
