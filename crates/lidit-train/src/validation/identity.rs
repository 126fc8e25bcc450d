//! What makes two validation losses comparable.

use anyhow::Result;
use lidit_data::Dataset;
use lidit_model::Objective;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::ValidationSet;
use crate::digest::hex;
use crate::latents::LatentSpace;

/// Everything that decides the triples of sample, time and noise, and what is predicted from them. Not the network, its
/// encoders or its precision: those are compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationIdentity {
    /// [`Dataset::digest`] of the held-out set.
    pub data: String,
    /// Column of pictures.
    pub image_column: String,
    /// Column of captions.
    pub caption_column: String,
    /// `data.image_size`.
    pub image_size: u32,
    /// `data.buckets`.
    pub buckets: bool,
    /// How many samples.
    pub samples: u64,
    /// How many times.
    pub levels: usize,
    /// `validation.seed`.
    pub seed: u64,
    /// What is predicted and how times are noised: `[objective]` without density, shift and weighting.
    pub objective: Value,
    /// Fingerprint of the VAE; `identity` for pixels.
    pub vae: String,
}

impl ValidationIdentity {
    /// Of the triples that `set` makes of `dataset`, its held-out samples.
    pub(super) fn of(
        set: &ValidationSet,
        dataset: &Dataset,
        objective: &Objective,
        latents: &LatentSpace,
    ) -> Result<Self> {
        let data = dataset.config();
        let mut objective = serde_json::to_value(objective)?;
        if let Value::Object(keys) = &mut objective {
            for of_training in ["density", "shift", "weighting"] {
                keys.remove(of_training);
            }
        }
        Ok(Self {
            data: dataset.digest().to_owned(),
            image_column: data.image_column.clone(),
            caption_column: data.caption_column.clone(),
            image_size: data.image_size,
            buckets: data.buckets,
            samples: set.samples,
            levels: set.levels,
            seed: set.seed,
            objective,
            vae: latents.fingerprint().to_owned(),
        })
    }

    /// SHA-256 in hex: equal for equal triples.
    pub fn digest(&self) -> Result<String> {
        let parts = serde_json::to_vec(&("lidit validation 1", self))?;
        Ok(hex(&Sha256::digest(parts)))
    }
}
