//! The folder of fetched inputs.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// `$LIDIT_CACHE`, else `$XDG_CACHE_HOME/lidit`, else `~/.cache/lidit`.
///
/// # Errors
/// None of the three variables is set.
pub fn dir() -> Result<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("LIDIT_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("lidit")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/lidit")))
        .context("no cache folder: set LIDIT_CACHE to one")
}
