//! A step of `AdamW` and of weight averages on a flat vector, in one pass over memory.

use std::ops::Range;

use burn::backend::DispatchDevice;
use burn::optim::{AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer as _};
use burn::tensor::{Device, Tensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::flex::{CHUNK, from_flex, into_flex, is_flex, new_flex, sole_owner, values, values_mut};
use crate::simd::dispatch;

/// Elements that stay in a core's cache between the update and the averages.
const BLOCK: usize = 4096;

/// A range of a flat vector that is updated alike, and what `AdamW` remembers of it.
pub struct FlatSegment {
    /// Its elements.
    pub range: Range<usize>,
    /// Multiplies the rate.
    pub lr_ratio: f64,
    /// How it is updated.
    pub adamw: AdamW,
    /// `None` before the first step.
    pub moments: Option<FlatMoments>,
}

/// The settings of `AdamW` (Loshchilov and Hutter, arXiv 1711.05101), as in `PyTorch`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay rates of the first and second moment.
    pub betas: [f32; 2],
    /// Under the quotient, beside the root.
    pub epsilon: f32,
    /// Decoupled, and multiplied by the segment's rate.
    pub weight_decay: f32,
}

/// Both moments of a range, f32.
#[derive(Clone, Debug)]
pub struct FlatMoments {
    /// Steps made; the exponent of the bias correction.
    pub time: usize,
    /// First moment.
    pub first: Tensor<1>,
    /// Second moment.
    pub second: Tensor<1>,
}

/// What makes a sum of gradients the gradient of an update: divided, then multiplied, each rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientScale {
    /// Samples that were summed.
    pub divisor: f64,
    /// 1, or less to clip.
    pub factor: f64,
}

/// An exponential moving average of the same vector.
pub struct FlatAverage<'a> {
    /// Share of the old average that a step keeps.
    pub keep: f64,
    /// f32.
    pub weights: &'a mut Tensor<1>,
}

