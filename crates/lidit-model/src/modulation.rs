//! adaLN-zero: how timestep and text steer a sublayer.

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};
use lidit_kernels::{gated_residual, norm_modulate};

use crate::linear::Linear;
use crate::mlp::silu;
use crate::norm::EPSILON;

/// Shift, scale and gate of one sublayer, from the conditioning vector (section 3). Starts at zero, so that the
/// sublayer starts as the identity.
///
/// Each sublayer owns one; the three of a backbone block are its unshared nine-way modulation.
#[derive(Module, Debug)]
pub struct Modulation {
    /// `[hidden, 3 * hidden]`: columns are shift, scale, gate.
    pub linear: Linear,
}

/// What a [`Modulation`] says about one sublayer; each `[B, 1, D]`, f32.
#[derive(Debug, Clone)]
pub struct Modulated {
    /// Added to the sublayer's normalised input.
    pub shift: Tensor<3>,
    /// One plus this multiplies the sublayer's normalised input.
    pub scale: Tensor<3>,
    /// Multiplies the sublayer's output.
    pub gate: Tensor<3>,
}

impl Modulation {
    /// A modulation that does nothing yet.
    pub fn zeros(hidden_size: usize, device: &Device) -> Self {
        Self {
            linear: Linear::zeros(hidden_size, 3 * hidden_size, device),
        }
    }

    /// From the conditioning vector `[B, D]`.
    pub fn forward(&self, conditioning: Tensor<2>) -> Modulated {
        let [shift, scale, gate] = split(self.linear.forward(silu(conditioning)));
        Modulated { shift, scale, gate }
    }
}

impl Modulated {
    /// `layer_norm(x) * (1 + scale) + shift` of a sublayer's input `[B, N, D]`, f32.
    pub fn before(&self, x: Tensor<3>) -> Tensor<3> {
        norm_modulate(x, self.shift.clone(), self.scale.clone(), EPSILON)
    }

    /// `residual + gate * y`, in f32.
    pub fn after(self, residual: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        gated_residual(residual, y.cast(FloatDType::F32), self.gate)
    }
}

/// A gate alone, without shift and scale: what the token refiner has (section 2). Starts at zero, weight and bias.
#[derive(Module, Debug)]
pub struct Gate {
    /// `[hidden, hidden]`.
    pub linear: Linear,
}

impl Gate {
    /// A closed gate.
    pub fn zeros(hidden_size: usize, device: &Device) -> Self {
        Self {
            linear: Linear::zeros(hidden_size, hidden_size, device),
        }
    }

    /// `[B, D]` to `[B, 1, D]`, f32.
    pub fn forward(&self, conditioning: Tensor<2>) -> Tensor<3> {
        self.linear
            .forward(silu(conditioning))
            .cast(FloatDType::F32)
            .unsqueeze_dim(1)
    }
}

/// Cuts `[B, K * D]` into K vectors `[B, 1, D]`, f32.
pub(crate) fn split<const K: usize>(x: Tensor<2>) -> [Tensor<3>; K] {
    let [b, width] = x.dims();
    let d = width / K;
    let x = x.cast(FloatDType::F32).reshape([b, K, d]); // [B, K, D]
    std::array::from_fn(|i| x.clone().slice([0..b, i..i + 1, 0..d]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;

    #[test]
    fn modulation_matches_pytorch() {
        let golden = Golden::open("modulation");
        let modulation = golden.load(Modulation::zeros(8, &Device::flex()));
        let modulated = modulation.forward(golden.tensor("in.c"));
        let x: Tensor<3> = golden.tensor("in.x");
        golden.check("out.before", modulated.before(x.clone()), 1e-5);
        golden.check("out.after", modulated.after(x, golden.tensor("in.y")), 1e-5);
    }
}
