//! Steps of a rank, read ahead in the background.

use std::sync::mpsc::{Receiver, Sender};
use std::thread::{self, JoinHandle};

use crate::batch::MicroBatch;
use crate::dataset::{Dataset, Quarantined};
use crate::error::DataError;
use crate::open_source::Wanted;
use crate::order::Share;
use crate::pipeline::{Event, Pipeline, Promise};

/// Which part of the stream a loader hands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Keys the order and the choice among captions: `train.seed`.
    pub seed: u64,
    /// Samples in a step over all ranks: `train.global_batch`.
    pub global_batch: usize,
    /// Most samples computed at once: `train.micro_batch`.
    pub micro_batch: usize,
    /// This rank's part of every global batch.
    pub share: Share,
    /// Whether pictures are read and decoded, or captions alone.
    pub wanted: Wanted,
    /// The first step handed out: the only state that a resumed run needs.
    pub start_step: u64,
}

/// A rank's part of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedStep {
    /// Its samples, in micro-batches.
    pub micro_batches: Vec<MicroBatch>,
    /// Its samples that can't be used, by id.
    pub unusable: Vec<Quarantined>,
}

impl LoaderConfig {
    /// Refuses values that can't be meant, naming the key.
    pub fn validate(&self) -> Result<(), DataError> {
        let refuse = |key, problem| Err(DataError::Config { key, problem });
        let Share { rank, world_size } = self.share;
        if self.micro_batch == 0 {
            return refuse("train.micro_batch", "is 0, must be at least 1".to_owned());
        }
        if world_size == 0 || rank >= world_size {
            return refuse("rank", format!("is {rank} in a world of {world_size}"));
        }
        if self.global_batch < world_size {
            let batch = self.global_batch;
            return refuse(
                "train.global_batch",
                format!("is {batch}, but there are {world_size} ranks: each needs at least one sample a step"),
            );
        }
        Ok(())
    }
}

/// A rank's steps, one after the other without end, read and decoded ahead on threads of its own.
///
/// A row that can't be read or decoded keeps its place with weight 0. Dropping the loader ends its threads.
pub struct Loader {
    promises: Receiver<Promise>,
    wake: Sender<Event>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts to read from `start_step` on.
    pub fn new(dataset: Dataset, config: LoaderConfig) -> Result<Self, DataError> {
        config.validate()?;
        let (pipeline, wake, promises) = Pipeline::new(dataset, config)?;
        let thread = thread::Builder::new()
            .name("lidit-loader".to_owned())
            .spawn(move || pipeline.run())
            .map_err(|error| DataError::Threads {
                reason: error.to_string(),
            })?;
        Ok(Self {
            promises,
            wake,
            thread: Some(thread),
        })
    }

    /// The next step's samples of this rank. Waits while they are read.
    pub fn next_step(&mut self) -> Result<LoadedStep, DataError> {
        let promise = self.promises.recv().map_err(|_| DataError::LoaderStopped)?;
        let step = promise.recv().map_err(|_| DataError::LoaderStopped)?;
        // A pipeline that is gone is met with the next step.
        let _ = self.wake.send(Event::Taken);
        Ok(step)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        let _ = self.wake.send(Event::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there was already met as LoaderStopped.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    #![expect(
        clippy::float_cmp,
        reason = "pixels and weights are exact: the same expression of the same integers"
    )]
    use std::fs;
    use std::path::Path;

    use arrow::array::{BinaryArray, ListBuilder, StringBuilder};

    use super::*;
    use crate::test_shards::{array, config, png, write_bad_rows, write_columns, write_set};

    const SOLO: LoaderConfig = LoaderConfig {
        seed: 5,
        global_batch: 12,
        micro_batch: 5,
        share: Share::ALL,
        wanted: Wanted::All,
        start_step: 0,
    };

    fn open(path: &Path) -> Dataset {
        Dataset::open(&config(path)).unwrap()
    }

