//! What features were made from, and whether that is what a config asks for.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lidit_data::{Dataset, ManifestShard, SourceColumns, Subset};
use lidit_encoders::{LlmConfig, Precision, TemplateConfig};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::conditioner::{fingerprint, open_spec};
use crate::config::{CacheConfig, EncodersConfig};
use crate::difference::Difference;
use crate::digest::hex;
use crate::latents::LatentSpace;

/// Version of the folder's format.
pub const FORMAT_VERSION: u32 = 3;

/// Everything that decides the bytes of a folder of features, apart from the prompts of the previews.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureIdentity {
    /// Always `FORMAT_VERSION` of this file.
    pub format_version: u32,
    /// Whose captions.
    pub data: DataIdentity,
    /// How they are stored.
    pub cache: CacheConfig,
    /// The encoders, in config order.
    pub encoders: Vec<EncoderIdentity>,
    /// The pictures' latents; `None` where the network sees pixels.
    pub latents: Option<LatentIdentity>,
}

/// Which latents stand for the pictures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentIdentity {
    /// The VAE's fingerprint.
    pub vae: String,
    /// `data.image_size`.
    pub image_size: u32,
    /// `data.buckets`: whether pictures keep about their aspect.
    pub buckets: bool,
    /// `data.min_side`.
    pub min_side: u32,
}

impl LatentIdentity {
    /// Of the pictures of `dataset` in `space`; `None` if those are pixels.
    pub fn of(space: &LatentSpace, dataset: &Dataset) -> Option<Self> {
        let config = dataset.config();
        match space {
            LatentSpace::Pixels | LatentSpace::Normalized { .. } | LatentSpace::Given { .. } => None,
            LatentSpace::Kl(_) => Some(Self {
                vae: space.fingerprint().to_owned(),
                image_size: config.image_size,
                buckets: config.buckets,
                min_side: config.min_side,
            }),
        }
    }
}

/// Which captions of which data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataIdentity {
    /// [`Dataset::digest`].
    pub digest: String,
    /// Rows of the whole data set.
    pub rows: u64,
    /// The columns of each source's captions.
    pub captions: Vec<CaptionColumns>,
    /// `data.max_samples`.
    pub max_samples: Option<u64>,
    /// `data.subset_seed`.
    pub subset_seed: u64,
}

/// Which columns of a source hold captions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptionColumns {
    /// Those that came with the pictures.
    pub original: String,
    /// Those that a model wrote.
    pub synthetic: Option<String>,
}

/// One encoder, readably and exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderIdentity {
    /// `encoders.llm.i`.
    pub llm: LlmConfig,
    /// `encoders.precision`.
    pub precision: Precision,
    /// What surrounds a caption.
    pub template: TemplateConfig,
    /// Width of a state.
    pub dim: usize,
    /// [`EncoderSpec::fingerprint`](lidit_encoders::EncoderSpec::fingerprint).
    pub fingerprint: String,
}

/// `manifest.json`: the folder is complete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureManifest {
    /// Always `FORMAT_VERSION` of this file.
    pub format_version: u32,
    /// Version of the binary that completed it.
    pub lidit_version: String,
    /// [`FeatureIdentity::fingerprint`].
    pub fingerprint: String,
    /// What the features were made from.
    pub identity: FeatureIdentity,
    /// Samples of the data set's part.
    pub samples: u64,
    /// Captions of those samples, alternatives counted.
    pub captions: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// The constant prefix: one row.
    pub prefix: ManifestShard,
    /// The empty caption and the prompts of the previews.
    pub prompts: ManifestShard,
    /// The samples' captions, in order.
    pub files: Vec<ManifestShard>,
}

impl FeatureIdentity {
    /// What `config` asks for. Reads the models' headers and hashes their files, but loads no weight.
    pub fn of(
        config: &EncodersConfig,
        dataset: &Dataset,
        latents: &LatentSpace,
        locate: &dyn Fn(&str) -> Result<PathBuf>,
    ) -> Result<Self> {
        let encoders = config.llm.iter().enumerate().map(|(i, llm)| {
            let path = locate(&llm.model).with_context(|| format!("encoders.llm.{i}.model"))?;
            EncoderIdentity::read(config, llm, &path).with_context(|| format!("reading encoders.llm.{i}"))
        });
        Ok(Self {
            format_version: FORMAT_VERSION,
            data: DataIdentity::of(dataset),
            cache: config.cache.clone(),
            encoders: encoders.collect::<Result<_>>()?,
            latents: LatentIdentity::of(latents, dataset),
        })
    }

    /// SHA-256 over the encoders' fingerprints, the captions' identity and the type of the stored states, in hex: equal
    /// for equal features, wherever models and data lie and however they are cut into files.
    pub fn fingerprint(&self) -> Result<String> {
        let encoders: Vec<&str> = self
            .encoders
            .iter()
            .map(|encoder| encoder.fingerprint.as_str())
            .collect();
        let parts = (
            "lidit features 2",
            encoders,
            &self.data,
            self.cache.precision,
            &self.latents,
        );
        let parts = serde_json::to_vec(&parts)?;
        Ok(hex(&Sha256::digest(parts)))
    }

