//! Rows read and decoded ahead of the step that trains on them.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::batch::MicroBatch;
use crate::bucket::Bucket;
use crate::dataset::{BlockKey, Dataset, Quarantined};
use crate::error::DataError;
use crate::loader::{LoadedStep, LoaderConfig};
use crate::open_source::Row;
use crate::order::{Draw, SampleOrder};
use crate::row_store::{ReadRow, RowStore};

// Encoded rows in memory: a window of 4,096 photos of 80 kB.
const ROOM: usize = 320 << 20;
// Decoded steps in memory, as many as fit, within these bounds.
const AHEAD_BYTES: usize = 160 << 20;
const AHEAD_STEPS: usize = 8;
// Blocks read at once: what hides an object store's latency, within a bound on what is in memory meanwhile.
const READS: usize = 16;
const READ_ROOM: usize = 64 << 20;
// How long reads that are under way may take when nobody waits for them any more.
const PATIENCE: Duration = Duration::from_secs(5);
// Decoding threads of a process. More than one training process can feed is of no use.
const MAX_DECODERS: usize = 16;

/// What wakes the pipeline.
pub(crate) enum Event {
    /// A block was read.
    Read {
        /// The wanted ones of its rows.
        rows: Vec<(u64, Result<Row, String>)>,
        /// How many rows it has.
        rows_of_block: usize,
    },
    /// A step was decoded.
    Decoded,
    /// A step was taken by the one who trains.
    Taken,
    /// Nobody waits any more.
    Stop,
}

/// A step that is decoded, or will be.
pub(crate) type Promise = Receiver<LoadedStep>;

/// Plans steps, reads their rows, decodes them, in this order and all at once. It runs on a thread of its own.
pub(crate) struct Pipeline {
    dataset: Dataset,
    order: SampleOrder,
    config: LoaderConfig,
    events: Receiver<Event>,
    wake: Sender<Event>,
    promises: Sender<Promise>,
    readers: ThreadPool,
    decoders: ThreadPool,
    rows: RowStore,
    planned: VecDeque<PlannedStep>,
    next_step: u64,
    /// Steps that are planned at most: enough to know which rows of a block are needed soon.
    horizon: usize,
    /// Steps that are decoded or being decoded at most.
    ahead: usize,
    reads: usize,
    rows_under_way: usize,
    decoding: usize,
    untaken: usize,
}

struct PlannedStep {
    step: u64,
    size: Bucket,
    draws: Vec<Draw>,
    /// The rows that have to be read: all whose decoded pictures are not remembered.
    unread: Vec<u64>,
}

impl Pipeline {
    /// A pipeline with the way to wake it, and the promises of its steps in order.
    pub fn new(dataset: Dataset, config: LoaderConfig) -> Result<(Self, Sender<Event>, Receiver<Promise>), DataError> {
        let (wake, events) = channel();
        let (promises, promised) = channel();
        let side = dataset.config().image_size as usize;
        let share = config.global_batch.div_ceil(config.share.world_size);
        let step_bytes = share * 3 * side * side * size_of::<f32>();
        let ahead = (AHEAD_BYTES / step_bytes.max(1)).clamp(2, AHEAD_STEPS);
        let window = dataset.config().shuffle_window.min(dataset.len());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let pipeline = Self {
            order: dataset.order(config.seed, config.global_batch),
            horizon: ahead + (2 * window).div_ceil(config.global_batch as u64) as usize,
            dataset,
            config,
            events,
            wake: wake.clone(),
            promises,
            readers: pool("lidit-reader", READS)?,
            decoders: pool("lidit-decoder", cores.min(MAX_DECODERS))?,
            rows: RowStore::new(ROOM),
            planned: VecDeque::new(),
            next_step: config.start_step,
            ahead,
            reads: 0,
            rows_under_way: 0,
            decoding: 0,
            untaken: 0,
        };
        Ok((pipeline, wake, promised))
    }

