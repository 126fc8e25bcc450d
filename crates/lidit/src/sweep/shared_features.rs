//! Features that several runs of a sweep read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;
use lidit_scaling::sweep::Choice;
use lidit_train::{Remember, RunConfig};
use sha2::{Digest, Sha256};

use super::folder::SweepFolder;
use super::samples::Samples;

/// Features that several runs read.
pub struct SharedFeatures {
    /// Their folder.
    pub folder: PathBuf,
    /// Writes them: the config of the run with the most samples.
    pub config: RunConfig,
    /// FLOPs of encoding, once.
    pub flops: f64,
    /// Bytes on the disk.
    pub bytes: f64,
}

impl SharedFeatures {
    /// What their config, log and lock are called.
    pub fn name(&self) -> String {
        let key = self.folder.file_name().unwrap_or_default();
        format!("features-{}", key.to_string_lossy())
    }
}

/// Points runs with the same encoders and data at one folder of features, which has the samples of the run that needs most,
/// and their validation sets likewise. The runs' folders hold `prompts`, too, those of the evaluation. Answers these folders.
pub fn share(
    resolved: &mut [(Choice, RunConfig)],
    prompts: &[String],
    folder: &SweepFolder,
    samples: &mut Samples,
) -> Result<Vec<SharedFeatures>> {
    let unique = |config: &RunConfig| config.data.max_samples.unwrap_or(u64::MAX);
    let mut largest: BTreeMap<String, RunConfig> = BTreeMap::new();
    let mut trained_on = BTreeSet::new();
    for (_, config) in resolved.iter() {
        trained_on.insert(encoding_key(config)?);
        for config in [Some(config.clone()), held_out(config)].into_iter().flatten() {
            let key = encoding_key(&config)?;
            match largest.get(&key) {
                Some(other) if unique(other) >= unique(&config) => {}
                _ => {
                    largest.insert(key, config);
                }
            }
        }
    }
    let mut shared = Vec::with_capacity(largest.len());
    let mut by_key = BTreeMap::new();
    for (key, mut config) in largest {
        config.encoders.features = None;
        config.validation = None;
        if trained_on.contains(&key) {
            config.sample.prompts.extend_from_slice(prompts);
        }
        let text = format!("{key}{:?}", config.data.max_samples);
        let digest = Sha256::digest(text.as_bytes());
        let short = digest
            .iter()
            .take(6)
            .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let path = std::path::absolute(folder.features(&short))?;
        by_key.insert(key, path.clone());
        let encoders = samples.price(&config, 1)?.encoders;
        shared.push(SharedFeatures {
            folder: path,
            config,
            flops: encoders.cache_flops,
            bytes: encoders.cache_bytes,
        });
    }
    for (_, config) in resolved {
        let held_out = held_out(config).map(|config| encoding_key(&config)).transpose()?;
        config.encoders.features = by_key.get(&encoding_key(config)?).cloned();
        if let (Some(validation), Some(key)) = (&mut config.validation, held_out) {
            validation.features = by_key.get(&key).cloned();
        }
    }
    Ok(shared)
}

/// The run whose data is this run's validation set.
fn held_out(config: &RunConfig) -> Option<RunConfig> {
    let validation = config.validation.as_ref()?;
    Some(validation.set().in_place_of_data(config))
}

/// What decides a caption's states: runs that agree in it can share features.
fn encoding_key(config: &RunConfig) -> Result<String> {
    let mut config = config.clone();
    config.encoders.features = None;
    config.encoders.remember = Remember::Nothing;
    config.data.max_samples = None;
    config.validation = None;
    let prompts = if config.train.sample_every > 0 {
        config.sample.prompts
    } else {
        Vec::new()
    };
    let vae = serde_json::to_string(&config.vae)?;
    Ok(serde_json::to_string(&(&config.encoders, &config.data, vae, prompts))?)
}
