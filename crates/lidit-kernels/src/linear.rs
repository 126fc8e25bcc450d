//! A linear layer.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, FloatDType, Shape, Tensor, bf16};
use burn_autodiff::NodeId;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_flex::FlexTensor;

use crate::autodiff::{kept, values_of};
use crate::flex::{elements, is_bf16_on_flex, is_trained_on_flex, narrowed, new_flex, values, widened, written};
use crate::product::{Matrix, product};
use crate::product_bf16::{Output, product_bf16};
use crate::row_sums::column_sums;

/// `x W + b` over the last axis of `x [.., in]`, with `weight [in, out]` and `bias [out]`, computed in the weight's type and
/// given in it too.
///
/// Values and gradients within 1e-5 of [`linear_reference`] in f32. In bf16 the CPU adds in f32 and rounds once, by
/// AVX512-BF16 where it has that.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<D> {
    let out = weight.dtype();
    linear_as(x, weight, bias, out.into())
}

/// [`linear`] computed in the weight's type, with a result in f32: on the CPU its sums are not rounded.
pub fn wide_linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<D> {
    linear_as(x, weight, bias, FloatDType::F32)
}

/// burn's own, with casts around it.
pub fn linear_reference<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    out: FloatDType,
) -> Tensor<D> {
    burn::tensor::module::linear(x.cast(weight.dtype()), weight, Some(bias)).cast(out)
}

fn linear_as<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Tensor<1>, out: FloatDType) -> Tensor<D> {
    let is_f32 = is_trained_on_flex(&x) && is_trained_on_flex(&weight) && is_trained_on_flex(&bias);
    let is_bf16 = (is_trained_on_flex(&x) || is_bf16_on_flex(&x)) && is_bf16_on_flex(&weight) && is_bf16_on_flex(&bias);
    if !is_f32 && !is_bf16 {
        return linear_reference(x, weight, bias, out);
    }
    let types = LinearTypes {
        x: x.dtype().into(),
        weight: weight.dtype().into(),
        out,
    };
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(<Dispatch as LinearOps>::affine(x, weight, bias, types))
}

/// The types around a linear layer; products are in the weight's.
#[derive(Clone, Copy, Debug)]
pub struct LinearTypes {
    /// Of the input and its gradient.
    pub x: FloatDType,
    /// Of weight and bias and their gradients.
    pub weight: FloatDType,
    /// Of the result.
    pub out: FloatDType,
}