    /// Works until it is told to stop, then waits a little for what is under way.
    pub fn run(mut self) {
        loop {
            self.plan();
            self.read();
            self.decode();
            match self.events.recv() {
                Ok(Event::Stop) | Err(_) => break,
                Ok(event) => self.note(event),
            }
            // Everything that has happened since is one reason to look again.
            while let Ok(event) = self.events.try_recv() {
                if let Event::Stop = event {
                    return self.settle();
                }
                self.note(event);
            }
        }
        self.settle();
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Read { rows, rows_of_block } => {
                self.reads -= 1;
                self.rows_under_way -= rows_of_block;
                let step = self.planned.front().map_or(self.next_step, |planned| planned.step);
                self.rows.put(rows, step);
            }
            Event::Decoded => self.decoding -= 1,
            Event::Taken => self.untaken -= 1,
            Event::Stop => {}
        }
    }

    fn plan(&mut self) {
        while self.planned.len() < self.horizon {
            let step = self.next_step;
            let draws = self.order.draws(step, &self.config.share);
            let ids = draws.iter().map(|draw| draw.id);
            let unread: Vec<u64> = ids.filter(|id| self.dataset.remembered(*id).is_none()).collect();
            for id in &unread {
                self.rows.want(step, *id, || self.dataset.block_of(*id));
            }
            self.planned.push_back(PlannedStep {
                step,
                size: self.order.size(step),
                draws,
                unread,
            });
            self.next_step += 1;
        }
    }

    /// The step at hand is read whatever it takes, what comes after it as far as there is room.
    fn read(&mut self) {
        let missing: Vec<u64> = self.planned.front().map_or_else(Vec::new, |planned| {
            let unread = planned.unread.iter().copied();
            unread.filter(|id| self.rows.is_missing(*id)).collect()
        });
        for id in missing {
            if !self.may_read() {
                return;
            }
            if let Some((block, ids)) = self.rows.read_now(id) {
                self.start_read(block, ids);
            }
        }
        while self.may_read()
            && let Some((block, ids)) = self.rows.next_read(self.rows_under_way)
        {
            self.start_read(block, ids);
        }
    }

    fn may_read(&self) -> bool {
        self.reads == 0 || self.reads < READS && self.rows_under_way * self.rows.mean_bytes() < READ_ROOM
    }

    fn start_read(&mut self, block: BlockKey, ids: Vec<u64>) {
        // Without an offset index all rows of a block are read, whichever are wanted.
        let rows_of_block = self.dataset.block_len(block);
        self.reads += 1;
        self.rows_under_way += rows_of_block;
        let (dataset, wake, wanted) = (self.dataset.clone(), self.wake.clone(), self.config.wanted);
        self.readers.spawn(move || {
            let rows = dataset.read_block(block, &ids, wanted);
            drop(dataset);
            // Without a receiver the pipeline is gone, and with it the need.
            let _ = wake.send(Event::Read { rows, rows_of_block });
        });
    }

    fn decode(&mut self) {
        while self.untaken < self.ahead {
            let Some(planned) = self.planned.pop_front_if(|planned| {
                let mut unread = planned.unread.iter();
                unread.all(|id| !self.rows.is_missing(*id))
            }) else {
                return;
            };
            let rows: Vec<Option<ReadRow>> = planned.draws.iter().map(|draw| self.rows.take(draw.id)).collect();
            let (promise, promised) = channel();
            let (dataset, wake, config) = (self.dataset.clone(), self.wake.clone(), self.config);
            self.decoding += 1;
            self.untaken += 1;
            self.decoders.spawn(move || {
                let step = decode_step(&dataset, &config, &planned, &rows);
                drop(dataset);
                let _ = promise.send(step);
                let _ = wake.send(Event::Decoded);
            });
            let _ = self.promises.send(promised);
        }
    }

    // A server that does not answer must not hold up a run that was asked to stop.
    fn settle(mut self) {
        while self.reads + self.decoding > 0 {
            match self.events.recv_timeout(PATIENCE) {
                Ok(event) => self.note(event),
                Err(_) => return,
            }
        }
    }
}

fn decode_step(
    dataset: &Dataset,
    config: &LoaderConfig,
    planned: &PlannedStep,
    rows: &[Option<ReadRow>],
) -> LoadedStep {
    let unusable = Mutex::default();
    let decode = |index: usize| {
        let id = planned.draws[index].id;
        dataset.remembered(id).or_else(|| {
            let row = rows[index].clone().map(Arc::unwrap_or_clone);
            let row = row.unwrap_or_else(|| Err("it was not read".to_owned()));
            let decoded = row.and_then(|row| dataset.decode(id, row, planned.size, config.wanted));
            decoded
                .map_err(|reason| note_unusable(&unusable, dataset.unusable(id, reason)))
                .ok()
        })
    };
    let first = (0..planned.draws.len()).step_by(config.micro_batch);
    let micro_batches = first
        .map(|first| {
            let end = (first + config.micro_batch).min(planned.draws.len());
            MicroBatch::new(config, &planned.draws[first..end], planned.size, |index| {
                decode(first + index)
            })
        })
        .collect();
    let mut unusable: Vec<Quarantined> = unusable.into_inner().unwrap_or_else(PoisonError::into_inner);
    unusable.sort_unstable_by_key(|row| row.id);
    LoadedStep {
        micro_batches,
        unusable,
    }
}

fn note_unusable(unusable: &Mutex<Vec<Quarantined>>, row: Quarantined) {
    unusable.lock().unwrap_or_else(PoisonError::into_inner).push(row);
}

fn pool(name: &'static str, threads: usize) -> Result<ThreadPool, DataError> {
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(move |index| format!("{name}-{index}"))
        .build()
        .map_err(|error| DataError::Threads {
            reason: error.to_string(),
        })
}
