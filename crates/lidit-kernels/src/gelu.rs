//! GELU in its tanh form.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use burn_autodiff::NodeId;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::composed;
use crate::flex::{CHUNK, is_fused, new_flex, values};
use crate::simd::{dispatch, logistic};

/// `2 sqrt(2 / pi)`.
pub const LINEAR: f32 = 1.595_769;
/// The cubic term's share, `0.044715 * LINEAR`.
pub const CUBIC: f32 = 0.071_354_814;

/// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, elementwise, with its own backward.
///
/// Source: Hendrycks and Gimpel, arXiv 1606.08415, section 2. Values within 1e-6, gradients within 4e-6 of
/// [`gelu_reference`] in f32.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if is_fused(&x) {
        Tensor::from_dispatch(<Dispatch as GeluOps>::gelu_tanh(x.into_dispatch()))
    } else {
        gelu_reference(x)
    }
}

/// The same in plain burn, as `x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3))`: `tanh` and `powf` are slow on the CPU.
pub fn gelu_reference<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let inner = (x.clone() * x.clone()).mul_scalar(CUBIC).add_scalar(LINEAR) * x.clone();
    x * sigmoid(inner)
}

/// The fused operation and its derivative, per backend.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait GeluOps: Backend {
    /// GELU of `x`.
    fn gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::gelu::<Self>(x)
    }
    /// The gradient of `x` from the gradient of the result.
    fn gelu_tanh_backward(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::gelu_backward::<Self>(x, gradient)
    }
}

#[cfg(feature = "cuda")]
impl GeluOps for burn::backend::Cube {}

impl GeluOps for Flex {
    fn gelu_tanh(x: FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
        let mut out = vec![0.0; x.layout().shape().num_elements()];
        out.par_chunks_mut(CHUNK)
            .zip(values(&x).par_chunks(CHUNK))
            .for_each(|(out, x)| forward(x, out));
        new_flex(out, x.layout().shape().clone())
    }

    fn gelu_tanh_backward(x: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        let (x, gradient) = (x.to_contiguous(), gradient.to_contiguous());
        let mut out = vec![0.0; x.layout().shape().num_elements()];
        out.par_chunks_mut(CHUNK)
            .zip(values(&x).par_chunks(CHUNK))
            .zip(values(&gradient).par_chunks(CHUNK))
            .for_each(|((out, x), gradient)| backward(x, gradient, out));
        new_flex(out, x.layout().shape().clone())
    }
}

impl<B: GeluOps, C: CheckpointStrategy> GeluOps for Autodiff<B, C> {
    fn gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match Backward::<B, 1>::prepare::<C>(Gelu, [x.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let input = prep.checkpoint(&x);
                prep.finish(input, B::gelu_tanh(x.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::gelu_tanh(x.into_primitive())),
        }
    }

    fn gelu_tanh_backward(_x: FloatTensor<Self>, _gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        panic!("the gradient of GELU has no gradient")
    }
}

#[derive(Debug)]
struct Gelu;

impl<B: GeluOps> Backward<B, 1> for Gelu {
    type State = NodeId;

    fn backward(self, ops: Ops<NodeId, 1>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let x = checkpointer.retrieve_node_output::<B::FloatTensorPrimitive>(ops.state);
        unary::<B, _>(ops.parents, ops.node, gradients, |gradient| {
            B::gelu_tanh_backward(x, gradient)
        });
    }
}

dispatch!(forward, forward_body, (x: &[f32], out: &mut [f32]));
dispatch!(backward, backward_body, (x: &[f32], gradient: &[f32], out: &mut [f32]));

#[inline(always)]
fn forward_body(x: &[f32], out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = gelu_value(x);
    }
}

/// GELU of one number.
#[inline(always)]
pub fn gelu_value(x: f32) -> f32 {
    x * logistic(x * (LINEAR + CUBIC * x * x))
}

#[inline(always)]
fn backward_body(x: &[f32], gradient: &[f32], out: &mut [f32]) {
    for ((out, &x), &gradient) in out.iter_mut().zip(x).zip(gradient) {
        let square = x * x;
        let s = logistic(x * (LINEAR + CUBIC * square));
        *out = gradient * s * (1.0 + x * (1.0 - s) * (LINEAR + 3.0 * CUBIC * square));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use burn::tensor::{Device, TensorData};

    use super::*;

    /// Odd sizes, tails of both sides, and more than one chunk.
    fn inputs(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919) % 4001) as f32 / 200.0 - 10.0).collect()
    }

    fn values_and_gradients(x: &[f32], f: impl Fn(Tensor<2>) -> Tensor<2>) -> (Vec<f32>, Vec<f32>) {
        let device = Device::flex().autodiff();
        let x = Tensor::<2>::from_data(TensorData::new(x.to_vec(), [1, x.len()]), &device).require_grad();
        let y = f(x.clone());
        // A gradient that differs from element to element.
        let mut gradients = (y.clone() * y.clone()).sum().backward();
        let gradient = x.grad_remove(&mut gradients).unwrap();
        let host = |t: Tensor<2>| t.to_data().iter::<f32>().collect::<Vec<_>>();
        (host(y.inner()), host(gradient))
    }

    #[test]
    fn values_and_gradients_equal_the_reference() {
        for len in [1, 7, 33, 1000, CHUNK + 3] {
            let x = inputs(len);
            let (y, g) = values_and_gradients(&x, gelu);
            let (y_reference, g_reference) = values_and_gradients(&x, gelu_reference);
            for i in 0..len {
                let close = |a: f32, b: f32, tolerance: f32| (a - b).abs() <= tolerance * (1.0 + b.abs());
                assert!(
                    close(y[i], y_reference[i], 1e-6),
                    "gelu({}): {} and {}",
                    x[i],
                    y[i],
                    y_reference[i]
                );
                assert!(
                    close(g[i], g_reference[i], 4e-6),
                    "gradient at {}: {} and {}",
                    x[i],
                    g[i],
                    g_reference[i]
                );
            }
        }
    }

    #[test]
    fn a_transposed_input_keeps_its_order() {
        let device = Device::flex();
        let x = Tensor::<2>::from_data(TensorData::new(inputs(15), [3, 5]), &device);
        let difference = gelu(x.clone().transpose()) - gelu(x).transpose();
        assert!(difference.abs().max().into_scalar::<f32>() <= 0.0);
    }

    #[test]
    fn every_instruction_set_gives_the_same_within_rounding() {
        let x = inputs(999);
        let (mut best, mut baseline) = (vec![0.0; 999], vec![0.0; 999]);
        forward(&x, &mut best);
        forward_body(&x, &mut baseline);
        for (a, b) in best.iter().zip(&baseline) {
            assert!((a - b).abs() <= 1e-6 * (1.0 + b.abs()));
        }
    }
}