    fn steps(path: &Path, config: LoaderConfig, count: usize) -> Vec<Vec<MicroBatch>> {
        let mut loader = Loader::new(open(path), config).unwrap();
        (0..count).map(|_| loader.next_step().unwrap().micro_batches).collect()
    }

    fn positions(steps: &[Vec<MicroBatch>]) -> Vec<u64> {
        steps
            .iter()
            .flatten()
            .flat_map(|batch| batch.positions.clone())
            .collect()
    }

    #[test]
    fn micro_batches_are_consecutive_slices_and_hold_what_their_ids_say() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), 30, 11, 4);
        let steps = steps(folder.path(), SOLO, 6);
        let lens: Vec<usize> = steps[0].iter().map(MicroBatch::len).collect();
        assert_eq!(lens, [5, 5, 2]);
        assert_eq!(positions(&steps), (0..72).collect::<Vec<_>>());
        for batch in steps.iter().flatten() {
            for (index, id) in batch.ids.iter().enumerate() {
                assert_eq!(batch.captions[index], format!("thing {id}"));
                assert_eq!(batch.pixels[index * 48], *id as f32 / 127.5 - 1.0);
                assert_eq!(batch.epochs[index], batch.positions[index] / 30);
            }
        }
        let mut epoch: Vec<u64> = steps
            .iter()
            .flatten()
            .flat_map(|batch| batch.ids.clone())
            .take(30)
            .collect();
        epoch.sort_unstable();
        assert_eq!(epoch, (0..30).collect::<Vec<_>>());
    }

    #[test]
    fn captions_alone_are_the_same_stream_without_pixels() {
        let folder = tempfile::tempdir().unwrap();
        write_bad_rows(&folder.path().join("a.parquet"));
        let both = steps(&folder.path().join("a.parquet"), SOLO, 4);
        let wanted = Wanted::Captions;
        let captions = steps(&folder.path().join("a.parquet"), LoaderConfig { wanted, ..SOLO }, 4);
        let mut without_picture = 0;
        for (both, alone) in both.iter().flatten().zip(captions.iter().flatten()) {
            assert_eq!(
                (&both.ids, &both.epochs, both.size),
                (&alone.ids, &alone.epochs, alone.size)
            );
            assert!(alone.pixels.is_empty());
            for index in 0..both.len() {
                if both.weights[index] > 0.0 {
                    assert_eq!(
                        (&both.captions[index], 1.0),
                        (&alone.captions[index], alone.weights[index])
                    );
                } else if alone.weights[index] > 0.0 {
                    without_picture += 1;
                }
            }
        }
        assert!(without_picture > 0, "no row has a caption and a bad picture");
    }

    #[test]
    fn any_world_sees_the_stream_of_one() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), 30, 11, 4);
        let alone = steps(folder.path(), SOLO, 3);
        for world_size in [2, 3, 5, 12] {
            let ranks: Vec<_> = (0..world_size)
                .map(|rank| {
                    steps(
                        folder.path(),
                        LoaderConfig {
                            share: Share { rank, world_size },
                            ..SOLO
                        },
                        3,
                    )
                })
                .collect();
            for step in 0..3 {
                let together = ranks.iter().flat_map(|steps| &steps[step]);
                let ids: Vec<u64> = together.flat_map(|batch| batch.ids.clone()).collect();
                let expected: Vec<u64> = alone[step].iter().flat_map(|batch| batch.ids.clone()).collect();
                assert_eq!(ids, expected, "{world_size} ranks, step {step}");
            }
        }
    }

    #[test]
    fn a_loader_that_starts_later_goes_on_as_the_first_would_have() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), 30, 11, 4);
        let all = steps(folder.path(), SOLO, 7);
        let later = steps(folder.path(), LoaderConfig { start_step: 4, ..SOLO }, 3);
        assert_eq!(all[4..], later);
    }

    #[test]
    fn an_unusable_row_keeps_its_position_with_weight_zero() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        write_bad_rows(&path);
        let mut loader = Loader::new(open(&path), SOLO).unwrap();
        let step = loader.next_step().unwrap();
        for batch in &step.micro_batches {
            for (index, id) in batch.ids.iter().enumerate() {
                let usable = [0, 4].contains(id);
                assert_eq!(batch.weights[index], f32::from(usable), "{id}");
                assert_eq!(batch.pixels[index * 48..][..48].iter().any(|x| *x != 0.0), usable);
            }
        }
        let unusable: Vec<(u64, &str)> = step.unusable.iter().map(|row| (row.row, &*row.reason)).collect();
        assert!(unusable.contains(&(2, "its picture is null")), "{unusable:?}");
        assert!(unusable.contains(&(3, "its caption is null")), "{unusable:?}");
        assert!(step.unusable.iter().all(|row| row.shard == path));
        assert_eq!(positions(&[step.micro_batches]), (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn every_alternative_of_a_caption_is_used_and_the_same_again_for_the_same_seed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let mut list = ListBuilder::new(StringBuilder::new());
        for caption in ["left", "right"] {
            list.values().append_value(caption);
        }
        list.append(true);
        let image = array(BinaryArray::from_vec(vec![&png(1)]));
        write_columns(&path, vec![("image", image), ("caption", array(list.finish()))]);
        let captions = |seed| -> Vec<String> {
            let steps = steps(&path, LoaderConfig { seed, ..SOLO }, 3);
            steps
                .iter()
                .flatten()
                .flat_map(|batch| batch.captions.clone())
                .collect()
        };
        let first = captions(1);
        let lefts = first.iter().filter(|caption| *caption == "left").count();
        assert!((8..28).contains(&lefts), "{lefts} of 36");
        assert_eq!(first, captions(1));
        assert_ne!(first, captions(2));
    }

    #[test]
    fn the_rows_of_a_shard_that_fails_are_unusable_and_never_a_wait() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), 30, 11, 4);
        let dataset = open(folder.path());
        fs::remove_file(folder.path().join("shard-00001.parquet")).unwrap();
        let mut loader = Loader::new(dataset, SOLO).unwrap();
        let mut lost = Vec::new();
        for _ in 0..5 {
            let step = loader.next_step().unwrap();
            for row in step.unusable.iter().filter(|row| row.id < 30) {
                assert!(row.reason.contains("shard-00001.parquet"), "{}", row.reason);
            }
            let weights = step
                .micro_batches
                .iter()
                .flat_map(|batch| batch.ids.iter().zip(&batch.weights));
            lost.extend(weights.filter(|(_, weight)| **weight == 0.0).map(|(id, _)| *id));
        }
        lost.sort_unstable();
        lost.dedup();
        assert_eq!(lost, (11..22).collect::<Vec<_>>());
    }

    #[test]
    fn dropping_a_loader_ends_its_thread() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), 30, 11, 4);
        let dataset = open(folder.path());
        let mut loader = Loader::new(dataset.clone(), SOLO).unwrap();
        loader.next_step().unwrap();
        drop(loader);
        assert_eq!(dataset.holders(), 1);
    }

    #[test]
    fn impossible_shares_are_refused_with_their_key() {
        let refused = |config: LoaderConfig| config.validate().unwrap_err().to_string();
        assert!(
            refused(LoaderConfig {
                share: Share {
                    rank: 0,
                    world_size: 13
                },
                ..SOLO
            })
            .starts_with("train.global_batch is 12, but there are 13")
        );
        assert!(refused(LoaderConfig { micro_batch: 0, ..SOLO }).starts_with("train.micro_batch is 0"));
        assert!(
            refused(LoaderConfig {
                share: Share { rank: 1, world_size: 1 },
                ..SOLO
            })
            .starts_with("rank is 1 in a world of 1")
        );
    }
}
