//! A gated residual connection.

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
use crate::flex::{is_trained_on_flex, new_flex, values, written};
use crate::row_sums::{RowSums, add_product, row_tasks};
use crate::simd::dispatch;

/// `residual + gate * y` of tokens `[B, N, D]` with one gate `[B, 1, D]` a picture.
///
/// Source: Peebles and Xie, arXiv 2212.09748, section 3.2 (adaLN-zero). Values and gradients within 1e-5 of
/// [`gated_residual_reference`] in f32.
pub fn gated_residual(residual: Tensor<3>, y: Tensor<3>, gate: Tensor<3>) -> Tensor<3> {
    let [batch, _, width] = residual.dims();
    assert_eq!(residual.dims(), y.dims(), "a sublayer keeps the shape");
    assert_eq!(gate.dims(), [batch, 1, width], "one gate a picture");
    if [&residual, &y, &gate].into_iter().all(is_trained_on_flex) {
        let [residual, y, gate] = [residual, y, gate].map(Tensor::into_dispatch);
        Tensor::from_dispatch(<Dispatch as GatedResidualOps>::gated_residual(residual, y, gate))
    } else {
        gated_residual_reference(residual, y, gate)
    }
}

/// The same in plain burn.
pub fn gated_residual_reference(residual: Tensor<3>, y: Tensor<3>, gate: Tensor<3>) -> Tensor<3> {
    residual + y * gate
}

