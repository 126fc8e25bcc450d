//! A linear layer.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_autodiff::NodeId;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_flex::FlexTensor;

use crate::autodiff::kept;
use crate::flex::{is_trained_on_flex, new_flex, values, written};
use crate::product::{Matrix, product};
use crate::row_sums::column_sums;

/// `x W + b` over the last axis of `x [.., in]`, with `weight [in, out]` and `bias [out]`.
///
/// Values and gradients within 1e-5 of [`linear_reference`] in f32.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<D> {
    if is_trained_on_flex(&x) && is_trained_on_flex(&weight) && is_trained_on_flex(&bias) {
        let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
        Tensor::from_dispatch(<Dispatch as LinearOps>::affine(x, weight, bias))
    } else {
        linear_reference(x, weight, bias)
    }
}

/// burn's own.
pub fn linear_reference<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<D> {
    burn::tensor::module::linear(x, weight, Some(bias))
}

/// The fused operation and its derivatives, per backend.
#[backend_extension(Flex, Autodiff)]
pub trait LinearOps: Backend {
    /// `x weight + bias`.
    fn affine(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradient of `x`: `gradient weight^T`.
    fn affine_backward_x(weight: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradients of weight and bias: `x^T gradient`, and its column sums.
    fn affine_backward_weight(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl LinearOps for Flex {
    fn affine(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let [x, weight, bias] = [x, weight, bias].map(|x| x.to_contiguous());
        let [num_inputs, num_outputs] = [0, 1].map(|axis| weight.layout().shape()[axis]);
        let mut shape = x.layout().shape().clone();
        let last = shape.num_dims() - 1;
        shape[last] = num_outputs;
        let x = Matrix::new(values(&x), num_inputs);
        // SAFETY: a product writes every element of its result.
        unsafe {
            written(shape, |out| {
                product(&x, &Matrix::new(values(&weight), num_outputs), Some(values(&bias)), out);
            })
        }
    }

    fn affine_backward_x(weight: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        let [weight, gradient] = [weight, gradient].map(|x| x.to_contiguous());
        let [num_inputs, num_outputs] = [0, 1].map(|axis| weight.layout().shape()[axis]);
        let mut shape = gradient.layout().shape().clone();
        let last = shape.num_dims() - 1;
        shape[last] = num_inputs;
        let gradient = Matrix::new(values(&gradient), num_outputs);
        let weight = Matrix::new(values(&weight), num_outputs).transposed();
        // SAFETY: as in the forward pass.
        unsafe { written(shape, |out| product(&gradient, &weight, None, out)) }
    }

    fn affine_backward_weight(x: FlexTensor, gradient: FlexTensor) -> (FlexTensor, FlexTensor) {
        let [x, gradient] = [x, gradient].map(|x| x.to_contiguous());
        let [num_inputs, num_outputs] = [&x, &gradient].map(|x| x.layout().shape().last().copied().unwrap_or(1));
        let of_bias = column_sums(values(&gradient), num_outputs);
        let x = Matrix::new(values(&x), num_inputs).transposed();
        let gradient = Matrix::new(values(&gradient), num_outputs);
        // SAFETY: as in the forward pass.
        let of_weight = unsafe { written([num_inputs, num_outputs], |out| product(&x, &gradient, None, out)) };
        (of_weight, new_flex(of_bias, [num_outputs]))
    }
}

impl<B: LinearOps, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {
    fn affine(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        match Backward::<B, 3>::prepare::<C>(Linear, nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                // What is not needed for a gradient that is asked for is not kept.
                let is_trained = weight.is_tracked() || bias.is_tracked();
                let state = (
                    is_trained.then(|| prep.checkpoint(&x)),
                    x.is_tracked().then(|| prep.checkpoint(&weight)),
                );
                let [x, weight, bias] = [x, weight, bias].map(|x| x.into_primitive());
                prep.finish(state, B::affine(x, weight, bias))
            }
            OpsKind::UnTracked(prep) => {
                let [x, weight, bias] = [x, weight, bias].map(|x| x.into_primitive());
                prep.finish(B::affine(x, weight, bias))
            }
        }
    }

    fn affine_backward_x(_weight: FloatTensor<Self>, _gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        panic!("the gradient of a linear layer has no gradient")
    }

    fn affine_backward_weight(
        _x: FloatTensor<Self>,
        _gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        panic!("the gradient of a linear layer has no gradient")
    }
}

#[derive(Debug)]
struct Linear;

impl<B: LinearOps> Backward<B, 3> for Linear {
    type State = (Option<NodeId>, Option<NodeId>);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (x, weight) = ops.state;
        let gradient = gradients.consume::<B>(&ops.node);
        let [of_x, of_weight, of_bias] = ops.parents;
        if let (Some(parent), Some(weight)) = (of_x, weight) {
            let [weight] = kept::<B, 1>([weight], checkpointer);
            gradients.register::<B>(parent.id, B::affine_backward_x(weight, gradient.clone()));
        }
        if let Some(x) = x {
            let [x] = kept::<B, 1>([x], checkpointer);
            let (weight, bias) = B::affine_backward_weight(x, gradient);
            for (parent, gradient) in [(of_weight, weight), (of_bias, bias)] {
                if let Some(parent) = parent {
                    gradients.register::<B>(parent.id, gradient);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::testing::{assert_same_gradients, tensor};

    #[test]
    fn values_and_gradients_equal_the_reference() {
        for [batch, tokens, num_inputs, num_outputs] in [[1, 1, 1, 1], [2, 5, 7, 3], [3, 50, 33, 65], [2, 130, 96, 192]]
        {
            let inputs = [
                tensor([batch, tokens, num_inputs], 1),
                tensor([1, num_inputs, num_outputs], 2),
                tensor([1, 1, num_outputs], 3),
            ];
            let split = |weight: Tensor<3>, bias: Tensor<3>| (weight.squeeze_dim::<2>(0), bias.reshape([num_outputs]));
            let fused = |[x, weight, bias]: [Tensor<3>; 3]| {
                let (weight, bias) = split(weight, bias);
                linear(x, weight, bias)
            };
            let reference = |[x, weight, bias]: [Tensor<3>; 3]| {
                let (weight, bias) = split(weight, bias);
                linear_reference(x, weight, bias)
            };
            assert_same_gradients(&inputs, fused, reference, 1e-5);
        }
    }
}