    /// Refuses `folder`, whose features are `self`, unless they are those that `wanted` asks for; both sides are named.
    pub(crate) fn check(&self, wanted: &Self, folder: &Path) -> Result<()> {
        let mut wanted = wanted.clone();
        for (ours, theirs) in wanted.encoders.iter_mut().zip(&self.encoders) {
            // The same states by another path or another way to count the layer.
            if ours.fingerprint == theirs.fingerprint {
                ours.clone_from(theirs);
            }
        }
        let found = Difference::all(&serde_json::to_value(self)?, &serde_json::to_value(&wanted)?);
        let found: Vec<String> = found.iter().map(Difference::to_string).collect();
        ensure!(
            found.is_empty(),
            "{} holds other features than this config asks for: {}; use the config that made them, or another folder",
            folder.display(),
            found.join("; ")
        );
        Ok(())
    }

    /// As [`check`](Self::check) for a run that trains on them: files may be cut otherwise, the run may see a smaller
    /// part of the data, and where a model's file is missing its weights are taken on trust. Returns what was not
    /// checked.
    pub(crate) fn check_for_training(
        &self,
        config: &EncodersConfig,
        dataset: &Dataset,
        latents: Option<LatentIdentity>,
        locate: &dyn Fn(&str) -> Result<PathBuf>,
        folder: &Path,
    ) -> Result<Vec<String>> {
        let mut stored = self.clone();
        let mut wanted = Self {
            format_version: FORMAT_VERSION,
            data: DataIdentity::of(dataset),
            cache: config.cache.clone(),
            encoders: Vec::new(),
            latents,
        };
        if wanted.latents.is_none() {
            // Captions' states serve a run that sees pixels, too.
            stored.latents = None;
        }
        wanted.cache.rows_per_file = stored.cache.rows_per_file;
        (wanted.data.max_samples, wanted.data.subset_seed) = (stored.data.max_samples, stored.data.subset_seed);
        let mut unchecked = Vec::new();
        for (i, llm) in config.llm.iter().enumerate() {
            let theirs = stored.encoders.get_mut(i);
            let ours = match (locate(&llm.model), theirs) {
                (Ok(path), _) => EncoderIdentity::read(config, llm, &path)
                    .with_context(|| format!("reading encoders.llm.{i} to compare it with {}", folder.display()))?,
                (Err(error), Some(theirs)) => {
                    unchecked.push(format!(
                        "encoders.llm.{i}: {error:#}; its weights can't be compared with those that made {}",
                        folder.display()
                    ));
                    EncoderIdentity::without_file(config, llm, theirs)
                }
                (Err(error), None) => return Err(error).with_context(|| format!("encoders.llm.{i}.model")),
            };
            wanted.encoders.push(ours);
        }
        stored.check(&wanted, folder)?;
        Ok(unchecked)
    }
}

impl DataIdentity {
    fn of(dataset: &Dataset) -> Self {
        let config = dataset.config();
        Self {
            digest: dataset.digest().to_owned(),
            rows: dataset.rows(),
            captions: config
                .sources()
                .into_iter()
                .map(|(_, columns)| columns.into())
                .collect(),
            max_samples: config.max_samples,
            subset_seed: config.subset_seed,
        }
    }

    /// The samples.
    pub fn members(&self) -> Subset {
        Subset::new(self.rows, self.max_samples, self.subset_seed)
    }
}

impl From<SourceColumns> for CaptionColumns {
    fn from(columns: SourceColumns) -> Self {
        Self {
            original: columns.caption,
            synthetic: columns.synthetic.map(|synthetic| synthetic.column),
        }
    }
}

impl EncoderIdentity {
    pub(crate) fn read(config: &EncodersConfig, llm: &LlmConfig, path: &Path) -> Result<Self> {
        let spec = open_spec(config, llm, path)?;
        Ok(Self {
            llm: llm.clone(),
            precision: config.precision,
            template: config.template(),
            dim: spec.shape().hidden_size,
            fingerprint: fingerprint(&spec)?,
        })
    }

    /// All that the config says, with the rest from `stored`. Paths are compared by their last part then: the file is not
    /// here, so where it was says nothing.
    fn without_file(config: &EncodersConfig, llm: &LlmConfig, stored: &mut Self) -> Self {
        let name = |model: &str| {
            Path::new(model)
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        let mut llm = llm.clone();
        for model in [&mut llm.model, &mut stored.llm.model] {
            *model = name(model).unwrap_or_else(|| model.clone());
        }
        let same = llm == stored.llm && config.precision == stored.precision && config.template() == stored.template;
        Self {
            llm,
            precision: config.precision,
            template: config.template(),
            dim: stored.dim,
            // Never equal to another encoder's, so that the comparison goes on to what differs.
            fingerprint: if same {
                stored.fingerprint.clone()
            } else {
                "unknown, its file is missing".to_owned()
            },
        }
    }
}

#[cfg(test)]
mod tests;
