//! Losses on their way from the device.

use burn::tensor::Tensor;

use crate::local_sums::LocalSums;
use crate::loss_bins::LossBins;
use crate::optimizer::host;

/// A micro-batch's losses while they are on the device, and what is known without them.
pub struct DeviceLosses {
    /// The weighted sum, then the loss of each sample.
    pub numbers: Tensor<1>,
    /// The samples' times.
    pub times: Vec<f32>,
    /// 0 for a sample that can't be used.
    pub weights: Vec<f32>,
    /// All but the losses.
    pub sums: LocalSums,
}

impl DeviceLosses {
    /// The micro-batch's sums; takes its own `numbers` off the front.
    pub fn read(self, numbers: &mut &[f32]) -> LocalSums {
        let (own, rest) = numbers.split_at(1 + self.times.len());
        *numbers = rest;
        LocalSums {
            loss: f64::from(own[0]),
            loss_bins: LossBins::of_samples(&self.times, &own[1..], &self.weights),
            ..self.sums
        }
    }
}

/// The numbers of some flat tensors, one after the other, in one transfer.
pub fn read_together(tensors: impl Iterator<Item = Tensor<1>>) -> Vec<f32> {
    let tensors: Vec<_> = tensors.collect();
    if tensors.is_empty() {
        return Vec::new();
    }
    host(&Tensor::cat(tensors, 0))
}
