//! The feed-forward sublayer and the activations.

use burn::module::Module;
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, FloatDType, Tensor};
use lidit_kernels::gelu;

use crate::linear::Linear;

/// `Linear -> GELU -> Linear`, `ratio` times wider inside.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[hidden, ratio * hidden]`.
    pub linear_in: Linear,
    /// `[ratio * hidden, hidden]`.
    pub linear_out: Linear,
}

impl Mlp {
    /// An empty layer; [`initialize`](crate::initialize()) fills it.
    pub fn zeros(hidden_size: usize, ratio: usize, device: &Device) -> Self {
        Self {
            linear_in: Linear::zeros(hidden_size, ratio * hidden_size, device),
            linear_out: Linear::zeros(ratio * hidden_size, hidden_size, device),
        }
    }

    /// `[B, N, D]` to `[B, N, D]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.linear_out.forward_wide(gelu(self.linear_in.forward_wide(x)))
    }
}

/// `SiLU`, `x * sigmoid(x)`, in f32.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let x = x.cast(FloatDType::F32);
    x.clone() * sigmoid(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_is_close_to_the_erf_form() {
        let x = Tensor::<1>::from_floats([-6.0, -2.0, -0.5, 0.0, 0.5, 2.0, 6.0], &Device::flex());
        let difference = gelu(x.clone()) - burn::tensor::activation::gelu(x);
        assert!(difference.abs().max().into_scalar::<f32>() < 1e-3);
    }
}
