//! Attention among all positions of the lowest resolution.

use burn::module::{Module, Param};
use burn::tensor::activation::softmax;
use burn::tensor::module::linear;
use burn::tensor::{Device, FloatDType, Tensor};

use super::config::NetworkConfig;
use super::conv::lazy_zeros;
use super::group_norm::GroupNorm;

/// Rows of scores that are in memory at once, summed over a batch: with 16,384 positions (1,024 pixels a side) 64 MiB.
const MAX_ROWS: usize = 1024;

/// `x + to_out(softmax(q k^T / sqrt(C)) v)` with one head; names are those of diffusers' `Attention`.
#[derive(Module, Debug)]
pub struct Attention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    /// One layer; diffusers' second one is a dropout.
    to_out: Vec<Linear>,
}

/// `y = x W^T + b` in the type of `W`.
#[derive(Module, Debug)]
struct Linear {
    /// `[out, in]`, as `PyTorch` stores it.
    weight: Param<Tensor<2>>,
    /// `[out]`.
    bias: Param<Tensor<1>>,
}

impl Attention {
    /// A block without weights.
    pub fn zeros(num_channels: usize, config: &NetworkConfig, device: &Device) -> Self {
        let square = || Linear {
            weight: lazy_zeros([num_channels, num_channels], device),
            bias: lazy_zeros([num_channels], device),
        };
        Self {
            group_norm: GroupNorm::zeros(config.norm_num_groups, num_channels, device),
            to_q: square(),
            to_k: square(),
            to_v: square(),
            to_out: vec![square()],
        }
    }

    /// `[B, C, H, W]` to the same; f32.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, c, h, w] = x.dims();
        let y = self
            .group_norm
            .forward(x.clone())
            .reshape([b, c, h * w])
            .swap_dims(1, 2); // [B, N, C]
        let query = self.to_q.forward(y.clone()) * (c as f64).powf(-0.5);
        let key = self.to_k.forward(y.clone()).swap_dims(1, 2); // [B, C, N]
        let value = self.to_v.forward(y); // [B, N, C]
        let rows = (MAX_ROWS / b).max(1);
        let attended = (0..h * w).step_by(rows).map(|start| {
            let query = query.clone().narrow(1, start, rows.min(h * w - start)); // [B, rows, C]
            let scores = query.matmul(key.clone()).cast(FloatDType::F32); // [B, rows, N]
            softmax(scores, 2).cast(value.dtype()).matmul(value.clone()) // [B, rows, C]
        });
        let mut y = Tensor::cat(attended.collect(), 1); // [B, N, C]
        for layer in &self.to_out {
            y = layer.forward(y);
        }
        x + y.swap_dims(1, 2).reshape([b, c, h, w]).cast(FloatDType::F32)
    }
}

impl Linear {
    /// `[B, N, in]` to `[B, N, out]`, in the weight's type.
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let weight = self.weight.val();
        linear(x.cast(weight.dtype()), weight.transpose(), Some(self.bias.val()))
    }
}
