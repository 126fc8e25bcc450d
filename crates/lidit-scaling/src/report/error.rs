//! What can go wrong while a report is written.

use std::io;
use std::path::PathBuf;

/// What can go wrong while a report is written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file or folder could not be written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A table could not be written.
    #[error("{path}: {source}", path = path.display())]
    Csv {
        /// The table's file.
        path: PathBuf,
        /// What is wrong.
        source: csv::Error,
    },
    /// A plot could not be made.
    #[error("plot `{plot}` can't be drawn: {problem}")]
    Plot {
        /// Its name.
        plot: String,
        /// Why not.
        problem: String,
    },
    /// The page's data could not be made.
    #[error("the page's data can't be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}
