//! `lidit quickstart`: fetch, build, train and draw the built-in run.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use lidit_data::{EmojiBuild, EmojiGroup, build_emoji};
use lidit_dist::World;
use lidit_train::{ConfigFile, Ending, RunRequest, Start, Stop, View, ViewRequest, cache};
use serde_json::json;

use crate::device::DeviceArg;
use crate::outcome::{Exit, Outcome};
use crate::{fetch, sample};

/// The built-in run and the parts it includes, as they lie under `configs/`.
const CONFIGS: [(&str, &str); 11] = [
    (
        "run/quickstart.toml",
        include_str!("../../../configs/run/quickstart.toml"),
    ),
    ("model/nano.toml", include_str!("../../../configs/model/nano.toml")),
    ("model/pixels.toml", include_str!("../../../configs/model/pixels.toml")),
    (
        "model/refined.toml",
        include_str!("../../../configs/model/refined.toml"),
    ),
    ("data/stream.toml", include_str!("../../../configs/data/stream.toml")),
    ("data/emoji.toml", include_str!("../../../configs/data/emoji.toml")),
    (
        "data/emoji-few.toml",
        include_str!("../../../configs/data/emoji-few.toml"),
    ),
    (
        "encoders/smollm2-gemma3.toml",
        include_str!("../../../configs/encoders/smollm2-gemma3.toml"),
    ),
    (
        "encoders/instruction.toml",
        include_str!("../../../configs/encoders/instruction.toml"),
    ),
    ("train/adamw.toml", include_str!("../../../configs/train/adamw.toml")),
    (
        "train/rectified-flow.toml",
        include_str!("../../../configs/train/rectified-flow.toml"),
    ),
];

/// The language models it conditions on.
const MODELS: [&str; 2] = ["smollm2", "gemma3"];

/// Arguments of `lidit quickstart`.
#[derive(clap::Args)]
pub struct Args {
    /// Where the run is kept; an interrupted one is continued.
    #[arg(long, value_name = "DIR", default_value = "runs/quickstart")]
    run_dir: PathBuf,
    /// Change one key of the built-in run: `--set train.steps=2000`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu")]
    device: DeviceArg,
}

/// From nothing to a grid of drawn and real pictures.
pub fn run(args: &Args) -> Result<Outcome> {
    let stop = Stop::on_signals()?;
    timed("fetch", || {
        fetch::run(&fetch::Args {
            names: MODELS.map(str::to_owned).to_vec(),
        })
    })?;
    timed("data", || build_data(&cache::dir()?.join("data/emoji-32-nature")))?;
    let ended = timed("train", || {
        let request = RunRequest {
            load: &built_in,
            sets: &args.sets,
            run_dir: args.run_dir.clone(),
            start: Start::Resume,
            view: View::choose(ViewRequest::Auto)?,
            device: args.device.open(0)?,
            device_name: args.device.to_string(),
            locate: &fetch::resolve_model,
        };
        lidit_train::train(&request, &World::solo(), &stop)
    })?;
    if ended.ending == Ending::Stopped {
        let text = format!("stopped at step {}; the same command goes on from there", ended.step);
        return Ok(Outcome {
            text,
            json: json!({ "run_dir": args.run_dir, "steps": ended.step }),
            exit: Exit::Stopped,
        });
    }
    let drawn = timed("sample", || {
        sample::own_prompts(&args.run_dir, args.run_dir.join("pictures"), args.device)
    })?;
    let images = drawn.json["images"].clone();
    let grid = drawn.json["grid"].clone();
    let text = format!("drawn above real: {}", grid.as_str().unwrap_or_default());
    Ok(Outcome::done(
        text,
        json!({ "run_dir": args.run_dir, "steps": ended.step, "loss": ended.loss, "images": images, "grid": grid }),
    ))
}

fn built_in() -> Result<ConfigFile> {
    ConfigFile::read_from(Path::new("run/quickstart.toml"), &|path| {
        let wanted = path
            .to_string_lossy()
            .replace("run/../", "")
            .replace("data/../", "")
            .replace("encoders/../", "");
        CONFIGS
            .iter()
            .find(|(name, _)| *name == wanted)
            .map(|(_, text)| (*text).to_owned())
            .with_context(|| format!("{wanted} is not built into this binary"))
    })
}

/// The picture set of the built-in run, once.
fn build_data(out: &Path) -> Result<()> {
    if out.join("manifest.json").exists() {
        return Ok(());
    }
    let build = EmojiBuild {
        size: Some(32),
        groups: vec![EmojiGroup::Animals, EmojiGroup::Food],
        limit: None,
        rows_per_shard: 128,
        recipe: "data build emoji --size 32 --groups animals,food".to_owned(),
    };
    build_emoji(out, &build, |_, _| {}).with_context(|| format!("building {}", out.display()))?;
    Ok(())
}

/// Runs one part and says how long it took.
fn timed<T>(part: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    let done = work()?;
    eprintln!("{part}: {:.1} s", begun.elapsed().as_secs_f64());
    Ok(done)
}
