//! What the config names: data, language models, VAE, features.

use anyhow::{Context, Result};
use burn::tensor::Device;
use lidit_data::Dataset;
use lidit_train::{FeatureStore, LatentSpace, Ranks, RunConfig, TokenSample, VaeConfig};
use sha2::{Digest, Sha256};

use super::check::{Check, counted};
use crate::fetch;
use crate::plan::Plan;

/// Rows that are read and decoded, evenly spaced over the data.
const ROWS: u64 = 8;

/// What the checks of the config's inputs leave for others.
pub struct Inputs {
    /// What the run costs, where its inputs could be read.
    pub plan: Option<Plan>,
}

/// Ranks with other configs would train other runs.
pub fn config_check(config: &RunConfig) -> Check {
    match config.to_toml() {
        Ok(text) => {
            let digest = Sha256::digest(text);
            let start = digest
                .iter()
                .take(8)
                .fold(0, |start: u64, byte| start << 8 | u64::from(*byte));
            Check::agreed("config", format!("is sound, resolves to {start:016x}"))
        }
        Err(error) => Check::failed("config", format!("{error:#}"), "mend the config"),
    }
}

impl Inputs {
    /// Opens all that `config` names, as training would.
    pub fn examine(config: &RunConfig, ranks: Ranks) -> (Self, Vec<Check>) {
        let none = |checks| (Self { plan: None }, checks);
        let dataset = match Dataset::open(&config.data) {
            Ok(dataset) => dataset,
            Err(error) => {
                let advice = "mount it here, or name another data.path; `lidit data verify` reads all of it";
                return none(vec![Check::failed("data", described(&error.into()), advice)]);
            }
        };
        let mut checks = vec![data(&dataset)];
        let latents = latents(config, &mut checks);
        if let (Some(folder), Some(latents)) = (&config.encoders.features, &latents) {
            checks.push(
                match FeatureStore::open(folder, config, &dataset, latents, &fetch::resolve_model) {
                    Ok(_) => Check::ok(
                        "features",
                        format!("{} holds what this config asks for", folder.display()),
                    ),
                    Err(error) => Check::failed(
                        "features",
                        described(&error),
                        "write them with `lidit cache` and this config, or take encoders.features out",
                    ),
                },
            );
        }
        let sample = match TokenSample::take(&config.encoders, &dataset, &fetch::resolve_model) {
            Ok(sample) => sample,
            // Training on features needs no model, but its memory can't be planned without.
            Err(error) if config.encoders.features.is_some() => {
                let advice = "memory is not planned without the models' headers; training does not need them";
                checks.push(Check::warning("encoders", described(&error), advice));
                return none(checks);
            }
            Err(error) => {
                let advice = "fetch the models, or write their paths into encoders.llm";
                checks.push(Check::failed("encoders", described(&error), advice));
                return none(checks);
            }
        };
        let models = counted(config.encoders.llm.len(), "language model");
        checks.push(Check::ok("encoders", format!("{models}, by their headers")));
        if latents.is_none() {
            return none(checks);
        }
        let plan = match Plan::of(config, sample, 1, ranks) {
            Ok(plan) => Some(plan),
            Err(error) => {
                checks.push(Check::failed("plan", described(&error), "mend the config"));
                None
            }
        };
        (Self { plan }, checks)
    }
}

fn data(dataset: &Dataset) -> Check {
    let read = || -> Result<(usize, Vec<String>)> {
        let samples = dataset
            .samples(&dataset.subset().spread(ROWS))
            .context("reading some rows")?;
        let bad = samples
            .iter()
            .filter_map(|sample| sample.as_ref().err().cloned())
            .collect();
        Ok((samples.len(), bad))
    };
    let advice = "look at it with `lidit data verify`";
    match read() {
        Err(error) => Check::failed("data", described(&error), advice),
        Ok((asked, bad)) if bad.len() == asked => Check::failed(
            "data",
            format!(
                "none of {asked} rows can be used: {}",
                bad.first().map_or("", String::as_str)
            ),
            advice,
        ),
        Ok((asked, bad)) if !bad.is_empty() => Check::warning(
            "data",
            format!("{} of {asked} rows can't be used: {}", bad.len(), bad[0]),
            advice,
        ),
        Ok((asked, _)) => Check::ok(
            "data",
            format!("{} samples, {asked} of them read and decoded", dataset.len()),
        ),
    }
}

/// The VAE of a run that has one.
fn latents(config: &RunConfig, checks: &mut Vec<Check>) -> Option<LatentSpace> {
    match LatentSpace::open(&config.vae, &config.model, &Device::flex()) {
        Ok(latents) => {
            if matches!(config.vae, VaeConfig::Kl(_)) {
                checks.push(Check::ok("vae", "its weights are sound"));
            }
            Some(latents)
        }
        Err(error) => {
            checks.push(Check::failed(
                "vae",
                described(&error),
                "name a VAE's folder in vae.kl.model",
            ));
            None
        }
    }
}

/// The error and its causes.
fn described(error: &anyhow::Error) -> String {
    crate::described(error)
}
