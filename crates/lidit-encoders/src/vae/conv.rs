//! Convolutions over pictures, computed in the type of their weights.

use burn::module::{Module, Param, ParamId};
use burn::tensor::module::conv2d;
use burn::tensor::ops::{ConvOptions, PadMode};
use burn::tensor::{Device, Shape, Tensor};

/// A convolution with a square kernel and as much zero padding as keeps the size.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in, k, k]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Conv2d {
    /// A layer without weights.
    pub fn zeros(num_inputs: usize, num_outputs: usize, kernel: usize, device: &Device) -> Self {
        Self {
            weight: lazy_zeros([num_outputs, num_inputs, kernel, kernel], device),
            bias: lazy_zeros([num_outputs], device),
        }
    }

    /// `[B, in, H, W]` to `[B, out, H, W]`, in the weight's type.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [.., kernel] = self.weight.lazy_shape().dims::<4>();
        let padding = kernel / 2;
        self.convolve(x, ConvOptions::new([1, 1], [padding, padding], [1, 1], 1))
    }

    /// `[B, in, H, W]` to `[B, out, H / 2, W / 2]`, in the weight's type: every second position, with zeros below and to
    /// the right only, as diffusers pads.
    pub fn halve(&self, x: Tensor<4>) -> Tensor<4> {
        let padded = x.pad([(0, 0), (0, 0), (0, 1), (0, 1)], PadMode::Constant(0.0)); // [B, in, H + 1, W + 1]
        self.convolve(padded, ConvOptions::new([2, 2], [0, 0], [1, 1], 1))
    }

    fn convolve(&self, x: Tensor<4>, options: ConvOptions<2>) -> Tensor<4> {
        let weight = self.weight.val();
        conv2d(x.cast(weight.dtype()), weight, Some(self.bias.val()), options)
    }
}

/// A trainable parameter of zeros that takes no memory until somebody looks at it.
pub(super) fn lazy_zeros<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
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
