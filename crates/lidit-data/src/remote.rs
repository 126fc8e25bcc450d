//! Objects behind URLs: one client a store, retries, deadlines.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::client::connect;
use crate::error::DataError;
use crate::failure::{Failure, chain, silence};
use crate::location::{Scheme, Url};

// Requests in flight, over all threads of the process.
const REQUESTS: usize = 64;

// Requests in flight for one call, so that one large row group leaves room for others.
const REQUESTS_A_CALL: usize = 16;

// A longer range is asked for in pieces of this size: a slow network then fails a piece, not a whole row group.
const PIECE_BYTES: u64 = 8 << 20;

/// How long and how often a request is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Times a request is tried.
    pub attempts: u32,
    /// Before the second try; doubled before each further one.
    pub first_wait: Duration,
    /// The longest wait between two tries.
    pub longest_wait: Duration,
    /// One try, from connecting to the last byte.
    pub request: Duration,
    /// The longest pause inside an answer.
    pub stall: Duration,
    /// All tries together.
    pub total: Duration,
}

impl Limits {
    /// Those of every run.
    pub const USUAL: Self = Self {
        attempts: 8,
        first_wait: Duration::from_millis(100),
        longest_wait: Duration::from_secs(10),
        request: Duration::from_mins(1),
        stall: Duration::from_secs(20),
        total: Duration::from_mins(3),
    };
}

/// Clients with the threads they run on. Clones share both.
#[derive(Clone)]
pub(crate) struct Remote {
    shared: Arc<Shared>,
    limits: Limits,
}

struct Shared {
    runtime: Runtime,
    stores: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
    permits: Semaphore,
}

impl Remote {
    /// The process's clients, made when first asked for.
    pub fn shared(limits: Limits) -> Result<Self, DataError> {
        static SHARED: Mutex<Option<Arc<Shared>>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = match &*shared {
            Some(shared) => shared.clone(),
            None => shared.insert(Arc::new(Shared::new()?)).clone(),
        };
        Ok(Self { shared, limits })
    }

    /// An object's size and its last `bytes`, or all of it where it has fewer.
    pub fn tail(&self, url: &Url, bytes: u64) -> Result<(u64, Bytes), DataError> {
        let (this, own) = (self.clone(), url.clone());
        self.wait(url, async move {
            // Azure alone knows no ranges from the end.
            if own.scheme == Scheme::Azure {
                let len = this.len(&own).await?;
                let range = len.saturating_sub(bytes)..len;
                return Ok((len, this.range(&own, len, range).await?));
            }
            let what = format!("the last {bytes} bytes");
            this.retry(&own, &what, || this.get(&own, GetRange::Suffix(bytes)))
                .await
        })
    }