/// `masters` after a step of rate `lr` with the gradient `sum` scaled by `scale`, each `[n]`, f32; then `averages` move
/// towards it. `segments` cover it.
///
/// `AdamW` is burn's, the gradient is not kept, and any split of the vector gives the same bits. On the CPU it is one pass
/// over memory on all cores, in place where a tensor has one owner, and gives the same bits as [`flat_update_reference`].
pub fn flat_update(
    masters: Tensor<1>,
    sum: &Tensor<1>,
    scale: GradientScale,
    lr: f64,
    segments: &mut [FlatSegment],
    averages: &mut [FlatAverage<'_>],
) -> Tensor<1> {
    if is_flex(&masters) && is_flex(sum) {
        fused(masters, sum, scale, lr, segments, averages)
    } else {
        flat_update_reference(masters, sum, scale, lr, segments, averages)
    }
}

/// Whether [`flat_update`] changes vectors on `device` where they lie, if nobody else holds them.
pub fn updates_in_place(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// The same in plain burn.
pub fn flat_update_reference(
    masters: Tensor<1>,
    sum: &Tensor<1>,
    scale: GradientScale,
    lr: f64,
    segments: &mut [FlatSegment],
    averages: &mut [FlatAverage<'_>],
) -> Tensor<1> {
    let gradient = sum.clone().div_scalar(scale.divisor).mul_scalar(scale.factor);
    let mut updated = Vec::with_capacity(segments.len());
    for segment in segments {
        let AdamW {
            betas,
            epsilon,
            weight_decay,
        } = segment.adamw;
        let adamw = AdamWConfig::new()
            .with_beta_1(betas[0])
            .with_beta_2(betas[1])
            .with_epsilon(epsilon)
            .with_weight_decay(weight_decay)
            .build();
        let state = segment.moments.take().map(|moments| {
            AdamWState::new(AdaptiveMomentumState {
                time: moments.time,
                moment_1: moments.first,
                moment_2: moments.second,
                max_moment_2: None,
            })
        });
        let range = segment.range.clone();
        let (masters, state) = adamw.step(
            lr * segment.lr_ratio,
            masters.clone().slice([range.clone()]),
            gradient.clone().slice([range]),
            state,
        );
        segment.moments = state.map(|AdamWState { momentum }| FlatMoments {
            time: momentum.time,
            first: momentum.moment_1,
            second: momentum.moment_2,
        });
        updated.push(masters);
    }
    let masters = if updated.is_empty() {
        masters
    } else {
        Tensor::cat(updated, 0)
    };
    for FlatAverage { keep, weights } in averages {
        **weights = weights.clone().mul_scalar(*keep) + masters.clone().mul_scalar(1.0 - *keep);
    }
    masters
}

/// The numbers of a segment's step, in f32 as burn rounds them.
#[derive(Clone, Copy)]
struct Numbers {
    divisor: f32,
    factor: f32,
    betas: [f32; 2],
    rests: [f32; 2],
    corrections: [f32; 2],
    epsilon: f32,
    decay: f32,
    lr: f32,
}

impl Numbers {
    fn new(scale: GradientScale, lr: f64, adamw: AdamW, time: usize) -> Self {
        let AdamW {
            betas,
            epsilon,
            weight_decay,
        } = adamw;
        Self {
            divisor: scale.divisor as f32,
            factor: scale.factor as f32,
            betas,
            rests: betas.map(|beta| 1.0 - beta),
            corrections: betas.map(|beta| 1.0 - beta.powi(time as i32)),
            epsilon,
            decay: (1.0 - lr * f64::from(weight_decay)) as f32,
            lr: lr as f32,
        }
    }
}

/// Some elements of all vectors.
struct Part<'a> {
    masters: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    sum: &'a [f32],
    /// With the shares of the old average and of the masters.
    averages: Vec<(&'a mut [f32], [f32; 2])>,
}

fn fused(
    masters: Tensor<1>,
    sum: &Tensor<1>,
    scale: GradientScale,
    lr: f64,
    segments: &mut [FlatSegment],
    averages: &mut [FlatAverage<'_>],
) -> Tensor<1> {
    let mut masters = sole_owner(into_flex(masters));
    let sum = into_flex(sum.clone()).to_contiguous();
    let mut moving: Vec<FlexTensor> = averages.iter_mut().map(|average| take(average.weights)).collect();
    for segment in segments {
        let range = segment.range.clone();
        let (time, mut first, mut second) = match segment.moments.take() {
            Some(FlatMoments { time, first, second }) => {
                (time + 1, sole_owner(into_flex(first)), sole_owner(into_flex(second)))
            }
            // The negative zero is what adding leaves the other summand's bits alone with.
            None => (
                1,
                new_flex(vec![-0.0; range.len()], [range.len()]),
                new_flex(vec![-0.0; range.len()], [range.len()]),
            ),
        };
        let numbers = Numbers::new(scale, lr * segment.lr_ratio, segment.adamw, time);
        let shares = averages
            .iter()
            .map(|average| [average.keep as f32, (1.0 - average.keep) as f32]);
        let averages: Vec<_> = moving
            .iter_mut()
            .map(|average| &mut values_mut(average)[range.clone()])
            .zip(shares)
            .collect();
        let all = Part {
            masters: &mut values_mut(&mut masters)[range.clone()],
            first: values_mut(&mut first),
            second: values_mut(&mut second),
            sum: &values(&sum)[range],
            averages,
        };
        all.cut(CHUNK).into_par_iter().for_each(|part| part.update(&numbers));
        segment.moments = Some(FlatMoments {
            time,
            first: from_flex(first),
            second: from_flex(second),
        });
    }
    for (average, weights) in averages.iter_mut().zip(moving) {
        *average.weights = from_flex(weights);
    }
    from_flex(masters)
}

/// The tensor behind `weights`, which is left empty, so that it has no other owner.
fn take(weights: &mut Tensor<1>) -> FlexTensor {
    let empty = Tensor::empty([0], &weights.device());
    sole_owner(into_flex(std::mem::replace(weights, empty)))
}

impl<'a> Part<'a> {
    /// In parts of at most `len` elements.
    fn cut(self, len: usize) -> Vec<Part<'a>> {
        let Self {
            masters,
            first,
            second,
            sum,
            averages,
        } = self;
        let mut averages: Vec<_> = averages
            .into_iter()
            .map(|(average, shares)| (average.chunks_mut(len), shares))
            .collect();
        let vectors = masters
            .chunks_mut(len)
            .zip(first.chunks_mut(len))
            .zip(second.chunks_mut(len));
        vectors
            .zip(sum.chunks(len))
            .map(|(((masters, first), second), sum)| Part {
                masters,
                first,
                second,
                sum,
                averages: averages
                    .iter_mut()
                    .filter_map(|(chunks, shares)| Some((chunks.next()?, *shares)))
                    .collect(),
            })
            .collect()
    }

    fn update(self, numbers: &Numbers) {
        for part in self.cut(BLOCK) {
            adamw(part.masters, part.first, part.second, part.sum, numbers);
            for (average, shares) in part.averages {
                mix(average, part.masters, shares);
            }
        }
    }
}

dispatch!(adamw, adamw_body, (p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], numbers: &Numbers));
dispatch!(mix, mix_body, (average: &mut [f32], masters: &[f32], shares: [f32; 2]));

/// In the order of operations of burn's `AdamW`: not one of them is contracted, so the bits are the same.
#[inline(always)]
fn adamw_body(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], numbers: &Numbers) {
    let Numbers {
        divisor,
        factor,
        betas,
        rests,
        corrections,
        epsilon,
        decay,
        lr,
    } = *numbers;
    for (((p, m), v), &g) in p.iter_mut().zip(m).zip(v).zip(g) {
        let g = g / divisor * factor;
        *m = *m * betas[0] + g * rests[0];
        *v = *v * betas[1] + g * g * rests[1];
        let delta = (*m / corrections[0]) / ((*v / corrections[1]).sqrt() + epsilon);
        *p = *p * decay - delta * lr;
    }
}

#[inline(always)]
fn mix_body(average: &mut [f32], masters: &[f32], [keep, add]: [f32; 2]) {
    for (average, &master) in average.iter_mut().zip(masters) {
        *average = *average * keep + master * add;
    }
}

#[cfg(test)]
mod tests;
