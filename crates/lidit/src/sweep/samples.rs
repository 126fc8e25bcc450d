//! What a sweep's prices take of its runs' data.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use anyhow::Result;
use lidit_data::Dataset;
use lidit_train::{Ranks, Remember, RunConfig, TokenSample};

use crate::fetch;
use crate::plan::Plan;

/// What a sweep's runs train on, and their prices.
pub struct Samples {
    /// Of each run.
    ranks: Ranks,
    /// Data that was opened, by what decides its captions' tokens.
    opened: BTreeMap<String, Opened>,
}

/// What prices take of a run's data.
pub struct Opened {
    /// Unique samples.
    pub unique: u64,
    /// Captions, tokenized for the run's encoders.
    pub sample: TokenSample,
}

impl Samples {
    /// For runs on `ranks` each; nothing is opened yet.
    pub fn priced_on(ranks: Ranks) -> Self {
        Self {
            ranks,
            opened: BTreeMap::new(),
        }
    }

    /// Of this config's data and encoders.
    pub fn of(&mut self, config: &RunConfig) -> Result<&Opened> {
        Ok(match self.opened.entry(captions_key(config)?) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let dataset = Dataset::open(&config.data)?;
                let sample = TokenSample::take(&config.encoders, &dataset, &fetch::resolve_model)?;
                let unique = dataset.len();
                entry.insert(Opened { unique, sample })
            }
        })
    }

    /// The price of a run, of `runs` that share what is encoded.
    pub fn price(&mut self, config: &RunConfig, runs: u64) -> Result<Plan> {
        let sample = self.of(config)?.sample.clone();
        Plan::of(config, sample, runs, self.ranks)
    }
}

/// What decides the sample of captions that prices are taken from.
fn captions_key(config: &RunConfig) -> Result<String> {
    let mut encoders = config.encoders.clone();
    encoders.features = None;
    encoders.remember = Remember::Nothing;
    Ok(serde_json::to_string(&(&encoders, &config.data))?)
}