    /// Ranges of an object of `len` bytes, one request each (more for a long one), many in flight.
    pub fn ranges(&self, url: &Url, len: u64, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>, DataError> {
        let (this, own) = (self.clone(), url.clone());
        self.wait(url, async move {
            let pieces: Vec<Range<u64>> = ranges.iter().flat_map(pieces).collect();
            let fetched = futures::stream::iter(pieces)
                .map(|piece| this.range(&own, len, piece).boxed())
                .buffered(REQUESTS_A_CALL)
                .try_collect::<Vec<_>>()
                .await?;
            let mut fetched = fetched.into_iter();
            Ok(ranges.iter().map(|range| joined(range, &mut fetched)).collect())
        })
    }

    /// A whole object; none where there is no such one.
    pub fn whole(&self, url: &Url) -> Result<Option<Bytes>, DataError> {
        let (this, own) = (self.clone(), url.clone());
        self.wait(url, async move {
            this.retry(&own, "the whole object", || this.get_whole(&own)).await
        })
    }

    /// Keys of all objects below a prefix (whole segments of a key), in order.
    pub fn list(&self, url: &Url) -> Result<Vec<String>, DataError> {
        let (this, own) = (self.clone(), url.clone());
        self.wait(url, async move {
            let keys = Mutex::new(Vec::new());
            // A long listing is many requests: one that breaks off goes on behind the last key it gave.
            while !this.retry(&own, "a listing", || this.list_on(&own, &keys)).await? {}
            let mut keys = keys.into_inner().unwrap_or_else(PoisonError::into_inner);
            keys.sort();
            Ok(keys)
        })
    }

    // Lists behind the last key found: whether that was the end, or false where it failed but came further.
    async fn list_on(&self, url: &Url, keys: &Mutex<Vec<String>>) -> Result<bool, Failure> {
        let lock = || keys.lock().unwrap_or_else(PoisonError::into_inner);
        let store = self.store(url)?;
        let prefix = Some(key(url)?).filter(|key| !key.as_ref().is_empty());
        let last = lock().last().cloned();
        let mut entries = match &last {
            None => store.list(prefix.as_ref()),
            Some(last) => store.list_with_offset(prefix.as_ref(), &parse(last)?),
        };
        let before = lock().len();
        loop {
            let entry = match timeout(self.limits.request, entries.next()).await {
                Err(_) => Err(Failure::Passing(silence(self.limits.request))),
                Ok(entry) => entry.transpose().map_err(|error| Failure::of(url, &error)),
            };
            match entry {
                Ok(Some(entry)) => lock().push(entry.location.to_string()),
                Ok(None) => return Ok(true),
                Err(Failure::Passing(_)) if lock().len() > before => return Ok(false),
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn len(&self, url: &Url) -> Result<u64, DataError> {
        self.retry(url, "its size", || self.head(url)).await
    }

    async fn head(&self, url: &Url) -> Result<u64, Failure> {
        let head = self.store(url)?.head(&key(url)?).await;
        head.map(|meta| meta.size).map_err(|error| Failure::of(url, &error))
    }

    async fn range(&self, url: &Url, len: u64, range: Range<u64>) -> Result<Bytes, DataError> {
        let what = format!("bytes {}..{}", range.start, range.end);
        let (found, bytes) = self
            .retry(url, &what, || self.get(url, GetRange::Bounded(range.clone())))
            .await?;
        if found != len {
            return Err(DataError::Changed {
                path: url.text().into(),
                expected: len,
                found,
            });
        }
        Ok(bytes)
    }

    // The object's whole size and the bytes of a range.
    async fn get(&self, url: &Url, range: GetRange) -> Result<(u64, Bytes), Failure> {
        let options = GetOptions::new().with_range(Some(range));
        self.get_with(url, options).await
    }

    async fn get_whole(&self, url: &Url) -> Result<Option<Bytes>, Failure> {
        match self.get_with(url, GetOptions::new()).await {
            Ok((_, bytes)) => Ok(Some(bytes)),
            Err(Failure::Missing(_)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn get_with(&self, url: &Url, options: GetOptions) -> Result<(u64, Bytes), Failure> {
        let fail = |error| Failure::of(url, &error);
        let got = self.store(url)?.get_opts(&key(url)?, options).await.map_err(fail)?;
        let (size, expected) = (got.meta.size, got.range.end - got.range.start);
        let mut body = got.into_stream();
        let mut pieces = Vec::new();
        let mut received = 0;
        loop {
            let Ok(piece) = timeout(self.limits.stall, body.next()).await else {
                let silence = silence(self.limits.stall);
                return Err(Failure::Passing(format!(
                    "{silence} after {received} of {expected} bytes"
                )));
            };
            let Some(piece) = piece else { break };
            let piece = piece.map_err(|error| {
                Failure::Passing(format!(
                    "broke off after {received} of {expected} bytes: {}",
                    chain(&error)
                ))
            })?;
            received += piece.len() as u64;
            pieces.push(piece);
            if received > expected {
                break;
            }
        }
        if received != expected {
            return Err(Failure::Passing(format!("ended after {received} of {expected} bytes")));
        }
        Ok((size, concat(pieces)))
    }

    // Tries until it works, fails for good, or the limits are reached.
    async fn retry<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        url: &Url,
        what: &str,
        mut request: impl FnMut() -> F,
    ) -> Result<T, DataError> {
        let limits = &self.limits;
        let deadline = Instant::now() + limits.total;
        let mut wait = limits.first_wait;
        let mut attempt = 1;
        loop {
            let tried = async {
                let _permit = self.shared.permits.acquire().await;
                request().await
            };
            let failure = match timeout_at(deadline, tried).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::Lasting(silence(limits.total)),
            };
            let pause = wait.mul_f64(jitter());
            let (passing, reason) = match failure {
                Failure::Passing(reason) => (true, reason),
                Failure::Lasting(reason) | Failure::Missing(reason) => (false, reason),
            };
            if !passing || attempt == limits.attempts || Instant::now() + pause >= deadline {
                return Err(DataError::Remote {
                    url: url.text(),
                    what: what.to_owned(),
                    attempts: attempt,
                    reason,
                });
            }
            sleep(pause).await;
            wait = (wait * 2).min(limits.longest_wait);
            attempt += 1;
        }
    }

    // Runs on the runtime's own threads, so that the caller may stand on any thread, one of another runtime too.
    fn wait<T: Send + 'static>(
        &self,
        url: &Url,
        task: impl Future<Output = Result<T, DataError>> + Send + 'static,
    ) -> Result<T, DataError> {
        let (send, receive) = sync_channel(1);
        self.shared.runtime.spawn(async move {
            // Nobody listens any more where the caller is gone.
            let _ = send.send(task.await);
        });
        receive.recv().unwrap_or_else(|_| {
            Err(DataError::Remote {
                url: url.text(),
                what: "a request".to_owned(),
                attempts: 1,
                reason: "its task ended without an answer".to_owned(),
            })
        })
    }

    fn store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>, Failure> {
        let id = match &url.query {
            Some(query) => format!("{}?{query}", url.store),
            None => url.store.clone(),
        };
        let mut stores = self.shared.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&id) {
            return Ok(store.clone());
        }
        let store = connect(url.scheme, &id, &self.limits).map_err(|error| Failure::Lasting(chain(&error)))?;
        // A signed address is of one file: clients of thousands would only pile up.
        if url.query.is_none() {
            stores.insert(id, store.clone());
        }
        Ok(store)
    }
}

impl Shared {
    fn new() -> Result<Self, DataError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("lidit-remote")
            .enable_all()
            .build()
            .map_err(|error| DataError::Threads {
                reason: error.to_string(),
            })?;
        Ok(Self {
            runtime,
            stores: Mutex::default(),
            permits: Semaphore::new(REQUESTS),
        })
    }
}

// From half the wait to all of it, so that ranks that failed together don't come back together.
fn jitter() -> f64 {
    0.5 + (RandomState::new().hash_one(0) >> 11) as f64 / (1_u64 << 54) as f64
}

fn key(url: &Url) -> Result<Key, Failure> {
    match url.scheme {
        Scheme::Web => Key::from_url_path(&url.key).map_err(|error| Failure::Lasting(error.to_string())),
        _ => parse(url.key.trim_end_matches('/')),
    }
}

fn parse(key: &str) -> Result<Key, Failure> {
    Key::parse(key).map_err(|error| Failure::Lasting(error.to_string()))
}

fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let Range { start, end } = *range;
    // The last piece is up to twice as long, rather than a few bytes.
    let count = ((end - start) / PIECE_BYTES).max(1);
    (0..count).map(move |piece| {
        let last = piece + 1 == count;
        let start = start + piece * PIECE_BYTES;
        start..if last { end } else { start + PIECE_BYTES }
    })
}

fn joined(range: &Range<u64>, fetched: &mut impl Iterator<Item = Bytes>) -> Bytes {
    concat(fetched.by_ref().take(pieces(range).count()).collect())
}

fn concat(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in pieces {
        all.extend_from_slice(&piece);
    }
    all.freeze()
}
