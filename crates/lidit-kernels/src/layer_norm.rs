//! Layer norm without gain and offset, alone and with the shift and scale of adaLN.

use std::mem::MaybeUninit;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_autodiff::NodeId;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::autodiff::{kept, register, values_of};
use crate::composed;
use crate::flex::{is_fused, new_flex, values, written};
use crate::row_sums::{RowSums, add_product, row_tasks};
use crate::simd::{dispatch, sum, sum_of_two};

/// `(x - mean(x)) / sqrt(var(x) + eps)` over the last axis.
///
/// Source: Ba et al., arXiv 1607.06450, without gain and offset. Values and gradients within 1e-5 of
/// [`layer_norm_reference`] in f32.
pub fn layer_norm<const D: usize>(x: Tensor<D>, eps: f32) -> Tensor<D> {
    if is_fused(&x) {
        Tensor::from_dispatch(<Dispatch as LayerNormOps>::normalised(x.into_dispatch(), eps))
    } else {
        layer_norm_reference(x, eps)
    }
}

/// The same in plain burn.
pub fn layer_norm_reference<const D: usize>(x: Tensor<D>, eps: f32) -> Tensor<D> {
    let x = x.clone() - x.mean_dim(D - 1);
    let mean_square = (x.clone() * x.clone()).mean_dim(D - 1);
    x * mean_square.add_scalar(eps).sqrt().recip()
}

/// `layer_norm(x) * (1 + scale) + shift` of tokens `x [B, N, D]` with one shift and scale `[B, 1, D]` a picture.
///
/// Source: Peebles and Xie, arXiv 2212.09748, section 3.2 (adaLN). Values and gradients within 1e-5 of
/// [`norm_modulate_reference`] in f32.
pub fn norm_modulate(x: Tensor<3>, shift: Tensor<3>, scale: Tensor<3>, eps: f32) -> Tensor<3> {
    let [batch, _, width] = x.dims();
    assert_eq!(shift.dims(), [batch, 1, width], "one shift a picture");
    assert_eq!(scale.dims(), [batch, 1, width], "one scale a picture");
    if [&x, &shift, &scale].into_iter().all(is_fused) {
        let [x, shift, scale] = [x, shift, scale].map(Tensor::into_dispatch);
        Tensor::from_dispatch(<Dispatch as LayerNormOps>::norm_modulate(x, shift, scale, eps))
    } else {
        norm_modulate_reference(x, shift, scale, eps)
    }
}

/// The same in plain burn.
pub fn norm_modulate_reference(x: Tensor<3>, shift: Tensor<3>, scale: Tensor<3>, eps: f32) -> Tensor<3> {
    layer_norm_reference(x, eps) * scale.add_scalar(1.0) + shift
}

/// The fused operations and their derivatives, per backend.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait LayerNormOps: Backend {
    /// Layer norm over the last axis of `x`.
    fn normalised(x: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        composed::layer_norm::<Self>(x, eps)
    }
    /// The gradient of `x` from the gradient of the result.
    fn normalised_backward(x: FloatTensor<Self>, gradient: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        composed::layer_norm_backward::<Self>(x, gradient, eps)
    }
    /// Layer norm of `x [B, N, D]`, times `1 + scale`, plus `shift`, each `[B, 1, D]`.
    fn norm_modulate(
        x: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        composed::norm_modulate::<Self>(x, shift, scale, eps)
    }
    /// The gradients of `x`, `shift` and `scale` from the gradient of the result.
    fn norm_modulate_backward(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed::norm_modulate_backward::<Self>(x, scale, gradient, eps)
    }
}

#[cfg(feature = "cuda")]
impl LayerNormOps for burn::backend::Cube {}

impl LayerNormOps for Flex {
    fn normalised(x: FlexTensor, eps: f32) -> FlexTensor {
        let x = x.to_contiguous();
        let width = width_of(&x);
        let fill = |out: &mut [MaybeUninit<f32>]| {
            let tasks = row_tasks(width);
            (out.par_chunks_mut(tasks).zip(values(&x).par_chunks(tasks)))
                .for_each(|(out, x)| normalise(x, out, width, eps));
        };
        // SAFETY: whole rows of input and output side by side, each written.
        unsafe { written(x.layout().shape().clone(), fill) }
    }

    fn normalised_backward(x: FlexTensor, gradient: FlexTensor, eps: f32) -> FlexTensor {
        let (x, gradient) = (x.to_contiguous(), gradient.to_contiguous());
        let width = width_of(&x);
        let fill = |out: &mut [MaybeUninit<f32>]| {
            let tasks = row_tasks(width);
            out.par_chunks_mut(tasks)
                .zip(values(&x).par_chunks(tasks))
                .zip(values(&gradient).par_chunks(tasks))
                .for_each(|((out, x), gradient)| normalise_backward(x, gradient, out, width, eps));
        };
        // SAFETY: as in the forward pass.
        unsafe { written(x.layout().shape().clone(), fill) }
    }

