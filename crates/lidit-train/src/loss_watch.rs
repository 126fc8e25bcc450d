//! Which steps can't be trusted: numbers that are not finite, and losses far above what came before.

use serde::{Deserialize, Serialize};

/// The running mean and variance look back over about this many losses.
const WINDOW: f32 = 64.0;
/// Fewer losses than these say nothing of what is usual.
const LOSSES_JUDGED: u64 = 16;

/// What the losses of a run have been like, and how many steps were skipped.
///
/// Every rank has one and fills it with the same numbers, which come out of the reduction over ranks. A line of
/// `metrics.jsonl` holds the one after its step, so a resumed run goes on with the bits that the checkpoint's step left
/// (f32, which JSON brings back exactly).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossWatch {
    /// Losses taken in.
    pub losses: u64,
    /// Their running mean.
    pub mean: f32,
    /// Their running variance.
    pub variance: f32,
    /// Steps of the lineage that were skipped.
    pub skipped: u64,
    /// The last steps without an update, all in a row.
    pub skipped_in_a_row: u64,
}

/// Why a step has an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncidentKind {
    /// Loss or gradient norm is not finite: the step was skipped.
    NonFinite,
    /// The loss is far above the losses before it; the update was made.
    Spike,
}

impl LossWatch {
    /// What is wrong with a step of this mean `loss` and gradient norm. `spike_zscore` is `train.spike_zscore`, 0 for no
    /// spikes.
    pub fn judge(&self, loss: f64, grad_norm: f64, spike_zscore: f64) -> Option<IncidentKind> {
        if !(loss.is_finite() && grad_norm.is_finite()) {
            return Some(IncidentKind::NonFinite);
        }
        let is_spike = spike_zscore > 0.0 && self.zscore(loss).is_some_and(|z| z > spike_zscore);
        is_spike.then_some(IncidentKind::Spike)
    }

    /// Standard deviations of `loss` above the running mean; `None` while too few losses were seen, or all were equal.
    pub fn zscore(&self, loss: f64) -> Option<f64> {
        let deviation = f64::from(self.variance).sqrt();
        (self.losses >= LOSSES_JUDGED && deviation > 0.0).then(|| (loss - f64::from(self.mean)) / deviation)
    }

    /// Takes a step's `loss` in, which was judged as `kind`.
    ///
    /// A spike counts as the largest loss that is none: one outlier must not hide the next one, and a loss that stays
    /// high becomes usual after some time.
    pub fn take(&mut self, loss: f64, kind: Option<IncidentKind>, spike_zscore: f64) {
        if kind == Some(IncidentKind::NonFinite) {
            self.skipped += 1;
            self.skipped_in_a_row += 1;
            return;
        }
        self.skipped_in_a_row = 0;
        let loss = match kind {
            Some(_) => self.mean + spike_zscore as f32 * self.variance.sqrt(),
            None => loss as f32,
        };
        // The plain mean at first; later losses fade.
        let weight = (1.0 / (self.losses + 1) as f32).max(1.0 / WINDOW);
        let delta = loss - self.mean;
        self.mean += weight * delta;
        self.variance = (1.0 - weight) * (self.variance + weight * delta * delta);
        self.losses += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const Z: f64 = 6.0;

    /// A watch that has seen `losses`.
    fn after(losses: impl IntoIterator<Item = f64>) -> (LossWatch, Vec<Option<IncidentKind>>) {
        let mut watch = LossWatch::default();
        let mut kinds = Vec::new();
        for loss in losses {
            let kind = watch.judge(loss, 1.0, Z);
            watch.take(loss, kind, Z);
            kinds.push(kind);
        }
        (watch, kinds)
    }

    /// Losses around 1, a tenth up and down.
    fn usual(count: usize) -> impl Iterator<Item = f64> {
        (0..count).map(|i| 1.0 + 0.1 * ((i % 5) as f64 - 2.0) / 2.0)
    }

    #[test]
    fn the_first_losses_have_the_mean_and_variance_of_the_textbook() {
        let losses: Vec<f64> = usual(20).collect();
        let (watch, _) = after(losses.iter().copied());
        let mean = losses.iter().sum::<f64>() / 20.0;
        let variance = losses.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / 20.0;
        assert!((f64::from(watch.mean) - mean).abs() < 1e-6);
        assert!((f64::from(watch.variance) - variance).abs() < 1e-6);
        let z = watch.zscore(2.0).unwrap();
        assert!((z - (2.0 - mean) / variance.sqrt()).abs() < 1e-3, "{z}");
    }

    #[test]
    fn a_spike_is_seen_does_not_hide_the_next_one_and_a_lasting_rise_becomes_usual() {
        let (_, kinds) = after(usual(40).chain([5.0, 1.0, 5.0]).chain(usual(5)));
        let spikes: Vec<usize> = (0..kinds.len()).filter(|&i| kinds[i].is_some()).collect();
        assert_eq!(spikes, [40, 42]);
        let (_, kinds) = after(usual(40).chain(usual(200).map(|loss| loss + 1.0)));
        assert_eq!(kinds[40], Some(IncidentKind::Spike));
        assert_eq!(kinds[239], None);
    }

    #[test]
    fn few_losses_equal_losses_falls_and_no_limit_are_no_spikes() {
        let (_, kinds) = after(usual(10).chain([50.0]));
        assert!(kinds.iter().all(Option::is_none));
        let (_, kinds) = after(std::iter::repeat_n(1.0, 30).chain([50.0]));
        assert!(kinds.iter().all(Option::is_none));
        let (watch, kinds) = after(usual(40).chain([-5.0]));
        assert_eq!(kinds[40], None);
        assert_eq!(watch.judge(50.0, 1.0, 0.0), None);
    }

    #[test]
    fn skipped_steps_are_counted_change_nothing_else_and_come_back_from_json() {
        let (mut watch, _) = after(usual(33));
        let before = watch;
        for (loss, norm) in [(f64::NAN, 1.0), (1.0, f64::INFINITY)] {
            let kind = watch.judge(loss, norm, Z);
            assert_eq!(kind, Some(IncidentKind::NonFinite));
            watch.take(loss, kind, Z);
        }
        assert_eq!((watch.skipped, watch.skipped_in_a_row), (2, 2));
        assert_eq!(
            (watch.losses, watch.mean, watch.variance),
            (before.losses, before.mean, before.variance)
        );
        let stored = serde_json::to_string(&watch).unwrap();
        assert_eq!(serde_json::from_str::<LossWatch>(&stored).unwrap(), watch);
        watch.take(1.0, None, Z);
        assert_eq!((watch.skipped, watch.skipped_in_a_row), (2, 0));
    }
}
