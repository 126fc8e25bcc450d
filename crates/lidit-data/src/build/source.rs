//! What a set can be built from.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use serde::Serialize;

use super::folder::{Folder, FolderSource};
use super::item::{Row, Survey};
use super::list::{List, ListSource};
use super::parquet::{ParquetSource, Shards};
use super::tar::{TarSource, Tars, is_tar};
use crate::error::DataError;
use crate::shard_file::Synthetic;

/// What a set is built from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildSource {
    /// Pictures with captions in files beside them.
    Folder(FolderSource),
    /// A table of paths and captions.
    List(ListSource),
    /// webdataset tars.
    Tar(TarSource),
    /// Parquet shards.
    Parquet(ParquetSource),
}

/// The kinds of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// Pictures with captions in files beside them.
    Folder,
    /// A table of paths and captions.
    List,
    /// webdataset tars.
    Tar,
    /// Parquet shards.
    Parquet,
}

impl SourceKind {
    const ALL: [Self; 4] = [Self::Folder, Self::List, Self::Tar, Self::Parquet];

    /// The name that `--from` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::List => "list",
            Self::Tar => "tar",
            Self::Parquet => "parquet",
        }
    }

    /// What a path is, by its ending; a folder, by the endings of what lies in it.
    pub fn of(path: &Path) -> Result<Self, DataError> {
        let refuse = |problem: &str| {
            Err(DataError::BuildInput {
                path: path.to_owned(),
                problem: problem.to_owned(),
            })
        };
        if !path.is_dir() {
            return match Self::of_name(path) {
                Some(kind) => Ok(kind),
                None if path.exists() => refuse("can't tell what it is by its name: say so with --from"),
                None => Err(DataError::io(path)(std::io::ErrorKind::NotFound.into())),
            };
        }
        let (mut has_tars, mut has_shards) = (false, false);
        for entry in fs::read_dir(path).map_err(DataError::io(path))? {
            let file = entry.map_err(DataError::io(path))?.path();
            has_tars |= is_tar(&file);
            has_shards |= file.extension().is_some_and(|extension| extension == "parquet");
        }
        match (has_tars, has_shards) {
            (true, true) => refuse("holds tars and Parquet files: say with --from which to read"),
            (true, false) => Ok(Self::Tar),
            (false, true) => Ok(Self::Parquet),
            (false, false) => Ok(Self::Folder),
        }
    }

    fn of_name(path: &Path) -> Option<Self> {
        if is_tar(path) {
            return Some(Self::Tar);
        }
        match path.extension()?.to_string_lossy().to_lowercase().as_str() {
            "csv" | "tsv" | "jsonl" | "ndjson" => Some(Self::List),
            "parquet" | "json" => Some(Self::Parquet),
            _ => None,
        }
    }
}

impl FromStr for SourceKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| format!("unknown kind of input `{name}`; the kinds are {known}"))
    }
}

impl BuildSource {
    /// The input's path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(source) => &source.path,
            Self::List(source) => &source.path,
            Self::Tar(source) => &source.path,
            Self::Parquet(source) => &source.path,
        }
    }

    pub(super) fn synthetic(&self) -> Synthetic {
        let asked = match self {
            Self::Folder(source) => &source.synthetic_field,
            Self::List(source) => &source.synthetic_column,
            Self::Tar(source) => &source.synthetic_field,
            Self::Parquet(source) => &source.synthetic_column,
        };
        if asked.is_some() {
            Synthetic::Column
        } else {
            Synthetic::LeftOut
        }
    }

    pub(super) fn open(&self) -> Result<Input<'_>, DataError> {
        Ok(match self {
            Self::Folder(source) => Input::Folder(Folder::open(source)?),
            Self::List(source) => Input::List(List::open(source)?),
            Self::Tar(source) => Input::Tars(Tars::open(source)?),
            Self::Parquet(source) => Input::Shards(Box::new(Shards::open(source)?)),
        })
    }
}

/// An input whose files are known.
pub(super) enum Input<'a> {
    Folder(Folder<'a>),
    List(List<'a>),
    Tars(Tars<'a>),
    Shards(Box<Shards<'a>>),
}

impl Input<'_> {
    /// Counts rows and looks for alternatives among captions, without reading a picture.
    pub fn survey(&self) -> Result<Survey, DataError> {
        match self {
            Self::Folder(input) => input.survey(),
            Self::List(input) => input.survey(),
            Self::Tars(input) => input.survey(),
            Self::Shards(input) => input.survey(),
        }
    }

    /// Hands on each wanted row with its number, ascending. Rows that are not wanted are not read.
    pub fn read(
        &self,
        wanted: &dyn Fn(u64) -> bool,
        each: &mut dyn FnMut(u64, Row) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        match self {
            Self::Folder(input) => input.read(wanted, each),
            Self::List(input) => input.read(wanted, each),
            Self::Tars(input) => input.read(wanted, each),
            Self::Shards(input) => input.read(wanted, each),
        }
    }
}