    fn norm_modulate(x: FlexTensor, shift: FlexTensor, scale: FlexTensor, eps: f32) -> FlexTensor {
        let [x, shift, scale] = [x, shift, scale].map(|x| x.to_contiguous());
        let width = width_of(&x);
        let of_picture = x.layout().shape()[1] * width;
        let fill = |out: &mut [MaybeUninit<f32>]| {
            out.par_chunks_mut(of_picture.max(1)).enumerate().for_each(|(b, out)| {
                let x = &values(&x)[b * of_picture..][..of_picture];
                let [shift, scale] = [&shift, &scale].map(|x| &values(x)[b * width..][..width]);
                out.par_chunks_mut(row_tasks(width))
                    .zip(x.par_chunks(row_tasks(width)))
                    .for_each(|(out, x)| modulate(x, shift, scale, out, eps));
            });
        };
        // SAFETY: as in the forward pass of the norm alone.
        unsafe { written(x.layout().shape().clone(), fill) }
    }

    fn norm_modulate_backward(
        x: FlexTensor,
        scale: FlexTensor,
        gradient: FlexTensor,
        eps: f32,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [x, scale, gradient] = [x, scale, gradient].map(|x| x.to_contiguous());
        let (shape, width) = (x.layout().shape().clone(), width_of(&x));
        let (batch, num_tokens) = (shape[0], shape[1]);
        let mut sums = RowSums::new(batch, num_tokens, 2 * width, width);
        let fill = |out: &mut [MaybeUninit<f32>]| {
            sums.each(out, |b, range, out, sums| {
                let [x, gradient] = [&x, &gradient].map(|x| &values(x)[range.clone()]);
                modulate_backward(x, &values(&scale)[b * width..][..width], gradient, out, sums, eps);
            });
        };
        // SAFETY: as in the forward pass of the norm alone.
        let of_x = unsafe { written(shape, fill) };
        let [of_shift, of_scale] = sums.into_parts().map(|x| new_flex(x, [batch, 1, width]));
        (of_x, of_shift, of_scale)
    }
}

fn width_of(x: &FlexTensor) -> usize {
    x.layout().shape().last().copied().unwrap_or(1)
}

impl<B: LayerNormOps, C: CheckpointStrategy> LayerNormOps for Autodiff<B, C> {
    fn normalised(x: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        match Backward::<B, 1>::prepare::<C>(LayerNorm, [x.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let input = prep.checkpoint(&x);
                prep.finish((input, eps), B::normalised(x.into_primitive(), eps))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::normalised(x.into_primitive(), eps)),
        }
    }

    fn normalised_backward(_x: FloatTensor<Self>, _gradient: FloatTensor<Self>, _eps: f32) -> FloatTensor<Self> {
        panic!("the gradient of a layer norm has no gradient")
    }

    fn norm_modulate(
        x: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), shift.node(), scale.node()];
        match Backward::<B, 3>::prepare::<C>(NormModulate, nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), prep.checkpoint(&scale), eps);
                let [x, shift, scale] = values_of::<B, C, _>([x, shift, scale]);
                prep.finish(state, B::norm_modulate(x, shift, scale, eps))
            }
            OpsKind::UnTracked(prep) => {
                let [x, shift, scale] = values_of::<B, C, _>([x, shift, scale]);
                prep.finish(B::norm_modulate(x, shift, scale, eps))
            }
        }
    }

    fn norm_modulate_backward(
        _x: FloatTensor<Self>,
        _scale: FloatTensor<Self>,
        _gradient: FloatTensor<Self>,
        _eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        panic!("the gradient of a modulated norm has no gradient")
    }
}

#[derive(Debug)]
struct LayerNorm;

impl<B: LayerNormOps> Backward<B, 1> for LayerNorm {
    type State = (NodeId, f32);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (x, eps) = ops.state;
        let [x] = kept::<B, 1>([x], checkpointer);
        unary::<B, _>(ops.parents, ops.node, gradients, |gradient| {
            B::normalised_backward(x, gradient, eps)
        });
    }
}

#[derive(Debug)]
struct NormModulate;

impl<B: LayerNormOps> Backward<B, 3> for NormModulate {
    type State = (NodeId, NodeId, f32);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (x, scale, eps) = ops.state;
        let [x, scale] = kept::<B, 2>([x, scale], checkpointer);
        let gradient = gradients.consume::<B>(&ops.node);
        let (of_x, of_shift, of_scale) = B::norm_modulate_backward(x, scale, gradient, eps);
        register::<B, _, 3>(gradients, ops, [of_x, of_shift, of_scale]);
    }
}

