//! `EfficientNet`-lite0 as a judge of how alike two pictures look.

use std::path::Path;

use burn::tensor::module::conv2d;
use burn::tensor::ops::{ConvOptions, PadMode};
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::EncoderError;
use crate::pth::PthFile;

/// Added to the running variances.
const BATCH_NORM_EPS: f32 = 1e-3;

/// Keeps the direction of a vector of zeros finite.
const DIRECTION_EPS: f32 = 1e-10;

/// Gives the values, row by row, of the tensor with a name and a shape.
pub type TensorSource<'a> = dyn Fn(&str, &[usize]) -> Result<Vec<f32>, EncoderError> + 'a;

/// The stages up to the last one that is looked at.
const STAGES: [Stage; 5] = [
    Stage::new(1, 3, 1, 1, 16),
    Stage::new(2, 3, 2, 6, 24),
    Stage::new(2, 5, 2, 6, 40),
    Stage::new(3, 3, 2, 6, 80),
    Stage::new(3, 5, 1, 6, 112),
];

/// Stages whose results are compared: the last of each resolution from a half to a sixteenth.
const COMPARED: [usize; 4] = [0, 1, 2, 4];

/// Blocks of one kind.
struct Stage {
    repeats: usize,
    kernel: usize,
    /// Of the first block; the others keep the size.
    stride: usize,
    expansion: usize,
    channels: usize,
}

/// The convolutions of `EfficientNet`-lite0 (Tan and Le 2019, arXiv:1905.11946; the lite family has `ReLU6` and no
/// squeeze-and-excite), frozen, with the batch norms folded in. The last stages and the head are left out.
#[derive(Debug)]
pub struct EfficientNetLite0 {
    stem: Conv,
    stages: Vec<Vec<Block>>,
}

/// A mobile inverted bottleneck: wider, depthwise, narrow again.
#[derive(Debug)]
struct Block {
    expand: Option<Conv>,
    depthwise: Conv,
    project: Conv,
    is_residual: bool,
}

/// A convolution with the padding that the network was trained with.
#[derive(Debug)]
struct Conv {
    /// `[out, in / groups, k, k]`.
    weight: Tensor<4>,
    /// `[out]`.
    bias: Tensor<1>,
    stride: usize,
    groups: usize,
}

impl Stage {
    const fn new(repeats: usize, kernel: usize, stride: usize, expansion: usize, channels: usize) -> Self {
        Self {
            repeats,
            kernel,
            stride,
            expansion,
            channels,
        }
    }
}

impl EfficientNetLite0 {
    /// Reads the `ImageNet` weights, `efficientnet-lite0-57934424.pth`.
    pub fn load(path: &Path, device: &Device) -> Result<Self, EncoderError> {
        let file = PthFile::open(path)?;
        Self::with_weights(&|name, shape| file.tensor(name, shape), device)
    }

    /// With weights from anywhere.
    pub fn with_weights(tensor: &TensorSource, device: &Device) -> Result<Self, EncoderError> {
        let reader = Reader { tensor, device };
        let stem = reader.conv("_conv_stem", "_bn0", [32, 3, 3], 2)?;
        let mut stages = Vec::new();
        let (mut num_inputs, mut number) = (32, 0);
        for stage in &STAGES {
            let mut blocks = Vec::new();
            for repeat in 0..stage.repeats {
                let stride = if repeat == 0 { stage.stride } else { 1 };
                blocks.push(reader.block(number, num_inputs, stride, stage)?);
                num_inputs = stage.channels;
                number += 1;
            }
            stages.push(blocks);
        }
        Ok(Self { stem, stages })
    }

    /// What the network sees in pictures, `[B, 3, H, W]` in [-1, 1]: `[B, 16, H / 2, W / 2]`, `[B, 24, H / 4, W / 4]`,
    /// `[B, 40, H / 8, W / 8]` and `[B, 112, H / 16, W / 16]`.
    pub fn features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        // The network was trained on (byte - 127) / 128.
        let mut x = relu6(self.stem.forward((images * 127.5 + 0.5) / 128.0));
        let mut features = Vec::with_capacity(COMPARED.len());
        for (index, stage) in self.stages.iter().enumerate() {
            for block in stage {
                x = block.forward(x);
            }
            if COMPARED.contains(&index) {
                features.push(x.clone());
            }
        }
        features
    }

    /// How different pictures look, pair by pair: `[B]`, 0 for equal ones.
    ///
    /// For each of the features: each position's channels scaled to length 1, the squared distance of the two, the mean
    /// over positions; the sum over the features. That is LPIPS with all weights 1 (Zhang et al. 2018, arXiv:1801.03924,
    /// equation 1), on this network.
    pub fn distance(&self, images: Tensor<4>, others: Tensor<4>) -> Tensor<1> {
        let pairs = self.features(images).into_iter().zip(self.features(others));
        let mut total: Option<Tensor<1>> = None;
        for (a, b) in pairs {
            let batch = a.dims()[0];
            let difference = direction(a) - direction(b);
            let distance = (difference.clone() * difference).sum_dim(1); // [B, 1, h, w]
            let mean = distance.reshape([batch as i32, -1]).mean_dim(1).reshape([batch]);
            total = Some(match total {
                Some(total) => total + mean,
                None => mean,
            });
        }
        // There is always at least one feature.
        total.unwrap_or_else(|| Tensor::zeros([0], &self.stem.bias.device()))
    }
}

