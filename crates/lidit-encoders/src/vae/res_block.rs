//! The residual block that the network is built of.

use burn::module::Module;
use burn::tensor::activation::silu;
use burn::tensor::{Device, FloatDType, Tensor};

use super::config::NetworkConfig;
use super::conv::Conv2d;
use super::group_norm::GroupNorm;

/// `shortcut(x) + conv(silu(norm(conv(silu(norm(x))))))`; names are those of diffusers' `ResnetBlock2D`.
#[derive(Module, Debug)]
pub struct ResBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    /// 1 x 1, where the number of channels changes.
    conv_shortcut: Option<Conv2d>,
}

impl ResBlock {
    /// A block without weights.
    pub fn zeros(num_inputs: usize, num_outputs: usize, config: &NetworkConfig, device: &Device) -> Self {
        let norm = |channels| GroupNorm::zeros(config.norm_num_groups, channels, device);
        Self {
            norm1: norm(num_inputs),
            conv1: Conv2d::zeros(num_inputs, num_outputs, 3, device),
            norm2: norm(num_outputs),
            conv2: Conv2d::zeros(num_outputs, num_outputs, 3, device),
            conv_shortcut: (num_inputs != num_outputs).then(|| Conv2d::zeros(num_inputs, num_outputs, 1, device)),
        }
    }

    /// `[B, in, H, W]` to `[B, out, H, W]`; f32.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.conv1.forward(silu(self.norm1.forward(x.clone()))); // [B, out, H, W]
        let y = self.conv2.forward(silu(self.norm2.forward(y)));
        let x = match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x).cast(FloatDType::F32), // [B, out, H, W]
            None => x,
        };
        x + y.cast(FloatDType::F32)
    }
}
