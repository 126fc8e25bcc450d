//! Where prompts get their states from: the run's features where these hold them all, else its language models.

use anyhow::{Context, Result};
use burn::tensor::Device;
use lidit_data::Dataset;
use lidit_train::{Conditioner, FeatureStore, LatentSpace, RunConfig};
use serde::{Deserialize, Serialize};

use crate::fetch;

/// Who encoded the prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncodedBy {
    /// `lidit cache`, when it wrote the run's features: what the run was trained on.
    Features,
    /// The language models, now.
    Models,
}

impl EncodedBy {
    /// What knows the states of `prompts`, for a run of `config`; of `None`, any prompt may be asked for.
    pub fn open(
        config: &RunConfig,
        prompts: Option<&[String]>,
        latents: &LatentSpace,
        device: &Device,
    ) -> Result<(Self, Conditioner)> {
        if let (Some(prompts), true) = (prompts, config.encoders.features.is_some()) {
            match features(config, prompts, latents, device) {
                Ok(features) => return Ok((Self::Features, features)),
                Err(error) => eprintln!("note: the language models encode the prompts: {error:#}"),
            }
        }
        let models = Conditioner::load(&config.encoders, device, &fetch::resolve_model)?;
        Ok((Self::Models, models))
    }
}

/// The run's features.
///
/// # Errors
/// They can't be read any more, or lack one of `prompts`.
fn features(config: &RunConfig, prompts: &[String], latents: &LatentSpace, device: &Device) -> Result<Conditioner> {
    let folder = config.encoders.features.as_ref().context("the run has no features")?;
    let dataset = Dataset::open(&config.data)?;
    let store = FeatureStore::open(folder, config, &dataset, latents, &fetch::resolve_model)?;
    for prompt in prompts {
        store.prompt(prompt)?;
    }
    Ok(Conditioner::from_features(store, device))
}
