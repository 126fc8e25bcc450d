//! `lidit vae train`: a small autoencoder from a set of pictures.

use std::path::PathBuf;

use anyhow::Result;
use lidit_train::{Ending, Start, Stop, VaeRequest, train_vae};
use serde_json::json;

use crate::device::DeviceArg;
use crate::fetch;
use crate::outcome::{Exit, Outcome};

/// Arguments of `lidit vae train`.
#[derive(clap::Args)]
pub struct Args {
    /// The config, such as configs/vae/emoji.toml.
    config: PathBuf,
    /// The folder to make: config.json and weights in diffusers' format, metrics, and what --resume needs.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Change one key: `--set train.lr=3e-4`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Optimizer steps [default: the config's train.steps].
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Continue the training in the folder with its own config; starts it if there is none yet.
    #[arg(long)]
    resume: bool,
    /// cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu")]
    device: DeviceArg,
}

/// Trains, or continues to, and writes the autoencoder.
pub fn run(args: &Args) -> Result<Outcome> {
    let stop = Stop::on_signals()?;
    let request = VaeRequest {
        config: args.config.clone(),
        sets: &args.sets,
        steps: args.steps,
        out: args.out.clone(),
        start: if args.resume { Start::Resume } else { Start::Fresh },
        device: args.device.open(0)?,
        locate: &fetch::resolve_model,
        logged: &|record| {
            eprintln!(
                "step {}: loss {:.4}, reconstruction {:.4}, perceptual {:.4}, KL {:.3}, PSNR {:.2} dB, {:.0} s",
                record.step,
                record.loss,
                record.reconstruction,
                record.perceptual,
                record.kl,
                record.psnr,
                record.seconds
            );
        },
    };
    let ended = train_vae(&request, &stop)?;
    let (exit, how) = match ended.ending {
        Ending::Stopped => (Exit::Stopped, "stopped, resumable with --resume"),
        _ => (Exit::Done, "done"),
    };
    let psnr = ended.last.as_ref().map(|record| record.psnr);
    let loss = ended.last.as_ref().map(|record| record.loss);
    Ok(Outcome {
        text: format!("{how} at step {}: {}", ended.step, args.out.display()),
        json: json!({ "step": ended.step, "loss": loss, "psnr": psnr, "out": args.out }),
        exit,
    })
}
