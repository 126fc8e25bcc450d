//! Stacks of pictures or latents on the host, and the safetensors files that hold them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{DType, Device, Tensor, TensorData};
use lidit_encoders::{HostTensor, read_tensor};
use safetensors::tensor::{Dtype, TensorView};

/// `[count, channels, height, width]`, row by row.
pub struct Stack {
    pub shape: [usize; 4],
    pub values: Vec<f32>,
}

impl Stack {
    /// The tensor `name` of a safetensors file, which must have four dimensions and only finite numbers.
    pub fn read(path: &Path, name: &str) -> Result<Self> {
        let Some(HostTensor { shape, values }) = read_tensor(path, name)? else {
            bail!("{}: no tensor `{name}`", path.display());
        };
        let Ok(shape) = <[usize; 4]>::try_from(shape.as_slice()) else {
            bail!("{}: `{name}` has shape {shape:?}, not [B, C, H, W]", path.display());
        };
        ensure!(
            shape.iter().all(|&side| side > 0),
            "{}: `{name}` has shape {shape:?}: it is empty",
            path.display()
        );
        ensure!(
            values.iter().all(|value| value.is_finite()),
            "{}: `{name}` has numbers that are not finite",
            path.display()
        );
        Ok(Self { shape, values })
    }

    /// The stack of equally large tensors, each `[1, C, H, W]`.
    pub fn gather(parts: Vec<Tensor<4>>) -> Result<Self> {
        let mut stack = Self {
            shape: [0; 4],
            values: Vec::new(),
        };
        for part in parts {
            let [count, rest @ ..] = part.dims();
            stack.shape = [stack.shape[0] + count, rest[0], rest[1], rest[2]];
            let data = part.try_into_data().context("reading a result from the device")?;
            stack.values.extend(data.iter::<f32>());
        }
        Ok(stack)
    }

    /// Writes a file with this as its only tensor.
    pub fn write(&self, path: &Path, name: &str) -> Result<()> {
        let bytes: Vec<u8> = self.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, self.shape.to_vec(), &bytes)?;
        let file = safetensors::serialize(BTreeMap::from([(name, view)]), None)?;
        std::fs::write(path, file).with_context(|| format!("writing {}", path.display()))
    }

    /// Each one alone, `[1, C, H, W]`, on the device.
    pub fn tensors<'a>(&'a self, device: &'a Device) -> impl Iterator<Item = Tensor<4>> + 'a {
        let [_, c, h, w] = self.shape;
        self.values
            .chunks(c * h * w)
            .map(move |values| Tensor::from_data(TensorData::new(values.to_vec(), [1, c, h, w]), (device, DType::F32)))
    }
}
