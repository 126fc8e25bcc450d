//! `AdamW` in flat space.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use lidit_kernels::{AdamW, FlatAverage, FlatMoments, FlatSegment, GradientScale, flat_update};
use lidit_model::{Kind, ModelConfig, Part, Role};

use crate::buckets::packed;
use crate::config::TrainConfig;
use crate::ema::Ema;
use crate::layout::FlatLayout;

/// `AdamW` on one contiguous range of flat space, once per parameter group that the range meets.
///
/// It owns the f32 masters and both moments of that range, in pieces that are updated one after the other. The update is
/// elementwise, so any split of flat space over ranks and pieces gives the same bits.
pub struct FlatAdamW {
    own: Range<usize>,
    masters: Vec<Tensor<1>>,
    /// Of each piece, the part of every group that it meets, counted from the piece's start.
    segments: Vec<Vec<FlatSegment>>,
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
    /// An optimizer without history for `masters`, the values of the range `own` of `layout` in its pieces.
    pub fn new(
        train: &TrainConfig,
        model: &ModelConfig,
        layout: &FlatLayout,
        own: Range<usize>,
        masters: Vec<Tensor<1>>,
    ) -> Self {
        let groups = layout.groups();
        let segments = packed(masters.iter().map(|piece| piece.dims()[0]))
            .into_iter()
            .map(|piece| {
                let piece = own.start + piece.start..own.start + piece.end;
                let segment_of = |(group, range): &(Role, Range<usize>)| {
                    let range = range.start.max(piece.start)..range.end.min(piece.end);
                    let treatment = Treatment::of(*group, train, model);
                    (!range.is_empty()).then(|| FlatSegment {
                        range: range.start - piece.start..range.end - piece.start,
                        lr_ratio: treatment.lr_ratio,
                        adamw: AdamW {
                            betas: train.betas,
                            epsilon: train.eps,
                            weight_decay: treatment.weight_decay,
                        },
                        moments: None,
                    })
                };
                groups.iter().filter_map(segment_of).collect()
            });
        let segments = segments.collect();
        Self { own, masters, segments }
    }

    /// The range of flat space that this rank owns.
    pub fn own(&self) -> Range<usize> {
        self.own.clone()
    }

    /// The f32 weights of the own range, in its pieces.
    pub fn masters(&self) -> &[Tensor<1>] {
        &self.masters
    }

    /// One update of a piece of the own range from that piece's `sum` of gradients, and of its `averages` after a step of
    /// `samples` samples; answers its masters. In place where nobody else holds them.
    ///
    /// A step updates every piece once.
    pub fn step(
        &mut self,
        piece: usize,
        lr: f64,
        sum: &Tensor<1>,
        scale: GradientScale,
        averages: &mut [Ema],
        samples: usize,
    ) -> &Tensor<1> {
        let masters = &mut self.masters[piece];
        let stand_in = Tensor::empty([1], &masters.device());
        let mut averages: Vec<FlatAverage<'_>> = averages.iter_mut().map(|ema| ema.piece(piece, samples)).collect();
        *masters = flat_update(
            std::mem::replace(masters, stand_in),
            sum,
            scale,
            lr,
            &mut self.segments[piece],
            &mut averages,
        );
        masters
    }

    /// The moments of the own range; zeros before the first update.
    pub fn moments(&self) -> Moments {
        let mut moments = Moments {
            time: 0,
            first: Vec::with_capacity(self.own.len()),
            second: Vec::with_capacity(self.own.len()),
        };
        for segment in self.segments.iter().flatten() {
            if let Some(FlatMoments { time, first, second }) = &segment.moments {
                moments.time = *time;
                host_onto(&mut moments.first, first);
                host_onto(&mut moments.second, second);
            } else {
                let len = moments.first.len() + segment.range.len();
                moments.first.resize(len, 0.0);
                moments.second.resize(len, 0.0);
            }
        }
        moments
    }

    /// Puts the own range's moments back.
    pub fn restore(&mut self, moments: &Moments, device: &Device) {
        let mut start = 0;
        for segment in self.segments.iter_mut().flatten() {
            let range = start..start + segment.range.len();
            start = range.end;
            segment.moments = (moments.time > 0).then(|| FlatMoments {
                time: moments.time,
                first: upload(&moments.first[range.clone()], device),
                second: upload(&moments.second[range], device),
            });
        }
    }
}