impl Block {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut y = x.clone();
        if let Some(expand) = &self.expand {
            y = relu6(expand.forward(y));
        }
        y = relu6(self.depthwise.forward(y));
        y = self.project.forward(y);
        if self.is_residual { x + y } else { y }
    }
}

impl Conv {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let kernel = self.weight.dims()[3];
        // TensorFlow's "same" padding of an even side: the odd one goes below and to the right.
        let total = kernel - self.stride.min(kernel);
        let (before, after) = (total / 2, total - total / 2);
        let padded = if total > 0 {
            x.pad(
                [(0, 0), (0, 0), (before, after), (before, after)],
                PadMode::Constant(0.0),
            )
        } else {
            x
        };
        let options = ConvOptions::new([self.stride; 2], [0, 0], [1, 1], self.groups);
        conv2d(padded, self.weight.clone(), Some(self.bias.clone()), options)
    }
}

/// Reads layers by name.
struct Reader<'a> {
    tensor: &'a TensorSource<'a>,
    device: &'a Device,
}

impl Reader<'_> {
    fn block(&self, number: usize, num_inputs: usize, stride: usize, stage: &Stage) -> Result<Block, EncoderError> {
        let name = |part: &str| format!("_blocks.{number}.{part}");
        let width = num_inputs * stage.expansion;
        let expand = if stage.expansion > 1 {
            Some(self.conv(&name("_expand_conv"), &name("_bn0"), [width, num_inputs, 1], 1)?)
        } else {
            None
        };
        let depthwise = [width, 1, stage.kernel];
        Ok(Block {
            expand,
            depthwise: self.conv(&name("_depthwise_conv"), &name("_bn1"), depthwise, stride)?,
            project: self.conv(&name("_project_conv"), &name("_bn2"), [stage.channels, width, 1], 1)?,
            is_residual: stride == 1 && num_inputs == stage.channels,
        })
    }

    /// A convolution `[out, in / groups, k]` and the batch norm behind it as one. It is depthwise where `in / groups` is 1.
    fn conv(
        &self,
        conv: &str,
        norm: &str,
        [num_outputs, num_inputs, kernel]: [usize; 3],
        stride: usize,
    ) -> Result<Conv, EncoderError> {
        let shape = [num_outputs, num_inputs, kernel, kernel];
        let mut weight = (self.tensor)(&format!("{conv}.weight"), &shape)?;
        let statistic = |part: &str| (self.tensor)(&format!("{norm}.{part}"), &[num_outputs]);
        let [gain, offset, mean, variance] = [
            statistic("weight")?,
            statistic("bias")?,
            statistic("running_mean")?,
            statistic("running_var")?,
        ];
        let mut bias = Vec::with_capacity(num_outputs);
        for (out, row) in weight.chunks_mut(num_inputs * kernel * kernel).enumerate() {
            let scale = gain[out] / (variance[out] + BATCH_NORM_EPS).sqrt();
            for value in row {
                *value *= scale;
            }
            bias.push(offset[out] - mean[out] * scale);
        }
        Ok(Conv {
            weight: Tensor::from_data(TensorData::new(weight, shape), (self.device, DType::F32)),
            bias: Tensor::from_data(TensorData::new(bias, [num_outputs]), (self.device, DType::F32)),
            stride,
            groups: if num_inputs == 1 { num_outputs } else { 1 },
        })
    }
}

fn relu6(x: Tensor<4>) -> Tensor<4> {
    x.clamp(0.0, 6.0)
}

/// Each position's channels, scaled to length 1.
fn direction(x: Tensor<4>) -> Tensor<4> {
    let square = (x.clone() * x.clone()).sum_dim(1); // [B, 1, h, w]
    x * square.add_scalar(DIRECTION_EPS).sqrt().recip()
}
