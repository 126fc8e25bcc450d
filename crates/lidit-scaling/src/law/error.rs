//! What can go wrong between a table and a law.

use std::io;
use std::path::PathBuf;

/// What can go wrong between a table and a law.
#[derive(Debug, thiserror::Error)]
pub enum LawError {
    /// The table could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The table's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not CSV.
    #[error("{path}: {source}", path = path.display())]
    Csv {
        /// The table's file.
        path: PathBuf,
        /// What is wrong, with its line.
        source: csv::Error,
    },
    /// A column that the law needs is not there, or is there twice.
    #[error("{path}: {problem} (the columns are: {found}); the law needs n, d, c and loss", path = path.display())]
    Columns {
        /// The table's file.
        path: PathBuf,
        /// Which column, and what is wrong with it.
        problem: String,
        /// The columns that are there.
        found: String,
    },
    /// A value that can't be meant.
    #[error("{path}: line {line}, column {column}: `{value}` {problem}", path = path.display())]
    Value {
        /// The table's file.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// The column's name.
        column: &'static str,
        /// What stands there.
        value: String,
        /// What should stand there.
        problem: &'static str,
    },
    /// Neither law can be fitted to the points.
    #[error("no law can be fitted: {joint}; {isoflop}")]
    TooFew {
        /// Why not the joint law.
        joint: String,
        /// Why not the isoFLOP fits.
        isoflop: String,
    },
    /// An option that can't be meant.
    #[error("{option} must be {expected}, not {value}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        value: f64,
    },
}