/// How a group's update differs from the others'.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Treatment {
    /// Multiplies the rate.
    lr_ratio: f64,
    /// Decoupled, and multiplied by the group's rate as in `PyTorch`.
    weight_decay: f32,
}

impl Treatment {
    /// Under muP the rate of a matrix falls as 1 / inputs (arXiv 2203.03466, table 3, Adam), and its decay rises alike:
    /// the share of a weight that a step takes off stays the same at all widths (arXiv 2405.13698).
    fn of(group: Role, train: &TrainConfig, model: &ModelConfig) -> Self {
        let width_ratio = if group.kind.has_wide_input() {
            model.width_ratio()
        } else {
            1.0
        };
        let part = match group.part {
            Part::Backbone => 1.0,
            Part::Refiners => train.refiner_lr_ratio,
        };
        let weight_decay = match group.kind {
            Kind::Hidden | Kind::Input | Kind::Output => (f64::from(train.weight_decay) * width_ratio) as f32,
            // Shifts, scales and gates of modulation stand where gains and biases of norms stood.
            Kind::Modulation | Kind::Vector => 0.0,
        };
        Self {
            lr_ratio: part / width_ratio,
            weight_decay,
        }
    }
}

/// A flat f32 tensor's values on the host.
pub fn host(tensor: &Tensor<1>) -> Vec<f32> {
    let mut values = Vec::new();
    host_onto(&mut values, tensor);
    values
}

/// Appends a flat f32 tensor's values.
pub fn host_onto(values: &mut Vec<f32>, tensor: &Tensor<1>) {
    let data = tensor.to_data();
    match data.as_slice::<f32>() {
        // One copy of memory, where element by element takes ten times as long.
        Ok(slice) => values.extend_from_slice(slice),
        Err(_) => values.extend(data.iter::<f32>()),
    }
}

