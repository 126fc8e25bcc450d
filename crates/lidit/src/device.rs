//! `--device cpu|cuda[:i]`.

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use lidit_train::Ranks;

#[cfg(feature = "cuda")]
use crate::{cuda, doctor::gpu};

/// A device as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceArg {
    /// The CPU (burn-flex).
    Cpu,
    /// A CUDA GPU; the process's local rank chooses when none is named.
    Cuda(Option<usize>),
}

impl std::str::FromStr for DeviceArg {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(None)),
            Some(("cuda", index)) => Ok(Self::Cuda(Some(
                index
                    .parse()
                    .with_context(|| format!("`{index}` is not a GPU's number"))?,
            ))),
            _ => bail!("`{text}` is not cpu, cuda or cuda:NUMBER"),
        }
    }
}

impl std::fmt::Display for DeviceArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(None) => write!(f, "cuda"),
            Self::Cuda(Some(index)) => write!(f, "cuda:{index}"),
        }
    }
}

impl DeviceArg {
    /// So many ranks on such devices.
    pub fn ranks(self, world_size: u64) -> Ranks {
        Ranks {
            world_size,
            on_cpu: self == Self::Cpu,
        }
    }

    /// Opens the device, without autodiff.
    ///
    /// # Errors
    /// The binary has no CUDA, or this machine lacks what a GPU needs: each thing by name, and where it was looked for.
    pub fn open(self, local_rank: usize) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda(_) => open_cuda(self, local_rank),
        }
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(device: DeviceArg, local_rank: usize) -> Result<Device> {
    let missing = gpu::missing(device, local_rank);
    if !missing.is_empty() {
        bail!("--device {device} can't be used here: {}", missing.join("; "));
    }
    cuda::configure();
    Ok(Device::cuda(gpu::ordinal(device, local_rank)))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_device: DeviceArg, _local_rank: usize) -> Result<Device> {
    bail!("this lidit was built without CUDA: build it with `bash launch/build-cuda.sh`, or use --device cpu")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_parse_and_typos_are_named() {
        assert_eq!("cpu".parse::<DeviceArg>().unwrap(), DeviceArg::Cpu);
        assert_eq!("cuda".parse::<DeviceArg>().unwrap(), DeviceArg::Cuda(None));
        assert_eq!("cuda:3".parse::<DeviceArg>().unwrap(), DeviceArg::Cuda(Some(3)));
        for typo in ["gpu", "cuda:x", "cpu:0", ""] {
            assert!(typo.parse::<DeviceArg>().is_err(), "{typo}");
        }
    }
}
