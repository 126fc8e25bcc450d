//! The `[data]` table of a run's configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::DataError;

/// Where the pictures and captions are and how they are taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A folder with a manifest, its `manifest.json`, one Parquet file, a folder of them, or a glob.
    pub path: PathBuf,
    /// Column of encoded pictures: `binary`, `large_binary` or `struct<bytes, ..>`.
    pub image_column: String,
    /// Column of captions: `string`, `large_string` or a list of alternatives.
    pub caption_column: String,
    /// Side in pixels of the square that pictures are cropped and resized to.
    pub image_size: u32,
    /// Take only this many samples: a seeded part in which smaller parts are nested. All without it.
    pub max_samples: Option<u64>,
    /// Chooses the part that `max_samples` takes.
    pub subset_seed: u64,
}

impl DataConfig {
    /// Refuses values that can't be meant, naming the key.
    pub fn validate(&self) -> Result<(), DataError> {
        let refuse = |key, problem: String| Err(DataError::Config { key, problem });
        if !(1..=4096).contains(&self.image_size) {
            return refuse(
                "data.image_size",
                format!("is {}, must be from 1 to 4096 pixels", self.image_size),
            );
        }
        if self.max_samples == Some(0) {
            return refuse("data.max_samples", "is 0: leave it out to take every sample".into());
        }
        Ok(())
    }
}
