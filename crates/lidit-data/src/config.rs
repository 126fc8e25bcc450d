//! The `[data]` table of a run's configuration.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::DataError;

/// Where the pictures and captions are and how they are taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A folder with a manifest, its `manifest.json`, one Parquet file, a folder of them, a glob, or a URL of one of these.
    /// Without it (or with an empty one), `sources` say where.
    #[serde(default, deserialize_with = "empty_is_none", skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Column of encoded pictures: `binary`, `large_binary` or `struct<bytes, ..>`.
    pub image_column: String,
    /// Column of captions: `string`, `large_string`, a dictionary of either, or a list of alternatives.
    pub caption_column: String,
    /// A second column of captions, written by a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synthetic_caption_column: Option<String>,
    /// How often the synthetic caption is taken of a row that has both, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synthetic_share: Option<f32>,
    /// Side in pixels of the square that pictures are cropped and resized to; of a set in buckets, of the square bucket.
    pub image_size: u32,
    /// Pictures with a shorter side are not used.
    pub min_side: u32,
    /// Take only this many samples: a seeded part in which smaller parts are nested. All without it.
    pub max_samples: Option<u64>,
    /// Chooses the part that `max_samples` takes.
    pub subset_seed: u64,
    /// Rows that are shuffled together.
    pub shuffle_window: u64,
    /// Runs that a window is cut into, so that ranks read few of its blocks.
    pub lanes: u64,
    /// Whether the buckets of a set that is sorted by them are used; else its pictures are cut square.
    pub buckets: bool,
    /// The run stops when more than this share of the samples met can't be used.
    pub max_unusable: f64,
    /// Several sets that are drawn from by weight, in place of `path`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceConfig>,
}

/// One of several sets that a run draws from. Columns that it doesn't name are those of `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// As `data.path`.
    pub path: PathBuf,
    /// Its share of all samples, relative to the others'. Either every source has one or none: then a source's share is
    /// that of its rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// As `data.image_column`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_column: Option<String>,
    /// As `data.caption_column`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption_column: Option<String>,
    /// As `data.synthetic_caption_column`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synthetic_caption_column: Option<String>,
    /// As `data.synthetic_share`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synthetic_share: Option<f32>,
}

/// Which columns of a source hold what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceColumns {
    /// Encoded pictures.
    pub image: String,
    /// Captions.
    pub caption: String,
    /// Captions that a model wrote, and how often one of them is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synthetic: Option<SyntheticCaptions>,
}

/// Captions that a model wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyntheticCaptions {
    /// Their column.
    pub column: String,
    /// How often one is taken of a row that has both, from 0 to 1.
    pub share: f32,
}

/// An empty path takes the key back.
fn empty_is_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    Ok(Option::deserialize(from)?.filter(|path: &PathBuf| !path.as_os_str().is_empty()))
}

impl DataConfig {
    /// Refuses values that can't be meant, naming the key.
    pub fn validate(&self) -> Result<(), DataError> {
        self.validate_sources()?;
        let refuse = |key, problem: String| Err(DataError::Config { key, problem });
        if !(1..=4096).contains(&self.image_size) {
            let problem = format!("is {}, must be from 1 to 4096 pixels", self.image_size);
            return refuse("data.image_size", problem);
        }
        if self.min_side == 0 {
            return refuse(
                "data.min_side",
                "is 0: no picture has a side below 1 pixel, so say 1".into(),
            );
        }
        if self.max_samples == Some(0) {
            return refuse("data.max_samples", "is 0: leave it out to take every sample".into());
        }
        if self.shuffle_window == 0 {
            return refuse("data.shuffle_window", "is 0, must be at least 1 row".into());
        }
        if !(1..=self.shuffle_window).contains(&self.lanes) {
            let (lanes, window) = (self.lanes, self.shuffle_window);
            let problem = format!("is {lanes}, must be from 1 to data.shuffle_window, {window}");
            return refuse("data.lanes", problem);
        }
        if !(0.0..=1.0).contains(&self.max_unusable) {
            let problem = format!("is {}, must be from 0 to 1", self.max_unusable);
            return refuse("data.max_unusable", problem);
        }
        Ok(())
    }

    /// Where each source lies, in order, with its columns.
    pub fn sources(&self) -> Vec<(PathBuf, SourceColumns)> {
        let default = |own: &Option<String>, all: &String| own.as_ref().unwrap_or(all).clone();
        let alone = self.path.iter().map(|path| SourceConfig {
            path: path.clone(),
            weight: None,
            image_column: None,
            caption_column: None,
            synthetic_caption_column: None,
            synthetic_share: None,
        });
        alone
            .chain(self.sources.iter().cloned())
            .map(|source| {
                let synthetic = source
                    .synthetic_caption_column
                    .as_ref()
                    .or(self.synthetic_caption_column.as_ref())
                    .zip(source.synthetic_share.or(self.synthetic_share));
                let columns = SourceColumns {
                    image: default(&source.image_column, &self.image_column),
                    caption: default(&source.caption_column, &self.caption_column),
                    synthetic: synthetic.map(|(column, share)| SyntheticCaptions {
                        column: column.clone(),
                        share,
                    }),
                };
                (source.path, columns)
            })
            .collect()
    }

    /// The sources' shares of all samples, where the config gives them.
    pub(crate) fn weights(&self) -> Option<Vec<f64>> {
        self.sources
            .iter()
            .map(|source| source.weight)
            .collect::<Option<Vec<_>>>()
            .filter(|w| !w.is_empty())
    }

    fn validate_sources(&self) -> Result<(), DataError> {
        let refuse = |key, problem: String| Err(DataError::Config { key, problem });
        match (&self.path, self.sources.is_empty()) {
            (Some(_), true) | (None, false) => {}
            (None, true) => return refuse("data.path", "is missing: name a file, a folder, a glob or a URL".into()),
            (Some(_), false) => {
                return refuse(
                    "data.path",
                    "is given beside data.sources: name one set, or several, not both".into(),
                );
            }
        }
        let weighted = self.sources.iter().filter(|source| source.weight.is_some()).count();
        if weighted > 0 && weighted < self.sources.len() {
            return refuse(
                "data.sources",
                "give a weight to some and none to others: give one to each or to none".into(),
            );
        }
        for (number, source) in self.sources.iter().enumerate() {
            if let Some(weight) = source.weight.filter(|weight| !(weight.is_finite() && *weight > 0.0)) {
                let problem = format!(".{number}.weight is {weight}, must be above 0");
                return refuse("data.sources", problem);
            }
        }
        let columns = std::iter::once((&self.synthetic_caption_column, self.synthetic_share)).chain(
            self.sources.iter().map(|source| {
                let column = &source.synthetic_caption_column;
                (
                    if column.is_some() {
                        column
                    } else {
                        &self.synthetic_caption_column
                    },
                    source.synthetic_share.or(self.synthetic_share),
                )
            }),
        );
        for (column, share) in columns {
            if let Some(share) = share.filter(|share| !(0.0..=1.0).contains(share)) {
                return refuse("data.synthetic_share", format!("is {share}, must be from 0 to 1"));
            }
            if column.is_some() && share.is_none() {
                let problem = "is missing: say how often the synthetic caption is taken, from 0 to 1".into();
                return refuse("data.synthetic_share", problem);
            }
        }
        Ok(())
    }
}
