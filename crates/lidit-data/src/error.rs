//! What can go wrong between a path and a batch.

use std::io;
use std::path::{Path, PathBuf};

use parquet::errors::ParquetError;

/// What can go wrong between a path and a batch, with the file, column, row or key it happened at.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A key of the configuration has a value that can't be meant.
    #[error("{key} {problem}")]
    Config {
        /// The key, as `data.image_size`.
        key: &'static str,
        /// What is wrong with the value and what to do.
        problem: String,
    },
    /// A file or folder could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A path or URL that can't be read from.
    #[error("{path}: {problem}", path = path.display())]
    Location {
        /// The path or URL.
        path: PathBuf,
        /// What is wrong with it and what to name instead.
        problem: String,
    },
    /// A remote store or web server did not give what was asked for.
    #[error("{url}: can't read {what}: {reason} (tried {attempts} times)")]
    Remote {
        /// The object, without a signature.
        url: String,
        /// Which bytes of it, or a listing.
        what: String,
        /// How often it was asked for.
        attempts: u32,
        /// What the server said the last time, or what became of its answer.
        reason: String,
    },
    /// A file is not the one that was opened.
    #[error("{path}: has {found} bytes, but had {expected} when it was opened: it must not change while it is read", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Bytes when it was opened.
        expected: u64,
        /// Bytes now.
        found: u64,
    },
    /// A Parquet file could not be read or written.
    #[error("{path}: not a readable Parquet file: {source}", path = path.display())]
    Parquet {
        /// The shard.
        path: PathBuf,
        /// What the reader said.
        source: ParquetError,
    },
    /// Nothing to read was found.
    #[error("{path}: no Parquet files: name a file, a folder with *.parquet files, a manifest or a glob", path = path.display())]
    NoShards {
        /// What was asked for.
        path: PathBuf,
    },
    /// Shards without a row.
    #[error("{path}: its shards hold no rows", path = path.display())]
    NoRows {
        /// What was asked for.
        path: PathBuf,
    },
    /// A glob pattern that is none.
    #[error("{pattern}: not a glob pattern: {source}")]
    Glob {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: glob::PatternError,
    },
    /// A manifest could not be understood.
    #[error("{path}: not a manifest: {problem}", path = path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A shard is not what its manifest says.
    #[error("{path}: has {found} {what}, but its manifest says {expected}: build or fetch the data again", path = path.display())]
    ShardChanged {
        /// The shard.
        path: PathBuf,
        /// `rows` or `bytes`.
        what: &'static str,
        /// As the manifest says.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// A column that the configuration names is not there.
    #[error("{path}: no column `{column}` ({key}); its columns are {present}", path = path.display())]
    MissingColumn {
        /// The shard.
        path: PathBuf,
        /// The key that names it.
        key: &'static str,
        /// The column asked for.
        column: String,
        /// The columns there are, comma-separated.
        present: String,
    },
    /// A column has a type that holds no pictures or captions.
    #[error("{path}: column `{column}` is {found}; {key} must name {expected}", path = path.display())]
    ColumnType {
        /// The shard.
        path: PathBuf,
        /// The key that names it.
        key: &'static str,
        /// The column.
        column: String,
        /// Its type.
        found: String,
        /// The types that are read.
        expected: &'static str,
    },
    /// A sample that was asked for by id can't be used.
    #[error("{shard}: row {row} can't be used: {reason}", shard = shard.display())]
    Unusable {
        /// The shard.
        shard: PathBuf,
        /// The row in the shard, from 0.
        row: u64,
        /// Why.
        reason: String,
    },
    /// No such sample.
    #[error("no sample {id}: the dataset has {rows} rows")]
    NoSample {
        /// The id asked for.
        id: u64,
        /// Rows of the dataset.
        rows: u64,
    },
    /// The output folder holds something that this program did not write.
    #[error("{path}: {problem}: choose an empty or new folder", path = path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// A picture could not be decoded or encoded.
    #[error("{what}: {reason}")]
    Picture {
        /// Which picture.
        what: String,
        /// Why.
        reason: String,
    },
    /// What a set is built from is not what it should be.
    #[error("{path}: {problem}", path = path.display())]
    BuildInput {
        /// The file or folder.
        path: PathBuf,
        /// What was found, and what to do.
        problem: String,
    },
    /// A row that can't be used, where a build was asked to stop at one.
    #[error("{place}: {reason}; mend it, or leave such rows out with --on-bad skip")]
    BadRow {
        /// The file and the row or line.
        place: String,
        /// Why.
        reason: String,
    },
    /// Another process builds into the same folder.
    #[error("{out}: process {process} is building it: wait for it, or choose another folder", out = out.display())]
    BeingBuilt {
        /// The folder.
        out: PathBuf,
        /// The process's id, as it says.
        process: String,
    },
    /// A file of features is not what it should be.
    #[error("{path}: {problem}", path = path.display())]
    Features {
        /// The file.
        path: PathBuf,
        /// What was found, what was expected, and what to do.
        problem: String,
    },
    /// The reading thread ended before the stream did; the first error it met was reported before.
    #[error("the loader has stopped after an earlier error")]
    LoaderStopped,
    /// A thread could not be started.
    #[error("can't start a thread for reading data: {reason}")]
    Threads {
        /// What the system said.
        reason: String,
    },
}

impl DataError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn glob(pattern: &str) -> impl FnOnce(glob::PatternError) -> Self {
        let pattern = pattern.to_owned();
        move |source| Self::Glob { pattern, source }
    }

    pub(crate) fn parquet(path: &Path) -> impl FnOnce(ParquetError) -> Self {
        let path = path.to_owned();
        move |source| Self::Parquet { path, source }
    }
}
