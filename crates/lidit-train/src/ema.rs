//! Weight averages in flat space.

use burn::tensor::Tensor;
use lidit_kernels::FlatAverage;

/// An exponential moving average of the f32 masters of the own range.
///
/// Its half-life is in samples, so it means the same at every batch size: a weight seen `half_life` samples ago counts
/// half of today's.
pub struct Ema {
    half_life: u64,
    /// In the optimizer's pieces.
    weights: Vec<Tensor<1>>,
}

impl Ema {
    /// An average that starts at `weights`, in the optimizer's pieces of the own range.
    pub fn new(half_life: u64, weights: Vec<Tensor<1>>) -> Self {
        Self { half_life, weights }
    }

    /// Half-life in samples.
    pub fn half_life(&self) -> u64 {
        self.half_life
    }

    /// The averaged weights of the own range, in its pieces.
    pub fn weights(&self) -> &[Tensor<1>] {
        &self.weights
    }

    /// Puts the averaged weights back.
    pub fn restore(&mut self, weights: Vec<Tensor<1>>) {
        self.weights = weights;
    }

    /// A piece of the average, to be moved after a step of `samples` samples.
    pub fn piece(&mut self, piece: usize, samples: usize) -> FlatAverage<'_> {
        FlatAverage {
            keep: decay(self.half_life, samples),
            weights: &mut self.weights[piece],
        }
    }
}

fn decay(half_life: u64, samples: usize) -> f64 {
    0.5f64.powf(samples as f64 / half_life as f64)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use lidit_kernels::{AdamW, FlatSegment, GradientScale, flat_update};

    use super::*;
    use crate::optimizer::{host, upload};

    #[test]
    fn a_half_life_of_samples_halves_the_distance_at_any_batch_size() {
        let device = Device::flex();
        // At a rate of 0 masters stay where they are.
        let still = || FlatSegment {
            range: 0..2,
            lr_ratio: 1.0,
            adamw: AdamW {
                betas: [0.9, 0.99],
                epsilon: 1e-8,
                weight_decay: 0.0,
            },
            moments: None,
        };
        let scale = GradientScale {
            divisor: 1.0,
            factor: 1.0,
        };
        for batch in [1, 10, 50] {
            let mut ema = Ema::new(100, vec![upload(&[0.0, 8.0], &device)]);
            let masters = upload(&[4.0, 0.0], &device);
            for _ in 0..100 / batch {
                flat_update(
                    masters.clone(),
                    &masters,
                    scale,
                    0.0,
                    &mut [still()],
                    &mut [ema.piece(0, batch)],
                );
            }
            let weights = host(&ema.weights()[0]);
            assert!(
                (weights[0] - 2.0).abs() < 1e-4 && (weights[1] - 4.0).abs() < 1e-4,
                "{weights:?}"
            );
        }
    }
}
