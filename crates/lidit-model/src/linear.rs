//! `Linear`: a matrix product in the precision of its weight.

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Shape, Tensor};
use lidit_kernels::{linear, wide_linear};

/// `y = x W + b`, computed in the type of `W`.
///
/// `weight` is `[in, out]` (burn's layout, the transpose of the one in `PyTorch`), `bias` is `[out]`. Both have one type; the
/// input is cast to it, which is free when it already has it.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[in, out]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Linear {
    /// A layer from `num_inputs` to `num_outputs` features, all zero until [`initialize`](crate::initialize()) fills it.
    pub fn zeros(num_inputs: usize, num_outputs: usize, device: &Device) -> Self {
        Self {
            weight: lazy_zeros([num_inputs, num_outputs], device),
            bias: lazy_zeros([num_outputs], device),
        }
    }

    /// Maps the last axis: `[.., in]` to `[.., out]`, in the weight's type.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let weight = self.weight.val();
        linear(x, weight, self.bias.val())
    }

    /// As [`forward`](Self::forward) with a result in f32, for what computes in f32 anyway.
    pub fn forward_wide<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        wide_linear(x, self.weight.val(), self.bias.val())
    }
}

/// A trainable parameter of zeros that takes no memory until somebody looks at it.
pub(crate) fn lazy_zeros<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Param::uninitialized(
        ParamId::new(),
        move |device, require_grad| {
            let zeros = Tensor::zeros(shape, device);
            if require_grad { zeros.require_grad() } else { zeros }
        },
        device.clone(),
        true,
        Shape::from(shape),
    )
}
