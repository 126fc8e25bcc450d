//! Root-mean-square norm.

use std::mem::MaybeUninit;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_autodiff::NodeId;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::autodiff::{kept, register, values_of};
use crate::composed;
use crate::flex::{is_fused, map_owned, new_flex, values, written};
use crate::row_sums::{RowSums, add_product, row_tasks};
use crate::simd::{dispatch, sum, sum_of_two};

/// `x / sqrt(mean(x^2) + eps) * gain` over the last axis, whose length is the gain's.
///
/// Source: Zhang and Sennrich, arXiv 1910.07467, equation 4. Values within 1e-6, gradients within 1e-5 of
/// [`rms_norm_reference`].
pub fn rms_norm<const D: usize>(x: Tensor<D>, gain: Tensor<1>, eps: f32) -> Tensor<D> {
    assert_eq!(x.dims()[D - 1], gain.dims()[0], "the gain is as wide as what it scales");
    if is_fused(&x) && is_fused(&gain) {
        let (x, gain) = (x.into_dispatch(), gain.into_dispatch());
        Tensor::from_dispatch(<Dispatch as RmsNormOps>::scaled_rms_norm(x, gain, eps))
    } else {
        rms_norm_reference(x, gain, eps)
    }
}

/// The same in plain burn.
pub fn rms_norm_reference<const D: usize>(x: Tensor<D>, gain: Tensor<1>, eps: f32) -> Tensor<D> {
    let mean_square = (x.clone() * x.clone()).mean_dim(D - 1);
    let scale = (mean_square + eps).sqrt().recip();
    x * scale * gain.unsqueeze()
}

/// The fused operation and its derivatives, per backend.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait RmsNormOps: Backend {
    /// The norm of `x` over its last axis, times `gain`.
    fn scaled_rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        composed::rms_norm::<Self>(x, gain, eps)
    }
    /// The gradients of `x` and `gain` from the gradient of the result.
    fn scaled_rms_norm_backward(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        composed::rms_norm_backward::<Self>(x, gain, gradient, eps)
    }
}

#[cfg(feature = "cuda")]
impl RmsNormOps for burn::backend::Cube {}

impl RmsNormOps for Flex {
    fn scaled_rms_norm(x: FlexTensor, gain: FlexTensor, eps: f32) -> FlexTensor {
        let gain = gain.to_contiguous();
        let gain = values(&gain);
        let task = row_tasks(gain.len());
        if x.is_unique() {
            return map_owned(x, |x| {
                x.par_chunks_mut(task).for_each(|x| normalise_in_place(x, gain, eps));
            });
        }
        let x = x.to_contiguous();
        let fill = |out: &mut [MaybeUninit<f32>]| {
            out.par_chunks_mut(task)
                .zip(values(&x).par_chunks(task))
                .for_each(|(out, x)| normalise(x, gain, out, eps));
        };
        // SAFETY: whole rows of input and output side by side, each written.
        unsafe { written(x.layout().shape().clone(), fill) }
    }

    fn scaled_rms_norm_backward(
        x: FlexTensor,
        gain: FlexTensor,
        gradient: FlexTensor,
        eps: f32,
    ) -> (FlexTensor, FlexTensor) {
        let [x, gain, gradient] = [x, gain, gradient].map(|x| x.to_contiguous());
        let shape = x.layout().shape().clone();
        let width = values(&gain).len();
        let mut sums = RowSums::new(1, shape.num_elements() / width, width, width);
        let fill = |out: &mut [MaybeUninit<f32>]| {
            sums.each(out, |_, range, out, sums| {
                let [x, gradient] = [&x, &gradient].map(|x| &values(x)[range.clone()]);
                backward(x, values(&gain), gradient, out, sums, eps);
            });
        };
        // SAFETY: as in the forward pass.
        let of_x = unsafe { written(shape, fill) };
        let [of_gain] = sums.into_parts();
        (of_x, new_flex(of_gain, [width]))
    }
}

impl<B: RmsNormOps, C: CheckpointStrategy> RmsNormOps for Autodiff<B, C> {
    fn scaled_rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        match Backward::<B, 2>::prepare::<C>(RmsNorm, [x.node(), gain.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = ([prep.checkpoint(&x), prep.checkpoint(&gain)], eps);
                let [x, gain] = values_of::<B, C, _>([x, gain]);
                prep.finish(state, B::scaled_rms_norm(x, gain, eps))
            }
            OpsKind::UnTracked(prep) => {
                let [x, gain] = values_of::<B, C, _>([x, gain]);
                prep.finish(B::scaled_rms_norm(x, gain, eps))
            }
        }
    }

    fn scaled_rms_norm_backward(
        _x: FloatTensor<Self>,
        _gain: FloatTensor<Self>,
        _gradient: FloatTensor<Self>,
        _eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        panic!("the gradient of an RMS norm has no gradient")
    }
}

