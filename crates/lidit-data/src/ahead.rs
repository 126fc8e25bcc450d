//! Work on the steps to come, done in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::DataError;

// Steps read ahead: as many as fit, within these bounds.
const AHEAD_BYTES: usize = 256 << 20;
const AHEAD_STEPS: usize = 8;
// Reading threads of a process. More than one training process can feed is of no use.
const MAX_THREADS: usize = 8;

/// Step after step of some work, done ahead on threads of its own. Dropping it ends them.
pub(crate) struct Ahead<T> {
    receiver: Option<Receiver<Result<T, DataError>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Whether nobody waits for the work any more.
#[derive(Clone)]
pub(crate) struct Abandoned(Arc<AtomicBool>);

impl Abandoned {
    /// An error once nobody waits, for the `?` of a long step.
    pub fn check(&self) -> Result<(), DataError> {
        if self.0.load(Ordering::Relaxed) {
            return Err(DataError::LoaderStopped);
        }
        Ok(())
    }
}

impl<T: Send + 'static> Ahead<T> {
    /// Starts `work` at `start_step`, several steps ahead as long as they fit into memory: a step takes `step_bytes`.
    pub fn start(
        name: &str,
        start_step: u64,
        step_bytes: usize,
        mut work: impl FnMut(u64, &Abandoned) -> Result<T, DataError> + Send + 'static,
    ) -> Result<Self, DataError> {
        let ahead = (AHEAD_BYTES / step_bytes.max(1)).clamp(1, AHEAD_STEPS);
        let (sender, receiver) = sync_channel(ahead);
        let stop = Arc::new(AtomicBool::new(false));
        let abandoned = Abandoned(stop.clone());
        let pool = pool(name)?;
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(start_step, &pool, &abandoned, &sender, &mut work))
            .map_err(|error| threads(&error))?;
        Ok(Self {
            receiver: Some(receiver),
            stop,
            thread: Some(thread),
        })
    }

    /// The next step. Waits while it is worked on; after an error every further call is [`DataError::LoaderStopped`].
    pub fn next_step(&mut self) -> Result<T, DataError> {
        let received = self.receiver.as_ref().map(Receiver::recv);
        match received {
            Some(Ok(step)) => step,
            Some(Err(_)) | None => Err(DataError::LoaderStopped),
        }
    }
}

impl<T> Drop for Ahead<T> {
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

fn run<T: Send>(
    start_step: u64,
    pool: &ThreadPool,
    abandoned: &Abandoned,
    sender: &SyncSender<Result<T, DataError>>,
    work: &mut (impl FnMut(u64, &Abandoned) -> Result<T, DataError> + Send),
) {
    for step in start_step.. {
        let result = pool.install(|| work(step, abandoned));
        let failed = result.is_err();
        if abandoned.check().is_err() || sender.send(result).is_err() || failed {
            return;
        }
    }
}

fn pool(name: &str) -> Result<ThreadPool, DataError> {
    let threads_here = thread::available_parallelism().map_or(1, usize::from);
    let name = name.to_owned();
    ThreadPoolBuilder::new()
        .num_threads(threads_here.min(MAX_THREADS))
        .thread_name(move |index| format!("{name}-{index}"))
        .build()
        .map_err(|error| threads(&error))
}

fn threads(error: &dyn std::error::Error) -> DataError {
    DataError::Threads {
        reason: error.to_string(),
    }
}
