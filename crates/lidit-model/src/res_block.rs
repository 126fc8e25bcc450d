//! The convolutional block that tells tokens where they are.

use burn::module::{Module, Param};
use burn::tensor::{Device, FloatDType, Tensor};
use lidit_kernels::{linear, neighbours};

use crate::linear::lazy_zeros;
use crate::mlp::silu;
use crate::norm::layer_norm;

/// A 3 x 3 convolution with zero padding over a grid of tokens, in the type of its weight.
///
/// Computed as one matrix product over the nine neighbours side by side, so that forward and backward run at the speed
/// of matrix products on every device. That takes nine times the input in memory, which is little beside one block.
#[derive(Module, Debug)]
pub struct Conv3x3 {
    /// `[out, in, 3, 3]`, rows before columns.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Conv3x3 {
    /// An empty layer that keeps `channels`; [`initialize`](crate::initialize()) fills it.
    pub fn zeros(channels: usize, device: &Device) -> Self {
        Self {
            weight: lazy_zeros([channels, channels, 3, 3], device),
            bias: lazy_zeros([channels], device),
        }
    }

    /// `[B, h, w, D]` to `[B, h, w, D]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let weight = self.weight.val();
        let [.., d] = x.dims();
        let x = neighbours(x.cast(weight.dtype())); // [B, h, w, 9 * in]
        let weight = weight.permute([2, 3, 1, 0]).reshape([9 * d, d]); // [9 * in, out]
        linear(x, weight, self.bias.val())
    }
}

/// `x + conv(silu(conv(norm(x))))` on the grid of tokens, right after patchify: the only source of position (section 3).
///
/// The zero padding is what leaks position: tokens at the border see zeros where others see neighbours, and a token
/// also carries a mixture of its neighbours, by which attention can find them. Norm and number of layers are open.
#[derive(Module, Debug)]
pub struct ResBlock {
    /// First convolution.
    pub conv_in: Conv3x3,
    /// Second convolution.
    pub conv_out: Conv3x3,
}

impl ResBlock {
    /// An empty block; [`initialize`](crate::initialize()) fills it.
    pub fn zeros(hidden_size: usize, device: &Device) -> Self {
        Self {
            conv_in: Conv3x3::zeros(hidden_size, device),
            conv_out: Conv3x3::zeros(hidden_size, device),
        }
    }

    /// `[B, h * w, D]` to the same, on a grid of `h x w` tokens; f32.
    pub fn forward(&self, x: Tensor<3>, [h, w]: [usize; 2]) -> Tensor<3> {
        let [b, n, d] = x.dims();
        let grid = layer_norm(x.clone()).reshape([b, h, w, d]); // [B, h, w, D]
        let y = self.conv_out.forward(silu(self.conv_in.forward(grid)));
        x + y.reshape([b, n, d]).cast(FloatDType::F32) // [B, N, D]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;

    #[test]
    fn res_block_matches_pytorch() {
        let golden = Golden::open("res_block");
        let block = golden.load(ResBlock::zeros(8, &Device::flex()));
        golden.check("out.y", block.forward(golden.tensor("in.x"), [3, 4]), 1e-5);
    }

    #[test]
    fn equal_tokens_become_different_by_position() {
        let block = Golden::open("res_block").load(ResBlock::zeros(8, &Device::flex()));
        let token = Golden::open("res_block").tensor::<3>("in.x").slice([0..1, 0..1, 0..8]);
        let y = block.forward(token.repeat_dim(1, 25), [5, 5]);
        let at = |i: usize| y.clone().slice([0..1, i..i + 1, 0..8]);
        let distance = |i, j| (at(i) - at(j)).abs().max().into_scalar::<f32>();
        assert!(distance(0, 12) > 0.1, "corner and centre");
        assert!(distance(0, 4) > 0.1, "left and right corner");
        assert!(distance(7, 17) > 0.1, "above and below the centre");
    }
}