dispatch!(normalise, normalise_body, (x: &[f32], out: &mut [MaybeUninit<f32>], width: usize, eps: f32));
dispatch!(modulate, modulate_body, (x: &[f32], shift: &[f32], scale: &[f32], out: &mut [MaybeUninit<f32>], eps: f32));
dispatch!(
    normalise_backward,
    normalise_backward_body,
    (x: &[f32], gradient: &[f32], out: &mut [MaybeUninit<f32>], width: usize, eps: f32)
);
dispatch!(
    modulate_backward,
    modulate_backward_body,
    (x: &[f32], scale: &[f32], gradient: &[f32], out: &mut [MaybeUninit<f32>], sums: &mut [f32], eps: f32)
);

/// Mean and reciprocal standard deviation of a row.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> [f32; 2] {
    let width = x.len() as f32;
    let mean = sum(x, |x| x) / width;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / width;
    [mean, (variance + eps).sqrt().recip()]
}

#[inline(always)]
fn normalise_body(x: &[f32], out: &mut [MaybeUninit<f32>], width: usize, eps: f32) {
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let [mean, root] = moments(x, eps);
        for (out, &x) in out.iter_mut().zip(x) {
            out.write((x - mean) * root);
        }
    }
}

#[inline(always)]
fn modulate_body(x: &[f32], shift: &[f32], scale: &[f32], out: &mut [MaybeUninit<f32>], eps: f32) {
    let width = shift.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let [mean, root] = moments(x, eps);
        for (((out, &x), &shift), &scale) in out.iter_mut().zip(x).zip(shift).zip(scale) {
            out.write((x - mean) * root * (1.0 + scale) + shift);
        }
    }
}

#[inline(always)]
fn normalise_backward_body(x: &[f32], gradient: &[f32], out: &mut [MaybeUninit<f32>], width: usize, eps: f32) {
    let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width));
    for ((x, gradient), out) in rows.zip(out.chunks_exact_mut(width)) {
        norm_backward(x, gradient, out, moments(x, eps));
    }
}

#[inline(always)]
fn modulate_backward_body(
    x: &[f32],
    scale: &[f32],
    gradient: &[f32],
    out: &mut [MaybeUninit<f32>],
    sums: &mut [f32],
    eps: f32,
) {
    let width = scale.len();
    let (of_shift, of_scale) = sums.split_at_mut(width);
    let mut scaled = vec![0.0; width];
    let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width));
    for ((x, gradient), out) in rows.zip(out.chunks_exact_mut(width)) {
        let [mean, root] = moments(x, eps);
        for ((scaled, &gradient), &scale) in scaled.iter_mut().zip(gradient).zip(scale) {
            *scaled = gradient * (1.0 + scale);
        }
        norm_backward(x, &scaled, out, [mean, root]);
        for (sum, &gradient) in of_shift.iter_mut().zip(gradient) {
            *sum += gradient;
        }
        add_product(of_scale, x, gradient, |x, gradient| (x - mean) * root * gradient);
    }
}

/// The gradient of one row: `root (g - mean(g) - x_hat mean(g x_hat))`.
#[inline(always)]
fn norm_backward(x: &[f32], gradient: &[f32], out: &mut [MaybeUninit<f32>], [mean, root]: [f32; 2]) {
    let width = x.len() as f32;
    let total = sum(gradient, |gradient| gradient) / width;
    let along = sum_of_two(x, gradient, |x, gradient| (x - mean) * gradient) / width * root * root;
    for ((out, &x), &gradient) in out.iter_mut().zip(x).zip(gradient) {
        out.write(root * (gradient - total - (x - mean) * along));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::testing::{assert_same_gradients, tensor};

    const SHAPES: [[usize; 3]; 5] = [[1, 1, 2], [3, 7, 5], [2, 300, 129], [1, 3, 40_000], [2, 70, 384]];

    #[test]
    fn the_norm_alone_equals_the_reference() {
        for shape in SHAPES {
            let inputs = [tensor(shape, 1) * 3.0 + 0.5];
            let fused = |[x]: [Tensor<3>; 1]| layer_norm(x, 1e-6);
            let reference = |[x]: [Tensor<3>; 1]| layer_norm_reference(x, 1e-6);
            assert_same_gradients(&inputs, fused, reference, 1e-5);
        }
    }

    #[test]
    fn the_modulated_norm_equals_the_reference() {
        for [batch, tokens, width] in SHAPES {
            let inputs = [
                tensor([batch, tokens, width], 1) * 3.0 + 0.5,
                tensor([batch, 1, width], 2),
                tensor([batch, 1, width], 3),
            ];
            let fused = |[x, shift, scale]: [Tensor<3>; 3]| norm_modulate(x, shift, scale, 1e-6);
            let reference = |[x, shift, scale]: [Tensor<3>; 3]| norm_modulate_reference(x, shift, scale, 1e-6);
            assert_same_gradients(&inputs, fused, reference, 1e-5);
        }
    }
}
