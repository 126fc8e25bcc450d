//! How much of a network's loss its prompts take away.

use serde::{Deserialize, Serialize};

use super::record::{LevelLoss, at_levels, less, nulls_are_nan, over_samples};
use crate::jsonl::null_is_nan;

/// The loss of the validation triples with the empty caption in the place of each sample's own, less the loss with its own. What
/// a picture, its time and its noise make hard is in both and cancels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptGain {
    /// Mean over all triples.
    #[serde(deserialize_with = "null_is_nan")]
    pub mean: f64,
    /// Its standard error, clustered by sample.
    #[serde(deserialize_with = "null_is_nan")]
    pub se: f64,
    /// The same at each time, over samples.
    pub levels: Vec<LevelLoss>,
    /// Of each sample, its gain at each time: `[samples][levels]`.
    #[serde(deserialize_with = "nulls_are_nan")]
    pub gains: Vec<Vec<f32>>,
}

impl PromptGain {
    /// Of losses `without` and `with` prompts, both `[samples][levels]`, at `times`.
    pub(super) fn of(times: &[f64], without: &[Vec<f32>], with: &[Vec<f32>]) -> Self {
        let gains = less(without, with);
        let (mean, se) = over_samples(&gains);
        Self {
            mean,
            se,
            levels: at_levels(times, &gains),
            gains,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hard_with_and_without_a_prompt_is_no_gain() {
        let without = [vec![1.5, 9.5], vec![5.5, 3.0]];
        let with = [vec![1.0, 9.0], vec![5.0, 2.0]];
        let gain = PromptGain::of(&[0.25, 0.75], &without, &with);
        assert_eq!(gain.gains, [[0.5, 0.5], [0.5, 1.0]]);
        // Means of samples: 0.5 and 0.75.
        assert!((gain.mean - 0.625).abs() < 1e-12 && (gain.se - 0.125).abs() < 1e-12);
        assert!((gain.levels[0].mean - 0.5).abs() < 1e-12 && gain.levels[0].se < 1e-12);
        assert!((gain.levels[1].mean - 0.75).abs() < 1e-12 && (gain.levels[1].se - 0.25).abs() < 1e-12);
    }
}
