//! Reading a run config: includes in order, then the file's own keys, then the stage's, then `--set`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::cache;
use crate::config::RunConfig;
use crate::stages::{STAGES, is_stage_key, select_stage, stage_tables};

/// Keys whose text is a path, resolved against the file that holds them.
const PATH_KEYS: [&str; 6] = [
    "data.path",
    "encoders.features",
    "start.run",
    "vae.kl.model",
    "validation.data",
    "validation.features",
];

/// Starts a path inside the cache folder, wherever that is.
const CACHE_PREFIX: &str = "$LIDIT_CACHE/";

/// Deepest chain of includes; more is a circle.
const MAX_INCLUDE_DEPTH: usize = 8;

/// A config file with its includes, not yet typed.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    table: Table,
}

impl ConfigFile {
    /// Reads `path` and what it includes.
    ///
    /// # Errors
    /// Names the file: unreadable or malformed ones, circular includes.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_from(path, &|path| {
            std::fs::read_to_string(path).with_context(|| format!("reading config {}", path.display()))
        })
    }

    /// As [`read`](Self::read), for files that `read` holds, such as the ones built into the binary.
    pub fn read_from(path: &Path, read: &dyn Fn(&Path) -> Result<String>) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            table: read_nested(path, read, 0)?,
        })
    }

    /// A file that holds `config`, called `path` in messages.
    pub(crate) fn of(config: &RunConfig, path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            table: Table::try_from(config).context("writing the config as TOML")?,
        })
    }

    /// This file with `piece` over it: tables merge as those of a file do over its includes, and `include` and paths in it
    /// are read as if it stood in the file `written_in`.
    ///
    /// # Errors
    /// An include can't be read.
    pub fn with(&self, piece: Table, written_in: &Path) -> Result<Self> {
        let read =
            |path: &Path| std::fs::read_to_string(path).with_context(|| format!("reading config {}", path.display()));
        let mut table = self.table.clone();
        merge(&mut table, with_includes(piece, written_in, &read, 0)?);
        Ok(Self {
            path: self.path.clone(),
            table,
        })
    }

    /// The run that this file describes with `sets` (each `key.path=value`). Of a file with stages, the one that the set
    /// `stage=NAME` names.
    ///
    /// # Errors
    /// Names the file and the key: unknown or missing keys, wrong types, impossible combinations.
    pub fn run(&self, sets: &[String]) -> Result<RunConfig> {
        RunConfig::from_table(self.table.clone(), sets).with_context(|| format!("in config {}", self.path.display()))
    }

    /// The file as another config than a run's, with `sets` applied.
    ///
    /// # Errors
    /// Names the file and the key.
    pub fn typed<T: DeserializeOwned>(&self, sets: &[String]) -> Result<T> {
        let mut table = self.table.clone();
        let read = || {
            for set in sets {
                apply_set(&mut table, set)?;
            }
            serde_path_to_error::deserialize(Value::Table(table))
                .map_err(|error| anyhow!("key `{}`: {}", error.path(), error.inner().message()))
        };
        read().with_context(|| format!("in config {}", self.path.display()))
    }

    /// The names of its stages, in order; none in a file that is one run.
    pub fn stages(&self) -> Result<Vec<String>> {
        let stages = stage_tables(&self.table).with_context(|| format!("in config {}", self.path.display()))?;
        Ok(stages.into_iter().map(|(name, _)| name).collect())
    }
}

impl RunConfig {
    /// The run that the file `path` describes, with `sets` (each `key.path=value`): see [`ConfigFile`].
    pub fn load(path: &Path, sets: &[String]) -> Result<Self> {
        ConfigFile::read(path)?.run(sets)
    }

    pub(crate) fn from_table(mut table: Table, sets: &[String]) -> Result<Self> {
        let (stage_sets, own_sets): (Vec<&String>, Vec<&String>) = sets.iter().partition(|set| is_stage_key(set));
        for set in stage_sets {
            apply_set(&mut table, set)?;
        }
        let mut table = select_stage(table)?;
        for set in own_sets {
            apply_set(&mut table, set)?;
        }
        let config: Self = serde_path_to_error::deserialize(Value::Table(table))
            .map_err(|error| anyhow!("key `{}`: {}", error.path(), error.inner().message()))?;
        config.validate()?;
        Ok(config)
    }
}

/// One file's table over its includes' tables. Paths in it are made absolute on the way.
fn read_nested(path: &Path, read: &dyn Fn(&Path) -> Result<String>, depth: usize) -> Result<Table> {
    if depth > MAX_INCLUDE_DEPTH {
        bail!(
            "config {} is included more than {MAX_INCLUDE_DEPTH} deep: does it include itself?",
            path.display()
        );
    }
    let mut own: Table = read(path)?
        .parse()
        .with_context(|| format!("parsing config {}", path.display()))?;
    if let Some(Value::Array(stages)) = own.get_mut(STAGES) {
        for stage in stages.iter_mut().filter_map(Value::as_table_mut) {
            *stage = with_includes(std::mem::take(stage), path, read, depth)?;
        }
    }
    with_includes(own, path, read, depth)
}

