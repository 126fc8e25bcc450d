//! Notices during a long collective that a rank is gone, whatever the engine's connections say.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{DistError, Store};

/// How long a collective may take before the rendezvous is asked, and how often it is asked again.
const EVERY: Duration = Duration::from_millis(200);

/// A thread that asks the rendezvous, while a collective lasts, whether a rank is gone, and then aborts it.
///
/// A broken connection does not always end an engine's wait: Gloo forgets a send that was under way on it.
pub struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// When the collective under way began, and when its deadline is.
    under_way: Option<(Instant, Instant)>,
    closed: bool,
}

impl Watch {
    /// Starts the thread. `abort` must end the collective under way, and may be called when none is.
    pub fn start(store: Arc<Store>, abort: impl Fn() + Send + 'static) -> Result<Self, DistError> {
        let shared = Arc::<Shared>::default();
        let watching = Arc::clone(&shared);
        let thread = thread::Builder::new().name("watch".into());
        let thread = thread
            .spawn(move || watching.watch(&store, &abort))
            .map_err(|error| DistError::Engine {
                engine: "watch",
                problem: format!("no thread for it: {error}"),
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Runs a collective under watch.
    pub fn during<T>(&self, until: Instant, collective: impl FnOnce() -> T) -> T {
        self.shared.lock().under_way = Some((Instant::now(), until));
        self.shared.changed.notify_all();
        let result = collective();
        self.shared.lock().under_way = None;
        result
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // The store must not outlive its world; a thread that panicked holds it no more.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, store: &Store, abort: &impl Fn()) {
        let mut state = self.lock();
        while !state.closed {
            let Some((since, until)) = state.under_way else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let early = EVERY.saturating_sub(since.elapsed());
            if !early.is_zero() {
                state = self
                    .changed
                    .wait_timeout(state, early)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                continue;
            }
            drop(state);
            // A host that is only slow may answer until the deadline: that is for the collective to judge.
            let lost = store.any_lost(until.saturating_duration_since(Instant::now()));
            if !matches!(lost, Ok(false)) {
                return abort();
            }
            state = self
                .changed
                .wait_timeout(self.lock(), EVERY)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}
