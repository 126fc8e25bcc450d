//! The features of a rank's steps, read ahead in the background.

use std::collections::HashMap;

use crate::ahead::Ahead;
use crate::dataset::Dataset;
use crate::error::DataError;
use crate::feature_set::{FeatureSet, SampleFeatures};
use crate::loader::LoaderConfig;

/// A rank's features, step after step, beside a [`Loader`](crate::Loader) of the same configuration.
///
/// A file that can't be read, or a damaged row, is an error of the step that needed it.
pub struct FeatureLoader {
    steps: Ahead<HashMap<u64, SampleFeatures>>,
}

impl FeatureLoader {
    /// Starts to read from `start_step` on.
    pub fn new(set: FeatureSet, dataset: Dataset, config: LoaderConfig) -> Result<Self, DataError> {
        config.validate()?;
        let share = config.share();
        let step_bytes = config.global_batch.div_ceil(config.world_size) * set.bytes_a_sample();
        let steps = Ahead::start("lidit-features", config.start_step, step_bytes, move |step, _| {
            let draws = dataset.draws(config.seed, step, &share);
            let ids: Vec<u64> = draws.iter().map(|draw| draw.id).collect();
            set.load(&ids)
        })?;
        Ok(Self { steps })
    }

    /// The features of every sample of the next step, by id. Waits while they are read.
    pub fn next_step(&mut self) -> Result<HashMap<u64, SampleFeatures>, DataError> {
        self.steps.next_step()
    }
}
