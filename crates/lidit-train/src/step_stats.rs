//! What a step says of itself.

use lidit_data::SampleSum;

use crate::checkpoint_writer::Progress;
use crate::incident::MicroBatchReport;
use crate::loss_bins::LossBins;
use crate::loss_watch::IncidentKind;

/// What a step says of itself; the same on every rank, but for the micro-batches of a finding.
#[derive(Clone, Debug, PartialEq)]
pub struct StepStats {
    /// Mean loss over the global batch's usable samples.
    pub loss: f64,
    /// Unweighted losses of the same samples, by their times.
    pub loss_bins: LossBins,
    /// L2 norm of the mean gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// Usable samples of the global batch.
    pub usable: usize,
    /// Model FLOPs, forward and backward, of the global batch.
    pub flops: f64,
    /// Caption tokens that the limit cut off the global batch's prompts, over all encoders.
    pub caption_tokens_cut: u64,
    /// Image tokens of the global batch, unusable samples included.
    pub image_tokens: u64,
    /// The samples that all ranks trained on.
    pub samples: SampleSum,
    /// Some rank was asked to stop.
    pub stop: bool,
    /// How far all ranks are with the save under way.
    pub saving: Progress,
    /// Why these numbers can't be trusted, where they can't.
    pub finding: Option<Finding>,
}

/// Why the numbers of a step can't be trusted, and this rank's part in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What is wrong.
    pub kind: IncidentKind,
    /// Of a spike: standard deviations above the running mean.
    pub zscore: Option<f64>,
    /// This rank's, computed once more.
    pub micro_batches: Vec<MicroBatchReport>,
}

impl StepStats {
    /// Samples of the global batch that could not be used.
    pub fn unusable(&self) -> u64 {
        self.samples.samples - self.usable as u64
    }

    /// Whether nothing was updated.
    pub fn is_skipped(&self) -> bool {
        matches!(&self.finding, Some(finding) if finding.kind == IncidentKind::NonFinite)
    }
}