#[derive(Debug)]
struct RmsNorm;

impl<B: RmsNormOps> Backward<B, 2> for RmsNorm {
    type State = ([NodeId; 2], f32);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (nodes, eps) = ops.state;
        let [x, gain] = kept::<B, 2>(nodes, checkpointer);
        let gradient = gradients.consume::<B>(&ops.node);
        let (of_x, of_gain) = B::scaled_rms_norm_backward(x, gain, gradient, eps);
        register::<B, _, 2>(gradients, ops, [of_x, of_gain]);
    }
}

dispatch!(normalise_in_place, normalise_in_place_body, (x: &mut [f32], gain: &[f32], eps: f32));
dispatch!(normalise, normalise_body, (x: &[f32], gain: &[f32], out: &mut [MaybeUninit<f32>], eps: f32));
dispatch!(
    backward,
    backward_body,
    (x: &[f32], gain: &[f32], gradient: &[f32], out: &mut [MaybeUninit<f32>], of_gain: &mut [f32], eps: f32)
);

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
fn reciprocal_rms(x: &[f32], eps: f32) -> f32 {
    (sum(x, |x| x * x) / x.len() as f32 + eps).sqrt().recip()
}

#[inline(always)]
fn normalise_in_place_body(x: &mut [f32], gain: &[f32], eps: f32) {
    for x in x.chunks_exact_mut(gain.len()) {
        let scale = reciprocal_rms(x, eps);
        for (x, &gain) in x.iter_mut().zip(gain) {
            *x = *x * scale * gain;
        }
    }
}

#[inline(always)]
fn normalise_body(x: &[f32], gain: &[f32], out: &mut [MaybeUninit<f32>], eps: f32) {
    for (x, out) in x.chunks_exact(gain.len()).zip(out.chunks_exact_mut(gain.len())) {
        let scale = reciprocal_rms(x, eps);
        for ((out, &x), &gain) in out.iter_mut().zip(x).zip(gain) {
            out.write(x * scale * gain);
        }
    }
}

/// Of a row: `scale (g gain - x scale^2 mean(x g gain))`; of the gain: the sum over rows of `x scale g`.
#[inline(always)]
fn backward_body(
    x: &[f32],
    gain: &[f32],
    gradient: &[f32],
    out: &mut [MaybeUninit<f32>],
    of_gain: &mut [f32],
    eps: f32,
) {
    let width = gain.len();
    let mut scaled = vec![0.0; width];
    let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width));
    for ((x, gradient), out) in rows.zip(out.chunks_exact_mut(width)) {
        let scale = reciprocal_rms(x, eps);
        for ((scaled, &gradient), &gain) in scaled.iter_mut().zip(gradient).zip(gain) {
            *scaled = gradient * gain;
        }
        let along = sum_of_two(x, &scaled, |x, gradient| x * gradient) / width as f32 * scale * scale;
        for ((out, &x), &gradient) in out.iter_mut().zip(x).zip(&scaled) {
            out.write(scale * (gradient - x * along));
        }
        add_product(of_gain, x, gradient, |x, gradient| x * scale * gradient);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::testing::{assert_close, assert_same_gradients, tensor};

    #[test]
    fn any_width_and_number_of_axes_equals_the_reference() {
        for width in [1, 15, 64, 576, 1001] {
            let gain = tensor([width], 3);
            let x = tensor([3, 37, width], 1);
            let right = rms_norm_reference(x.clone(), gain.clone(), 1e-5);
            assert_close(rms_norm(x.clone(), gain.clone(), 1e-5), right.clone(), 1e-6);
            let flat = rms_norm(x.reshape([3 * 37, width]), gain, 1e-5);
            assert_close(flat, right.reshape([3 * 37, width]), 1e-6);
        }
    }

    #[test]
    fn gradients_equal_the_reference() {
        for [tokens, width] in [[1, 1], [5, 3], [700, 64], [9, 130]] {
            let inputs = [tensor([tokens, width], 1), tensor([1, width], 2)];
            let fused = |[x, gain]: [Tensor<2>; 2]| rms_norm(x, gain.squeeze_dim(0), 1e-6);
            let reference = |[x, gain]: [Tensor<2>; 2]| rms_norm_reference(x, gain.squeeze_dim(0), 1e-6);
            assert_same_gradients(&inputs, fused, reference, 1e-5);
        }
    }

    #[test]
    fn a_view_and_a_shared_input_keep_their_values() {
        let (x, gain) = (tensor([5, 9, 24], 1), tensor([8], 2));
        let kept = x.clone() + 0.0;
        let view = x.clone().narrow(2, 8, 8).swap_dims(0, 1);
        let right = rms_norm_reference(view.clone(), gain.clone(), 1e-6);
        assert_close(rms_norm(view, gain, 1e-6), right, 1e-6);
        assert_close(x, kept, 0.0);
    }
}
