//! Steps of a rank, read ahead in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::batch::MicroBatch;
use crate::dataset::{Dataset, Quarantined};
use crate::error::DataError;
use crate::order::{SampleOrder, Share};

// Steps read ahead: as many as fit, within these bounds.
const AHEAD_BYTES: usize = 256 << 20;
const AHEAD_STEPS: usize = 8;
// Decoding threads of a process. More than one training process can feed is of no use.
const MAX_THREADS: usize = 8;

/// Which part of the stream a loader hands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Keys the order and the choice among captions: `train.seed`.
    pub seed: u64,
    /// Samples in a step over all ranks: `train.global_batch`.
    pub global_batch: usize,
    /// Most samples computed at once: `train.micro_batch`.
    pub micro_batch: usize,
    /// This rank.
    pub rank: usize,
    /// Number of ranks.
    pub world_size: usize,
    /// The first step handed out: the only state that a resumed run needs.
    pub start_step: u64,
}

impl LoaderConfig {
    /// This rank's part of every global batch.
    pub fn share(&self) -> Share {
        Share {
            global_batch: self.global_batch,
            rank: self.rank,
            world_size: self.world_size,
        }
    }

    /// Refuses values that can't be meant, naming the key.
    pub fn validate(&self) -> Result<(), DataError> {
        let refuse = |key, problem| Err(DataError::Config { key, problem });
        if self.micro_batch == 0 {
            return refuse("train.micro_batch", "is 0, must be at least 1".to_owned());
        }
        if self.world_size == 0 || self.rank >= self.world_size {
            let (rank, size) = (self.rank, self.world_size);
            return refuse("rank", format!("is {rank} in a world of {size}"));
        }
        if self.global_batch < self.world_size {
            let (batch, size) = (self.global_batch, self.world_size);
            return refuse(
                "train.global_batch",
                format!("is {batch}, but there are {size} ranks: each needs at least one sample a step"),
            );
        }
        Ok(())
    }
}

/// A rank's steps, one after the other without end, read and decoded ahead on threads of its own.
///
/// A shard that can't be read is an error of the step that needed it. Dropping the loader ends its threads.
pub struct Loader {
    receiver: Option<Receiver<Result<Vec<MicroBatch>, DataError>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    dataset: Dataset,
}

impl Loader {
    /// Starts to read from `start_step` on.
    pub fn new(dataset: Dataset, config: LoaderConfig) -> Result<Self, DataError> {
        config.validate()?;
        let side = dataset.config().image_size as usize;
        let share = config.global_batch.div_ceil(config.world_size);
        let step_bytes = share * 3 * side * side * size_of::<f32>();
        let ahead = (AHEAD_BYTES / step_bytes).clamp(1, AHEAD_STEPS);
        let (sender, receiver) = sync_channel(ahead);
        let stop = Arc::new(AtomicBool::new(false));
        let work = Work {
            dataset: dataset.clone(),
            config,
            pool: pool()?,
            stop: stop.clone(),
        };
        let thread = thread::Builder::new()
            .name("lidit-loader".to_owned())
            .spawn(move || work.run(&sender))
            .map_err(|error| threads(&error))?;
        Ok(Self {
            receiver: Some(receiver),
            stop,
            thread: Some(thread),
            dataset,
        })
    }

    /// The next step's samples of this rank, in micro-batches of consecutive positions. Waits while they are read.
    ///
    /// After an error every further call is [`DataError::LoaderStopped`].
    pub fn next_step(&mut self) -> Result<Vec<MicroBatch>, DataError> {
        let received = self.receiver.as_ref().map(Receiver::recv);
        match received {
            Some(Ok(step)) => step,
            Some(Err(_)) | None => Err(DataError::LoaderStopped),
        }
    }

    /// The unusable rows met so far, some of them perhaps in steps still to come.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        self.dataset.quarantined()
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Without a receiver a thread that waits to hand a step over wakes and ends.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was already met as LoaderStopped.
            let _ = thread.join();
        }
    }
}

struct Work {
    dataset: Dataset,
    config: LoaderConfig,
    pool: ThreadPool,
    stop: Arc<AtomicBool>,
}

impl Work {
    fn run(&self, sender: &SyncSender<Result<Vec<MicroBatch>, DataError>>) {
        for step in self.config.start_step.. {
            let result = self.pool.install(|| self.step(step));
            let failed = result.is_err();
            let stopped = self.stop.load(Ordering::Relaxed);
            if stopped || sender.send(result).is_err() || failed {
                return;
            }
        }
    }

    fn step(&self, step: u64) -> Result<Vec<MicroBatch>, DataError> {
        let order = SampleOrder::new(self.config.seed, self.dataset.len());
        let draws = self.config.share().draws(step, &order, self.dataset.subset());
        let side = self.dataset.config().image_size as usize;
        draws
            .chunks(self.config.micro_batch)
            .map(|draws| {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(DataError::LoaderStopped);
                }
                let ids: Vec<u64> = draws.iter().map(|draw| draw.id).collect();
                let samples = self.dataset.load(&ids)?;
                Ok(MicroBatch::new(self.config.seed, draws, &samples, side))
            })
            .collect()
    }
}

fn pool() -> Result<ThreadPool, DataError> {
    let threads_here = thread::available_parallelism().map_or(1, usize::from);
    ThreadPoolBuilder::new()
        .num_threads(threads_here.min(MAX_THREADS))
        .thread_name(|index| format!("lidit-decode-{index}"))
        .build()
        .map_err(|error| threads(&error))
}

fn threads(error: &dyn std::error::Error) -> DataError {
    DataError::Threads {
        reason: error.to_string(),
    }
}
