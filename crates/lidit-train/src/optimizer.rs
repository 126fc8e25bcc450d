//! `AdamW` in flat space.

use std::ops::Range;

use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer as _};
use burn::tensor::{Device, Tensor, TensorData};

use crate::config::TrainConfig;
use crate::layout::{FlatLayout, Group};

/// burn's `AdamW` on one contiguous range of flat space, once per parameter group that the range meets.
///
/// It owns the f32 masters and both moments of that range. The update is elementwise, so any split of flat space over
/// ranks gives the same bits.
pub struct FlatAdamW {
    own: Range<usize>,
    masters: Tensor<1>,
    segments: Vec<Segment>,
}

/// The part of one group inside the own range.
struct Segment {
    range: Range<usize>,
    adamw: AdamW,
    state: Option<AdamWState<1>>,
}

/// Both moments of a range, on the host, as checkpoints store them.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Updates made so far; the bias correction's exponent.
    pub time: usize,
    /// First moment.
    pub first: Vec<f32>,
    /// Second moment.
    pub second: Vec<f32>,
}

impl FlatAdamW {
    /// An optimizer without history for `masters`, the values of the range `own` of `layout`.
    pub fn new(config: &TrainConfig, layout: &FlatLayout, own: Range<usize>, masters: Tensor<1>) -> Self {
        let segments = layout
            .groups()
            .into_iter()
            .filter_map(|(group, range)| {
                let range = range.start.max(own.start)..range.end.min(own.end);
                (!range.is_empty()).then(|| Segment {
                    range: range.start - own.start..range.end - own.start,
                    adamw: adamw(config, group),
                    state: None,
                })
            })
            .collect();
        Self { own, masters, segments }
    }

    /// The range of flat space that this rank owns.
    pub fn own(&self) -> Range<usize> {
        self.own.clone()
    }

    /// The f32 weights of the own range.
    pub fn masters(&self) -> &Tensor<1> {
        &self.masters
    }

    /// One update of the own range from its gradients, both `[own.len()]`.
    pub fn step(&mut self, lr: f64, gradients: &Tensor<1>) {
        let mut updated = Vec::with_capacity(self.segments.len());
        for segment in &mut self.segments {
            let range = segment.range.clone();
            let (masters, state) = segment.adamw.step(
                lr,
                self.masters.clone().slice([range.clone()]),
                gradients.clone().slice([range]),
                segment.state.take(),
            );
            segment.state = state;
            updated.push(masters);
        }
        if !updated.is_empty() {
            self.masters = Tensor::cat(updated, 0);
        }
    }

    /// The moments of the own range; zeros before the first update.
    pub fn moments(&self) -> Moments {
        let mut moments = Moments {
            time: 0,
            first: Vec::with_capacity(self.own.len()),
            second: Vec::with_capacity(self.own.len()),
        };
        for segment in &self.segments {
            if let Some(state) = &segment.state {
                moments.time = state.momentum.time;
                moments.first.extend(host(&state.momentum.moment_1));
                moments.second.extend(host(&state.momentum.moment_2));
            } else {
                moments.first.resize(segment.range.end, 0.0);
                moments.second.resize(segment.range.end, 0.0);
            }
        }
        moments
    }

    /// Puts the own range's moments back.
    pub fn restore(&mut self, moments: &Moments, device: &Device) {
        for segment in &mut self.segments {
            let range = segment.range.clone();
            segment.state = (moments.time > 0).then(|| {
                AdamWState::new(AdaptiveMomentumState {
                    time: moments.time,
                    moment_1: upload(&moments.first[range.clone()], device),
                    moment_2: upload(&moments.second[range], device),
                    max_moment_2: None,
                })
            });
        }
    }
}

fn adamw(config: &TrainConfig, group: Group) -> AdamW {
    let weight_decay = match group {
        Group::Decayed => config.weight_decay,
        Group::Plain => 0.0,
    };
    AdamWConfig::new()
        .with_beta_1(config.betas[0])
        .with_beta_2(config.betas[1])
        .with_epsilon(config.eps)
        .with_weight_decay(weight_decay)
        .build()
}

/// A flat f32 tensor's values on the host.
pub fn host(tensor: &Tensor<1>) -> Vec<f32> {
    tensor.to_data().iter::<f32>().collect()
}

/// Host values as a flat tensor on `device`.
pub fn upload(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    /// Written by `tests/golden/generate.py` with `torch.optim.AdamW`.
    fn golden() -> Vec<u8> {
        std::fs::read(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/golden/model/adamw.safetensors"
        ))
        .unwrap()
    }

    fn tensor(golden: &[u8], name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(golden).unwrap();
        let data = tensors.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect()
    }

    /// An optimizer over all of `masters`, split at `cut` into two segments of the same treatment.
    fn optimizer(hyper: &[f32], masters: &[f32], cut: usize, device: &Device) -> FlatAdamW {
        let adamw = AdamWConfig::new()
            .with_beta_1(hyper[1])
            .with_beta_2(hyper[2])
            .with_epsilon(hyper[3])
            .with_weight_decay(hyper[4])
            .build();
        let segment = |range: Range<usize>| Segment {
            range,
            adamw: adamw.clone(),
            state: None,
        };
        FlatAdamW {
            own: 0..masters.len(),
            masters: upload(masters, device),
            segments: vec![segment(0..cut), segment(cut..masters.len())],
        }
    }

    #[test]
    fn three_updates_equal_pytorchs_and_a_restored_optimizer_goes_on_alike() {
        let (golden, device) = (golden(), Device::flex());
        let (hyper, start) = (tensor(&golden, "in.hyper"), tensor(&golden, "in.param"));
        let mut adamw = optimizer(&hyper, &start, start.len() / 3, &device);
        for step in 1..=3 {
            let gradient = upload(&tensor(&golden, &format!("in.grad.{step}")), &device);
            adamw.step(f64::from(hyper[0]), &gradient);
            let moments = adamw.moments();
            let parts = [
                ("params", host(adamw.masters())),
                ("exp_avg", moments.first.clone()),
                ("exp_avg_sq", moments.second.clone()),
            ];
            for (name, ours) in parts {
                let theirs = tensor(&golden, &format!("out.{name}.{step}"));
                for (a, b) in ours.iter().zip(&theirs) {
                    assert!(
                        (a - b).abs() <= 1e-6 + 1e-5 * b.abs(),
                        "step {step}: {name} {a}, PyTorch {b}"
                    );
                }
            }
            assert_eq!(moments.time, step);
            // From here on another optimizer with another split, restored from what a checkpoint stores.
            let mut restored = optimizer(&hyper, &host(adamw.masters()), step, &device);
            restored.restore(&moments, &device);
            adamw = restored;
        }
    }
}