/// The fused operation and its derivatives, per backend.
#[backend_extension(Flex, Autodiff)]
pub trait GatedResidualOps: Backend {
    /// `residual + gate * y`.
    fn gated_residual(residual: FloatTensor<Self>, y: FloatTensor<Self>, gate: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradients of `y` and `gate` from the gradient of the result, which is the residual's too.
    fn gated_residual_backward(
        y: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl GatedResidualOps for Flex {
    fn gated_residual(residual: FlexTensor, y: FlexTensor, gate: FlexTensor) -> FlexTensor {
        let [residual, y, gate] = [residual, y, gate].map(|x| x.to_contiguous());
        let shape = residual.layout().shape().clone();
        let (of_picture, width) = (shape[1] * shape[2], shape[2]);
        let fill = |out: &mut [MaybeUninit<f32>]| {
            out.par_chunks_mut(of_picture.max(1)).enumerate().for_each(|(b, out)| {
                let [residual, y] = [&residual, &y].map(|x| &values(x)[b * of_picture..][..of_picture]);
                let gate = &values(&gate)[b * width..][..width];
                out.par_chunks_mut(row_tasks(width))
                    .zip(residual.par_chunks(row_tasks(width)))
                    .zip(y.par_chunks(row_tasks(width)))
                    .for_each(|((out, residual), y)| forward(residual, y, gate, out));
            });
        };
        // SAFETY: whole rows of inputs and output side by side, each written.
        unsafe { written(shape, fill) }
    }

    fn gated_residual_backward(y: FlexTensor, gate: FlexTensor, gradient: FlexTensor) -> (FlexTensor, FlexTensor) {
        let [y, gate, gradient] = [y, gate, gradient].map(|x| x.to_contiguous());
        let shape = y.layout().shape().clone();
        let (batch, num_tokens, width) = (shape[0], shape[1], shape[2]);
        let mut sums = RowSums::new(batch, num_tokens, width, width);
        let fill = |out: &mut [MaybeUninit<f32>]| {
            sums.each(out, |b, range, out, sums| {
                let [y, gradient] = [&y, &gradient].map(|x| &values(x)[range.clone()]);
                backward(y, &values(&gate)[b * width..][..width], gradient, out, sums);
            });
        };
        // SAFETY: as in the forward pass.
        let of_y = unsafe { written(shape, fill) };
        let [of_gate] = sums.into_parts();
        (of_y, new_flex(of_gate, [batch, 1, width]))
    }
}

impl<B: GatedResidualOps, C: CheckpointStrategy> GatedResidualOps for Autodiff<B, C> {
    fn gated_residual(residual: FloatTensor<Self>, y: FloatTensor<Self>, gate: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [residual.node(), y.node(), gate.node()];
        match Backward::<B, 3>::prepare::<C>(GatedResidual, nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = [prep.checkpoint(&y), prep.checkpoint(&gate)];
                let [residual, y, gate] = values_of::<B, C, _>([residual, y, gate]);
                prep.finish(state, B::gated_residual(residual, y, gate))
            }
            OpsKind::UnTracked(prep) => {
                let [residual, y, gate] = values_of::<B, C, _>([residual, y, gate]);
                prep.finish(B::gated_residual(residual, y, gate))
            }
        }
    }

    fn gated_residual_backward(
        _y: FloatTensor<Self>,
        _gate: FloatTensor<Self>,
        _gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        panic!("the gradient of a gated residual has no gradient")
    }
}

#[derive(Debug)]
struct GatedResidual;

impl<B: GatedResidualOps> Backward<B, 3> for GatedResidual {
    type State = [NodeId; 2];

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [y, gate] = kept::<B, 2>(ops.state, checkpointer);
        let gradient = gradients.consume::<B>(&ops.node);
        let (of_y, of_gate) = B::gated_residual_backward(y, gate, gradient.clone());
        register::<B, _, 3>(gradients, ops, [gradient, of_y, of_gate]);
    }
}

dispatch!(forward, forward_body, (residual: &[f32], y: &[f32], gate: &[f32], out: &mut [MaybeUninit<f32>]));
dispatch!(
    backward,
    backward_body,
    (y: &[f32], gate: &[f32], gradient: &[f32], out: &mut [MaybeUninit<f32>], of_gate: &mut [f32])
);

#[inline(always)]
fn forward_body(residual: &[f32], y: &[f32], gate: &[f32], out: &mut [MaybeUninit<f32>]) {
    let width = gate.len();
    let rows = residual.chunks_exact(width).zip(y.chunks_exact(width));
    for ((residual, y), out) in rows.zip(out.chunks_exact_mut(width)) {
        for (((out, &residual), &y), &gate) in out.iter_mut().zip(residual).zip(y).zip(gate) {
            out.write(residual + y * gate);
        }
    }
}

#[inline(always)]
fn backward_body(y: &[f32], gate: &[f32], gradient: &[f32], out: &mut [MaybeUninit<f32>], of_gate: &mut [f32]) {
    let width = gate.len();
    let rows = y.chunks_exact(width).zip(gradient.chunks_exact(width));
    for ((y, gradient), out) in rows.zip(out.chunks_exact_mut(width)) {
        for ((out, &gradient), &gate) in out.iter_mut().zip(gradient).zip(gate) {
            out.write(gradient * gate);
        }
        add_product(of_gate, y, gradient, |y, gradient| y * gradient);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::testing::{assert_same_gradients, tensor};

    #[test]
    fn pictures_without_tokens_have_gates_without_gradients() {
        let [x, y] = [1, 2].map(|seed| tensor([2, 0, 3], seed).autodiff().require_grad());
        let gate = tensor([2, 1, 3], 3).autodiff().require_grad();
        let mut gradients = gated_residual(x, y, gate.clone()).sum().backward();
        let of_gate = gate.grad_remove(&mut gradients);
        assert!(of_gate.is_some_and(|of_gate| of_gate.abs().max().into_scalar::<f32>() <= 0.0));
    }

    #[test]
    fn values_and_gradients_equal_the_reference() {
        for [batch, tokens, width] in [[1, 1, 1], [3, 7, 5], [2, 300, 129], [1, 2, 40_000]] {
            let inputs = [
                tensor([batch, tokens, width], 1),
                tensor([batch, tokens, width], 2),
                tensor([batch, 1, width], 3),
            ];
            assert_same_gradients(
                &inputs,
                |[x, y, gate]| gated_residual(x, y, gate),
                |[x, y, gate]| gated_residual_reference(x, y, gate),
                1e-5,
            );
        }
    }
}