/// A table of the file `path` over the tables that it includes.
fn with_includes(mut own: Table, path: &Path, read: &dyn Fn(&Path) -> Result<String>, depth: usize) -> Result<Table> {
    let folder = path.parent().unwrap_or(Path::new(""));
    resolve_paths(&mut own, folder)?;
    let mut merged = Table::new();
    for include in take_includes(&mut own, path)? {
        merge(&mut merged, read_nested(&folder.join(include), read, depth + 1)?);
    }
    merge(&mut merged, own);
    Ok(merged)
}

fn take_includes(table: &mut Table, path: &Path) -> Result<Vec<String>> {
    match table.remove("include") {
        None => Ok(Vec::new()),
        Some(value) => value
            .try_into()
            .with_context(|| format!("key `include` in {}: it must be a list of file names", path.display())),
    }
}

/// Tables merge key by key, but one of another `kind` has other keys and replaces the whole table, as anything else does.
pub(crate) fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) if !is_another_kind(base, &over) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn is_another_kind(base: &Table, over: &Table) -> bool {
    matches!((base.get("kind"), over.get("kind")), (Some(a), Some(b)) if a != b)
}

fn resolve_paths(table: &mut Table, folder: &Path) -> Result<()> {
    for key in PATH_KEYS {
        if let Some(Value::String(text)) = find(table, key) {
            *text = resolve(text, folder)?;
        }
    }
    if let Some(Value::Array(sources)) = find(table, "data.sources") {
        for source in sources {
            if let Some(Value::String(text)) = source.get_mut("path") {
                *text = resolve(text, folder)?;
            }
        }
    }
    // A bare word is a fetched name, anything with a slash is a path.
    if let Some(Value::String(text)) = find(table, "loss.features")
        && text.contains('/')
    {
        *text = resolve(text, folder)?;
    }
    let Some(Value::Array(llms)) = find(table, "encoders.llm") else {
        return Ok(());
    };
    for llm in llms {
        // A bare word is a fetched model's name, anything with a slash is a path.
        if let Some(Value::String(text)) = llm.get_mut("model")
            && text.contains('/')
        {
            *text = resolve(text, folder)?;
        }
    }
    Ok(())
}

/// An empty path stays empty, it takes a key back; a URL is no path.
fn resolve(text: &str, folder: &Path) -> Result<String> {
    if text.is_empty() || text.contains("://") {
        return Ok(text.to_owned());
    }
    let path = match text.strip_prefix(CACHE_PREFIX) {
        Some(rest) => cache::dir()?.join(rest),
        None => normalize(&std::path::absolute(folder.join(text))?),
    };
    path.into_os_string()
        .into_string()
        .map_err(|path| anyhow!("path {} is not valid UTF-8", path.display()))
}

/// Folds `a/../b`, so that a resolved config reads well. Text only: links are left alone.
fn normalize(path: &Path) -> PathBuf {
    let mut folded = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                folded.pop();
            }
            std::path::Component::CurDir => {}
            part => folded.push(part),
        }
    }
    folded
}

fn find<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut Value> {
    match key.split_once('.') {
        None => table.get_mut(key),
        Some((head, rest)) => find(table.get_mut(head)?.as_table_mut()?, rest),
    }
}

/// Applies one `key.path=value`; the value is TOML, or else plain text.
fn apply_set(table: &mut Table, set: &str) -> Result<()> {
    let (key, value) = split_set(set)?;
    let mut value = parse_value(value);
    let in_stage = key.strip_prefix("stages.").and_then(|rest| rest.split_once('.'));
    if PATH_KEYS.contains(&in_stage.map_or(key, |(_, key)| key))
        && let Value::String(text) = &mut value
    {
        *text = resolve(text, &std::env::current_dir()?)?;
    }
    insert(table, key, value).with_context(|| format!("in --set {set}"))
}

/// The key and the text of a `--set key.path=value`.
pub fn split_set(set: &str) -> Result<(&str, &str)> {
    set.split_once('=')
        .map(|(key, value)| (key.trim(), value.trim()))
        .filter(|(key, _)| !key.is_empty())
        .with_context(|| format!("--set {set}: write it as key.path=value"))
}

fn parse_value(text: &str) -> Value {
    format!("value = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn insert(table: &mut Table, key: &str, value: Value) -> Result<()> {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
            Ok(())
        }
        Some((head, rest)) => {
            let inner = table.entry(head).or_insert_with(|| Value::Table(Table::new()));
            match inner {
                Value::Table(inner) => insert(inner, rest, value),
                Value::Array(list) => insert_indexed(list, head, rest, value),
                // One of several kinds: `vae = "identity"` becomes `vae.kl.model = ..`.
                Value::String(_) => {
                    let mut table = Table::new();
                    insert(&mut table, rest, value)?;
                    *inner = Value::Table(table);
                    Ok(())
                }
                _ => bail!("`{head}` is a value, not a table"),
            }
        }
    }
}

/// `encoders.llm.0.layer = -2` reaches into a list.
fn insert_indexed(list: &mut [Value], head: &str, key: &str, value: Value) -> Result<()> {
    let (index, rest) = key.split_once('.').unwrap_or((key, ""));
    let len = list.len();
    let slot = index
        .parse::<usize>()
        .ok()
        .and_then(|index| list.get_mut(index))
        .with_context(|| format!("`{head}` is a list of {len}; `{index}` is not one of its places"))?;
    if rest.is_empty() {
        *slot = value;
        return Ok(());
    }
    match slot {
        Value::Table(inner) => insert(inner, rest, value),
        _ => bail!("`{head}.{index}` is a value, not a table"),
    }
}
