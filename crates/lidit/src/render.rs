//! `lidit render slurm|kubernetes LAUNCH.toml`: the job script or manifest of a run, from one typed launch config.

mod kubernetes;
mod launch_config;
mod manifest;
mod slurm;
mod yaml;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use self::launch_config::LaunchConfig;
use crate::outcome::Outcome;

/// Arguments of `lidit render`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    target: Target,
}

#[derive(clap::Subcommand)]
enum Target {
    /// Write a script for sbatch, NAME.sbatch beside NAME.toml.
    Slurm(Launch),
    /// Write a manifest for kubectl, NAME.yaml beside NAME.toml.
    Kubernetes(Launch),
}

#[derive(clap::Args)]
struct Launch {
    /// The launch config, such as launch/slurm.toml.
    config: PathBuf,
    /// Folder for what is written [default: the config's].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// One file to write.
struct Rendered {
    name: String,
    text: String,
}

/// Renders, and says what comes next.
pub fn run(args: &Args) -> Result<Outcome> {
    let (Target::Slurm(launch) | Target::Kubernetes(launch)) = &args.target;
    let config = LaunchConfig::read(&launch.config)?;
    let rendered = match &args.target {
        Target::Slurm(_) => slurm::render(&config, &launch.config),
        Target::Kubernetes(_) => kubernetes::render(&config, &launch.config),
    };
    let (rendered, next) = rendered.with_context(|| format!("in launch config {}", launch.config.display()))?;
    let beside = launch.config.parent().unwrap_or(Path::new(""));
    let folder = launch.out.as_deref().unwrap_or(beside);
    fs::create_dir_all(folder_or_here(folder)).with_context(|| format!("making {}", folder.display()))?;
    let mut files = Vec::with_capacity(rendered.len());
    for Rendered { name, text } in rendered {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        files.push(path);
    }
    let list: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    Ok(Outcome::done(
        format!("{}\n{next}", list.join("\n")),
        json!({ "files": files }),
    ))
}

fn folder_or_here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    }
}
