//! From tokens to the prediction.

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};
use lidit_kernels::norm_modulate;

use crate::linear::Linear;
use crate::mlp::silu;
use crate::modulation::split;
use crate::norm::EPSILON;

/// Norm, shift and scale, projection to patches (`DiT`'s). Zero at the start, so that the first prediction is zero.
#[derive(Module, Debug)]
pub struct FinalLayer {
    /// `[hidden, 2 * hidden]`: columns are shift, scale.
    pub modulation: Linear,
    /// `[hidden, C * p * p]`.
    pub linear: Linear,
}

impl FinalLayer {
    /// An empty layer to `num_outputs = C * p * p` features.
    pub fn zeros(hidden_size: usize, num_outputs: usize, device: &Device) -> Self {
        Self {
            modulation: Linear::zeros(hidden_size, 2 * hidden_size, device),
            linear: Linear::zeros(hidden_size, num_outputs, device),
        }
    }

    /// `x` `[B, N, D]` and `conditioning` `[B, D]` to `[B, N, C * p * p]`, f32.
    pub fn forward(&self, x: Tensor<3>, conditioning: Tensor<2>) -> Tensor<3> {
        let [shift, scale] = split(self.modulation.forward(silu(conditioning)));
        self.linear
            .forward(norm_modulate(x, shift, scale, EPSILON))
            .cast(FloatDType::F32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;

    #[test]
    fn final_layer_matches_pytorch() {
        let golden = Golden::open("final_layer");
        let layer = golden.load(FinalLayer::zeros(8, 12, &Device::flex()));
        golden.check(
            "out.tokens",
            layer.forward(golden.tensor("in.x"), golden.tensor("in.c")),
            1e-5,
        );
    }
}