/// Host values as a flat tensor on `device`.
pub fn upload(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

#[cfg(test)]
mod tests {
    use lidit_model::Parametrization;
    use safetensors::SafeTensors;

    use super::*;
    use crate::config::RunConfig;
    use crate::layout::Entry;

    /// Written by `tests/golden/generate.py` with `torch.optim.AdamW`.
    fn golden(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/model");
        std::fs::read(format!("{folder}/{name}.safetensors")).unwrap()
    }

    fn tensor(golden: &[u8], name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(golden).unwrap();
        let data = tensors.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect()
    }

    const UNSCALED: GradientScale = GradientScale {
        divisor: 1.0,
        factor: 1.0,
    };

    /// An optimizer over all of `masters`, split at `cut` into two segments of the same treatment.
    fn optimizer(hyper: &[f32], masters: &[f32], cut: usize, device: &Device) -> FlatAdamW {
        let adamw = AdamW {
            betas: [hyper[1], hyper[2]],
            epsilon: hyper[3],
            weight_decay: hyper[4],
        };
        let segment = |range: Range<usize>| FlatSegment {
            range,
            lr_ratio: 1.0,
            adamw,
            moments: None,
        };
        // One piece of two segments and one of a single element.
        let last = masters.len() - 1;
        FlatAdamW {
            own: 0..masters.len(),
            masters: vec![upload(&masters[..last], device), upload(&masters[last..], device)],
            segments: vec![vec![segment(0..cut), segment(cut..last)], vec![segment(0..1)]],
        }
    }

    fn step_all(adamw: &mut FlatAdamW, lr: f32, gradient: &Tensor<1>) {
        let pieces = packed(adamw.masters().iter().map(|piece| piece.dims()[0]));
        for (i, piece) in pieces.into_iter().enumerate() {
            let gradient = gradient.clone().slice([piece]);
            adamw.step(i, f64::from(lr), &gradient, UNSCALED, &mut [], 1);
        }
    }

    fn masters(adamw: &FlatAdamW) -> Vec<f32> {
        adamw.masters().iter().flat_map(host).collect()
    }

    #[test]
    fn three_updates_equal_pytorchs_and_a_restored_optimizer_goes_on_alike() {
        let (golden, device) = (golden("adamw"), Device::flex());
        let (hyper, start) = (tensor(&golden, "in.hyper"), tensor(&golden, "in.param"));
        let mut adamw = optimizer(&hyper, &start, start.len() / 3, &device);
        for step in 1..=3 {
            let gradient = upload(&tensor(&golden, &format!("in.grad.{step}")), &device);
            step_all(&mut adamw, hyper[0], &gradient);
            let moments = adamw.moments();
            let parts = [
                ("params", masters(&adamw)),
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
            let mut restored = optimizer(&hyper, &masters(&adamw), step, &device);
            restored.restore(&moments, &device);
            adamw = restored;
        }
    }
    /// Three elements of each group, in flat order.
    fn one_entry_a_group() -> FlatLayout {
        let names = [
            "encoders.0.projection.bias",
            "collaborative.branches.0.mlp_modulation.linear.weight",
            "encoders.0.projection.weight",
            "encoders.0.refiner.blocks.0.mlp.linear_in.weight",
            "blocks.0.mlp.linear_in.bias",
            "final_layer.modulation.weight",
            "final_layer.linear.weight",
            "patchify.linear.weight",
            "blocks.0.mlp.linear_in.weight",
        ];
        FlatLayout::from_entries(
            names
                .into_iter()
                .map(|name| Entry {
                    name: name.to_owned(),
                    shape: vec![3],
                    offset: 0,
                    group: Role::of(name),
                })
                .collect(),
        )
    }

    #[test]
    fn groups_have_the_rates_and_decays_of_pytorchs_parameter_groups() {
        let (golden, device) = (golden("adamw_groups"), Device::flex());
        let (hyper, start) = (tensor(&golden, "in.hyper"), tensor(&golden, "in.param"));
        let (mut train, mut model) = debug_config();
        train.betas = [hyper[1], hyper[2]];
        train.eps = hyper[3];
        train.weight_decay = hyper[4];
        train.refiner_lr_ratio = 0.25;
        model.hidden_size = 128;
        model.parametrization = Parametrization::Mup { base_width: 64 };
        let layout = one_entry_a_group();
        assert_eq!(layout.groups().len(), 9);
        let mut adamw = FlatAdamW::new(&train, &model, &layout, 0..layout.len(), vec![upload(&start, &device)]);
        // Two ranks' shares, the border inside a group, each in two pieces, the border in another one.
        let mut shares = [0..13, 13..layout.len()].map(|own| {
            let (first, second) = start[own.clone()].split_at(4);
            let masters = vec![upload(first, &device), upload(second, &device)];
            FlatAdamW::new(&train, &model, &layout, own, masters)
        });
        for step in 1..=3 {
            let gradient = upload(&tensor(&golden, &format!("in.grad.{step}")), &device);
            step_all(&mut adamw, hyper[0], &gradient);
            for share in &mut shares {
                let own = gradient.clone().slice([share.own()]);
                step_all(share, hyper[0], &own);
            }
            let ours = masters(&adamw);
            assert_eq!(shares.iter().flat_map(masters).collect::<Vec<_>>(), ours);
            let theirs = tensor(&golden, &format!("out.params.{step}"));
            for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
                let name = &layout.entries()[i / 3].name;
                assert!(
                    (a - b).abs() <= 1e-6 + 1e-5 * b.abs(),
                    "step {step}, {name}: {a}, PyTorch {b}"
                );
            }
        }
    }

    #[test]
    fn at_its_base_width_mup_treats_every_group_as_the_standard_does() {
        let (train, standard) = debug_config();
        let mut mup = standard.clone();
        mup.parametrization = Parametrization::Mup {
            base_width: standard.hidden_size,
        };
        for (group, _) in one_entry_a_group().groups() {
            let treatment = Treatment::of(group, &train, &standard);
            assert_eq!(treatment, Treatment::of(group, &train, &mup));
            assert_eq!(treatment.lr_ratio.to_bits(), 1.0_f64.to_bits(), "{group:?}");
        }
    }

    fn debug_config() -> (TrainConfig, ModelConfig) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/run/debug.toml");
        let config = RunConfig::load(std::path::Path::new(path), &[]).unwrap();
        (config.train, config.model)
    }
}