/// The fused operation and its derivatives, per backend.
#[backend_extension(Flex, Autodiff)]
pub trait LinearOps: Backend {
    /// `x weight + bias`.
    fn affine(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        types: LinearTypes,
    ) -> FloatTensor<Self>;
    /// The gradient of `x`, `gradient weight^T`, given as `out`.
    fn affine_backward_x(weight: FloatTensor<Self>, gradient: FloatTensor<Self>, out: FloatDType) -> FloatTensor<Self>;
    /// The gradients of weight and bias, given as `out`: `x^T gradient`, and its column sums.
    fn affine_backward_weight(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        out: FloatDType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl LinearOps for Flex {
    fn affine(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, types: LinearTypes) -> FlexTensor {
        let [x, weight, bias] = [x, weight, widened(bias)].map(|x| x.to_contiguous());
        let shape = with_last(&x, weight.layout().shape()[1]);
        multiply(
            [&Side::rows(&x), &Side::rows(&weight)],
            Some(values(&bias)),
            shape,
            types.out,
        )
    }

    fn affine_backward_x(weight: FlexTensor, gradient: FlexTensor, out: FloatDType) -> FlexTensor {
        let [weight, gradient] = [weight, gradient].map(|x| x.to_contiguous());
        let shape = with_last(&gradient, weight.layout().shape()[0]);
        multiply(
            [&Side::rows(&gradient), &Side::rows(&weight).transposed()],
            None,
            shape,
            out,
        )
    }

    fn affine_backward_weight(x: FlexTensor, gradient: FlexTensor, out: FloatDType) -> (FlexTensor, FlexTensor) {
        let [x, gradient] = [x, gradient].map(|x| x.to_contiguous());
        let [num_inputs, num_outputs] = [&x, &gradient].map(width_of);
        let of_bias = match gradient.dtype() {
            DType::BF16 => column_sums(elements::<bf16>(&gradient), num_outputs),
            _ => column_sums(values(&gradient), num_outputs),
        };
        let of_bias = new_flex(of_bias, [num_outputs]);
        let sides = [&Side::rows(&x).transposed(), &Side::rows(&gradient)];
        if out == FloatDType::BF16 {
            let of_weight = multiply_bf16(sides, None, Shape::from([num_inputs, num_outputs]), out);
            return (of_weight, narrowed(of_bias));
        }
        (
            multiply(sides, None, Shape::from([num_inputs, num_outputs]), out),
            of_bias,
        )
    }
}

fn width_of(x: &FlexTensor) -> usize {
    x.layout().shape().last().copied().unwrap_or(1)
}

fn with_last(x: &FlexTensor, width: usize) -> Shape {
    let mut shape = x.layout().shape().clone();
    let last = shape.num_dims() - 1;
    shape[last] = width;
    shape
}

/// A matrix of either type.
enum Side<'a> {
    F32(Matrix<'a, f32>),
    Bf16(Matrix<'a, bf16>),
}

impl<'a> Side<'a> {
    fn rows(x: &'a FlexTensor) -> Self {
        match x.dtype() {
            DType::BF16 => Self::Bf16(Matrix::new(elements(x), width_of(x))),
            _ => Self::F32(Matrix::new(values(x), width_of(x))),
        }
    }

    fn transposed(self) -> Self {
        match self {
            Self::F32(x) => Self::F32(x.transposed()),
            Self::Bf16(x) => Self::Bf16(x.transposed()),
        }
    }
}

/// The product of two matrices, in f32 where both are.
fn multiply(sides: [&Side<'_>; 2], bias: Option<&[f32]>, shape: Shape, out: FloatDType) -> FlexTensor {
    match sides {
        // SAFETY: a product writes every element of its result.
        [Side::F32(a), Side::F32(b)] => unsafe { written(shape, |out| product(a, b, bias, out)) },
        _ => multiply_bf16(sides, bias, shape, out),
    }
}

/// The product of two matrices, both rounded to bf16.
fn multiply_bf16(sides: [&Side<'_>; 2], bias: Option<&[f32]>, shape: Shape, out: FloatDType) -> FlexTensor {
    let fill = |out: Output<'_>| match sides {
        [Side::F32(a), Side::F32(b)] => product_bf16(a, b, bias, out),
        [Side::F32(a), Side::Bf16(b)] => product_bf16(a, b, bias, out),
        [Side::Bf16(a), Side::F32(b)] => product_bf16(a, b, bias, out),
        [Side::Bf16(a), Side::Bf16(b)] => product_bf16(a, b, bias, out),
    };
    // SAFETY: a product writes every element of its result.
    unsafe {
        match out {
            FloatDType::BF16 => written(shape, |out| fill(Output::Bf16(out))),
            _ => written(shape, |out| fill(Output::F32(out))),
        }
    }
}

impl<B: LinearOps, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {
    fn affine(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        types: LinearTypes,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        match Backward::<B, 3>::prepare::<C>(Linear, nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                // What is not needed for a gradient that is asked for is not kept.
                let is_trained = weight.is_tracked() || bias.is_tracked();
                let state = Kept {
                    x: is_trained.then(|| prep.checkpoint(&x)),
                    weight: x.is_tracked().then(|| prep.checkpoint(&weight)),
                    types,
                };
                let [x, weight, bias] = values_of::<B, C, _>([x, weight, bias]);
                prep.finish(state, B::affine(x, weight, bias, types))
            }
            OpsKind::UnTracked(prep) => {
                let [x, weight, bias] = values_of::<B, C, _>([x, weight, bias]);
                prep.finish(B::affine(x, weight, bias, types))
            }
        }
    }

    fn affine_backward_x(
        _weight: FloatTensor<Self>,
        _gradient: FloatTensor<Self>,
        _out: FloatDType,
    ) -> FloatTensor<Self> {
        panic!("the gradient of a linear layer has no gradient")
    }

    fn affine_backward_weight(
        _x: FloatTensor<Self>,
        _gradient: FloatTensor<Self>,
        _out: FloatDType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        panic!("the gradient of a linear layer has no gradient")
    }
}

/// What the backward pass needs: the input and the weight where their product with a gradient is asked for.
#[derive(Debug, Clone)]
struct Kept {
    x: Option<NodeId>,
    weight: Option<NodeId>,
    types: LinearTypes,
}

#[derive(Debug)]
struct Linear;

impl<B: LinearOps> Backward<B, 3> for Linear {
    type State = Kept;

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let Kept { x, weight, types } = ops.state;
        let gradient = gradients.consume::<B>(&ops.node);
        let [of_x, of_weight, of_bias] = ops.parents;
        if let (Some(parent), Some(weight)) = (of_x, weight) {
            let [weight] = kept::<B, 1>([weight], checkpointer);
            gradients.register::<B>(parent.id, B::affine_backward_x(weight, gradient.clone(), types.x));
        }
        if let Some(x) = x {
            let [x] = kept::<B, 1>([x], checkpointer);
            let (weight, bias) = B::affine_backward_weight(x, gradient, types.weight);
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
                linear_reference(x, weight, bias, FloatDType::F32)
            };
            assert_same_gradients(&inputs, fused, reference, 1e-5);
        }
    }

    /// A linear layer of rounded numbers in bf16 and the same in f32: the result and all gradients.
    fn beside_f32(shape: [usize; 3], x_type: FloatDType, is_wide: bool) {
        let [tokens, num_inputs, num_outputs] = shape;
        let inputs = [
            tensor([2, tokens, num_inputs], 1),
            tensor([1, num_inputs, num_outputs], 2),
            tensor([1, 1, num_outputs], 3),
        ]
        .map(|x| x.cast(FloatDType::BF16).cast(FloatDType::F32));
        let apart = |[x, weight, bias]: [Tensor<3>; 3]| (x, weight.squeeze_dim::<2>(0), bias.reshape([num_outputs]));
        let short = |inputs| {
            let (x, weight, bias) = apart(inputs);
            let (weight, bias) = (weight.cast(FloatDType::BF16), bias.cast(FloatDType::BF16));
            let y = if is_wide {
                wide_linear(x.cast(x_type), weight, bias)
            } else {
                linear(x.cast(x_type), weight, bias)
            };
            assert_eq!(y.dtype() == DType::F32, is_wide);
            y.cast(FloatDType::F32)
        };
        let exact = |inputs| {
            let (x, weight, bias) = apart(inputs);
            linear_reference(x, weight, bias, FloatDType::F32)
        };
        assert_same_gradients(&inputs, short, exact, 4e-3);
    }

    #[test]
    fn in_bf16_values_and_gradients_are_those_of_f32_rounded() {
        for shape in [[1, 1, 1], [5, 7, 3], [50, 33, 65], [130, 96, 192]] {
            for x_type in [FloatDType::F32, FloatDType::BF16] {
                beside_f32(shape, x_type, true);
                beside_f32(shape, x_type, false);
            }
        }
    }
}
