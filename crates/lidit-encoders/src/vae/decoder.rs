//! Latents to pictures.

use burn::module::Module;
use burn::tensor::activation::silu;
use burn::tensor::{Device, FloatDType, Tensor};

use super::config::NetworkConfig;
use super::conv::Conv2d;
use super::group_norm::GroupNorm;
use super::mid_block::MidBlock;
use super::res_block::ResBlock;

/// Residual blocks at ever higher resolutions; names are those of diffusers' `Decoder`.
#[derive(Module, Debug)]
pub struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// The residual blocks of one resolution, and the step to the next, if there is one.
#[derive(Module, Debug)]
struct UpBlock {
    resnets: Vec<ResBlock>,
    upsamplers: Vec<Upsample>,
}

/// Doubles the sides.
#[derive(Module, Debug)]
struct Upsample {
    conv: Conv2d,
}

impl Decoder {
    /// A decoder without weights.
    pub fn zeros(config: &NetworkConfig, device: &Device) -> Self {
        let channels = &config.block_out_channels;
        let mut num_inputs = config.mid_channels();
        let up_blocks = channels.iter().enumerate().rev().map(|(index, &num_outputs)| {
            let block = UpBlock::zeros(num_inputs, num_outputs, index == 0, config, device);
            num_inputs = num_outputs;
            block
        });
        Self {
            conv_in: Conv2d::zeros(config.latent_channels, config.mid_channels(), 3, device),
            mid_block: MidBlock::zeros(config, device),
            up_blocks: up_blocks.collect(),
            conv_norm_out: GroupNorm::zeros(config.norm_num_groups, channels[0], device),
            conv_out: Conv2d::zeros(channels[0], 3, 3, device),
        }
    }

    /// `[B, C, h, w]` to `[B, 3, h * f, w * f]`, in the weights' type.
    pub fn forward(&self, latents: Tensor<4>) -> Tensor<4> {
        let x = self.conv_in.forward(latents).cast(FloatDType::F32);
        let mut x = self.mid_block.forward(x);
        for block in &self.up_blocks {
            x = block.forward(x);
        }
        self.conv_out.forward(silu(self.conv_norm_out.forward(x)))
    }
}

impl UpBlock {
    fn zeros(num_inputs: usize, num_outputs: usize, is_last: bool, config: &NetworkConfig, device: &Device) -> Self {
        let block = |index| {
            let num_inputs = if index == 0 { num_inputs } else { num_outputs };
            ResBlock::zeros(num_inputs, num_outputs, config, device)
        };
        let upsample = || Upsample {
            conv: Conv2d::zeros(num_outputs, num_outputs, 3, device),
        };
        Self {
            resnets: (0..=config.layers_per_block).map(block).collect(),
            upsamplers: (!is_last).then(upsample).into_iter().collect(),
        }
    }

    /// `[B, in, h, w]` to `[B, out, 2 h, 2 w]`, or `[B, out, h, w]` for the last.
    fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for block in &self.resnets {
            x = block.forward(x);
        }
        for upsample in &self.upsamplers {
            x = upsample.conv.forward(doubled(x)).cast(FloatDType::F32);
        }
        x
    }
}

/// Every pixel four times: `[B, C, h, w]` to `[B, C, 2 h, 2 w]`.
fn doubled(x: Tensor<4>) -> Tensor<4> {
    let [b, c, h, w] = x.dims();
    let x = x.reshape([b, c, h, 1, w, 1]).expand([b, c, h, 2, w, 2]);
    x.reshape([b, c, 2 * h, 2 * w])
}
