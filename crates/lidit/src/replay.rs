//! `lidit replay RUN --step N`: one step again, and who broke it.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use lidit_train::RunDir;
use lidit_train::replay::{Replay, ReplayRequest, replay};

use crate::device::DeviceArg;
use crate::fetch;
use crate::outcome::Outcome;

/// Arguments of `lidit replay`.
#[derive(clap::Args)]
pub struct Args {
    /// The run directory; nothing in it is changed.
    run: PathBuf,
    /// The step, counted from 1 as in metrics.jsonl.
    #[arg(long)]
    step: u64,
    /// cpu, cuda or cuda:NUMBER. The one that the run had gives its bits.
    #[arg(long, default_value = "cpu")]
    device: DeviceArg,
}

/// Goes through the step on this one process, all ranks in turn.
pub fn run(args: &Args) -> Result<Outcome> {
    let run = RunDir::find(&args.run)?;
    let done = replay(&ReplayRequest {
        run: &run,
        step: args.step,
        device: args.device.open(0)?,
        device_name: args.device.to_string(),
        locate: &fetch::resolve_model,
        on_step: &|step| eprintln!("going through step {step}"),
    })?;
    Ok(Outcome::done(text(&done)?, serde_json::to_value(&done)?))
}

fn text(done: &Replay) -> Result<String> {
    let mut text = format!(
        "step {}, {} ranks in turn, from step {}: loss {:.6}, gradient norm {:.6}",
        done.step, done.world_size, done.from, done.loss, done.grad_norm
    );
    match (done.recorded, done.equal) {
        (Some(then), Some(true)) => write!(text, "\nas recorded, to the bit: loss {:.6}", then.loss)?,
        (Some(then), _) => write!(
            text,
            "\nNOT as recorded: loss {:.6}, gradient norm {:.6}; largest relative difference {:.1e}",
            then.loss,
            then.grad_norm,
            done.largest_difference.unwrap_or(f64::NAN)
        )?,
        (None, _) => write!(text, "\nthe run has recorded no numbers of this step (train.log_every)")?,
    }
    for batch in &done.micro_batches {
        let equal = match batch.equal {
            Some(true) => ", gradient equal to the bit",
            Some(false) => ", gradient NOT equal",
            None => "",
        };
        let (loss, norm) = (batch.report.loss, batch.report.grad_norm);
        write!(
            text,
            "\nrank {}, micro-batch {}: loss {loss:.6}, gradient norm {norm:.6}{equal}",
            batch.rank, batch.micro_batch
        )?;
    }
    if let Some(sample) = &done.sample {
        write!(
            text,
            "\nsample {} (epoch {}), row {} of {}: loss {:.6}, gradient norm {:.6}, caption `{}`",
            sample.id,
            sample.epoch,
            sample.row,
            sample.shard.display(),
            sample.loss,
            sample.grad_norm,
            sample.caption
        )?;
    }
    if done.samples.len() > 1 {
        write!(text, "\nall samples that break it alone: {:?}", done.samples)?;
    }
    if let (Some(layer), Some(pass)) = (&done.layer, done.pass) {
        write!(text, "\nbegan in {layer}, {pass}")?;
    }
    for note in &done.notes {
        write!(text, "\nnote: {note}")?;
    }
    Ok(text)
}
