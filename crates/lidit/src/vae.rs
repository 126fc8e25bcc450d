//! `lidit vae`: autoencoders in diffusers' format.

mod decode;
mod encode;
mod tensor;
mod train;

use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::Device;
use clap::Subcommand;
use lidit_encoders::AutoencoderKl;
use lidit_encoders::vae::Tiling;

use crate::device::DeviceArg;
use crate::encode::Precision;
use crate::outcome::Outcome;

/// Arguments of `lidit vae`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Pictures to latents.
    Encode(encode::Args),
    /// Latents to pictures.
    Decode(decode::Args),
    /// Train a small autoencoder on a set of pictures.
    Train(train::Args),
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Command::Encode(args) => encode::run(args),
        Command::Decode(args) => decode::run(args),
        Command::Train(args) => train::run(args),
    }
}

/// Which autoencoder, and how it is computed.
#[derive(clap::Args)]
struct ModelArgs {
    /// A folder of diffusers' `AutoencoderKL` (config.json and safetensors), or of a pipeline that has one in `vae`.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu")]
    device: DeviceArg,
    /// What convolutions and matrix products are computed in.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// Compute large pictures in square tiles of this side, which bounds the memory [default: each picture whole].
    #[arg(long, value_name = "PIXELS")]
    tile: Option<usize>,
}

/// An autoencoder that is ready to work.
struct Model {
    autoencoder: AutoencoderKl,
    tiling: Option<Tiling>,
    device: Device,
}

impl ModelArgs {
    fn load(&self) -> Result<Model> {
        let device = self.device.open(0)?;
        let autoencoder = AutoencoderKl::load(&self.model, self.precision.into(), &device)?;
        let tiling = self.tile.map(|tile| autoencoder.tiling(tile)).transpose()?;
        Ok(Model {
            autoencoder,
            tiling,
            device,
        })
    }
}
