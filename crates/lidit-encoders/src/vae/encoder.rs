//! Pictures to the moments of their latents.

use burn::module::Module;
use burn::tensor::activation::silu;
use burn::tensor::{Device, FloatDType, Tensor};

use super::config::NetworkConfig;
use super::conv::Conv2d;
use super::group_norm::GroupNorm;
use super::mid_block::MidBlock;
use super::res_block::ResBlock;

/// Residual blocks at ever lower resolutions; names are those of diffusers' `Encoder`.
#[derive(Module, Debug)]
pub struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// The residual blocks of one resolution, and the step to the next, if there is one.
#[derive(Module, Debug)]
struct DownBlock {
    resnets: Vec<ResBlock>,
    downsamplers: Vec<Downsample>,
}

/// Halves the sides.
#[derive(Module, Debug)]
struct Downsample {
    conv: Conv2d,
}

impl Encoder {
    /// An encoder without weights.
    pub fn zeros(config: &NetworkConfig, device: &Device) -> Self {
        let channels = &config.block_out_channels;
        let mut num_inputs = channels[0];
        let down_blocks = channels.iter().enumerate().map(|(index, &num_outputs)| {
            let block = DownBlock::zeros(num_inputs, num_outputs, index + 1 == channels.len(), config, device);
            num_inputs = num_outputs;
            block
        });
        Self {
            conv_in: Conv2d::zeros(3, channels[0], 3, device),
            down_blocks: down_blocks.collect(),
            mid_block: MidBlock::zeros(config, device),
            conv_norm_out: GroupNorm::zeros(config.norm_num_groups, config.mid_channels(), device),
            conv_out: Conv2d::zeros(config.mid_channels(), 2 * config.latent_channels, 3, device),
        }
    }

    /// `[B, 3, H, W]` to means and log-variances, `[B, 2 C, H / f, W / f]`, in the weights' type.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let mut x = self.conv_in.forward(images).cast(FloatDType::F32);
        for block in &self.down_blocks {
            x = block.forward(x);
        }
        let x = self.mid_block.forward(x);
        self.conv_out.forward(silu(self.conv_norm_out.forward(x)))
    }
}

impl DownBlock {
    fn zeros(num_inputs: usize, num_outputs: usize, is_last: bool, config: &NetworkConfig, device: &Device) -> Self {
        let block = |index| {
            let num_inputs = if index == 0 { num_inputs } else { num_outputs };
            ResBlock::zeros(num_inputs, num_outputs, config, device)
        };
        let downsample = || Downsample {
            conv: Conv2d::zeros(num_outputs, num_outputs, 3, device),
        };
        Self {
            resnets: (0..config.layers_per_block).map(block).collect(),
            downsamplers: (!is_last).then(downsample).into_iter().collect(),
        }
    }

    /// `[B, in, H, W]` to `[B, out, H / 2, W / 2]`, or `[B, out, H, W]` for the last.
    fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for block in &self.resnets {
            x = block.forward(x);
        }
        for downsample in &self.downsamplers {
            x = downsample.conv.halve(x).cast(FloatDType::F32);
        }
        x
    }
}
