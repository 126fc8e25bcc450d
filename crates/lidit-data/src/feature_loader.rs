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
    pub fn new(set: FeatureSet, dataset: &Dataset, config: LoaderConfig) -> Result<Self, DataError> {
        config.validate()?;
        let order = dataset.order(config.seed, config.global_batch);
        let step_bytes = config.global_batch.div_ceil(config.share.world_size) * set.bytes_a_sample();
        let steps = Ahead::start("lidit-features", config.start_step, step_bytes, move |step, _| {
            let draws = order.draws(step, &config.share);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;
    use crate::feature_set::tests::{rows_of, write};
    use crate::loader::Loader;
    use crate::open_source::Wanted;
    use crate::order::Share;
    use crate::test_shards::{config, write_set};

    const STREAM: LoaderConfig = LoaderConfig {
        seed: 5,
        global_batch: 7,
        micro_batch: 3,
        share: Share { rank: 1, world_size: 2 },
        wanted: Wanted::Captions,
        start_step: 4,
    };

    #[test]
    fn the_features_of_a_step_are_those_of_the_loader_s_samples() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        write_set(&data, 30, 11, 4);
        let dataset = Dataset::open(&config(&data)).unwrap();
        let source = write(folder.path(), *dataset.subset());
        for room in [0, 1 << 30] {
            let set = FeatureSet::with_room(source.clone(), dataset.subset(), room).unwrap();
            let mut features = FeatureLoader::new(set, &dataset, STREAM).unwrap();
            let mut samples = Loader::new(dataset.clone(), STREAM).unwrap();
            for _ in 0..9 {
                let (features, batches) = (
                    features.next_step().unwrap(),
                    samples.next_step().unwrap().micro_batches,
                );
                for id in batches.iter().flat_map(|batch| &batch.ids) {
                    let rows = features.get(id).map_or(&[][..], |rows| rows.as_slice());
                    assert_eq!(rows, rows_of(*id), "{id}");
                }
            }
        }
    }

    #[test]
    fn a_file_that_vanishes_is_an_error_that_names_it_and_never_a_wait() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        write_set(&data, 30, 11, 4);
        let dataset = Dataset::open(&config(&data)).unwrap();
        let source = write(folder.path(), *dataset.subset());
        let set = FeatureSet::with_room(source, dataset.subset(), 0).unwrap();
        for number in 0..8 {
            fs::remove_file(folder.path().join(format!("{number}.parquet"))).unwrap();
        }
        let mut loader = FeatureLoader::new(set, &dataset, STREAM).unwrap();
        let message = loader.next_step().unwrap_err().to_string();
        assert!(message.contains(".parquet"), "{message}");
        assert!(matches!(loader.next_step(), Err(DataError::LoaderStopped)));
    }
}
