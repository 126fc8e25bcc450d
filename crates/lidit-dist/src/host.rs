//! The rendezvous of a run, hosted by rank 0: a few keys, and who has come, failed or gone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::member::Member;
use crate::wire::{self, Claim, Message, Op};

/// How long somebody who has proved nothing may keep a connection.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How many connections may be in their handshake at once, beyond the world size.
const MAX_STRANGERS: usize = 64;
/// How many keys and how many counters the ranks may keep.
const MAX_ENTRIES: usize = 1 << 12;
/// The longest that one request may wait.
const MAX_WAIT: Duration = Duration::from_hours(24);
/// How long the host stays, after rank 0 is done with it, for ranks that still ask: most of all, who was at fault.
const LINGER: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);

/// The host: a listening thread and one thread a rank. Dropping it closes every connection.
pub struct Host {
    shared: Arc<Shared>,
}

struct Shared {
    size: usize,
    run: String,
    secret: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<String, Vec<u8>>,
    counters: BTreeMap<String, i64>,
    /// Each rank's host.
    came: BTreeMap<usize, String>,
    victims: BTreeSet<usize>,
    gone: BTreeSet<usize>,
    /// Ranks that others were told are at fault.
    blamed: BTreeSet<usize>,
    streams: Vec<TcpStream>,
    strangers: usize,
    /// Rank 0 leaves: nobody is let in or kept waiting any more.
    closing: bool,
}

impl Host {
    /// Listens on one of `addresses` for `size` ranks of the attempt `run`.
    pub fn listen(addresses: &[SocketAddr], size: usize, run: &str, secret: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(addresses)?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            size,
            run: run.into(),
            secret: secret.into(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        thread::Builder::new()
            .name("rendezvous".into())
            .spawn(move || accepting.accept(&listener))?;
        Ok(Self { shared })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closing = true;
        self.shared.changed.notify_all();
        let until = Instant::now() + LINGER;
        // A rank that is stopped or cut off will never ask.
        while state
            .came
            .keys()
            .any(|rank| !state.gone.contains(rank) && !state.blamed.contains(rank))
        {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                break;
            };
            state = self.shared.wait(state, left);
        }
        for stream in state.streams.drain(..) {
            // Already closed by the other side: nothing left to do.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        self.changed
            .wait_timeout(state, at_most)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while !self.lock().closing {
            match listener.accept() {
                Ok((stream, from)) => self.admit(stream, from),
                // Nobody there, or nobody who stayed.
                Err(_) => thread::sleep(POLL),
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: TcpStream, from: SocketAddr) {
        let mut state = self.lock();
        if state.strangers >= MAX_STRANGERS + self.size {
            refuse(from, "too many connections in their handshake");
            return;
        }
        state.strangers += 1;
        drop(state);
        let serving = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("rendezvous".into())
            .spawn(move || serving.serve(stream, from));
        if let Err(error) = spawned {
            self.lock().strangers -= 1;
            refuse(from, &format!("no thread for it: {error}"));
        }
    }

    fn serve(&self, mut stream: TcpStream, from: SocketAddr) {
        let claim = self.welcome(&mut stream);
        self.lock().strangers -= 1;
        let rank = match claim {
            Ok(claim) => claim.rank,
            Err(error) => return refuse(from, &error.to_string()),
        };
        while let Ok(request) = Message::read(&mut stream) {
            if self.answer(rank, request).write(&mut stream).is_err() {
                break;
            }
        }
        self.lock().gone.insert(rank);
        self.changed.notify_all();
    }

    /// Shakes hands; a rank that knows the secret but does not belong here is told why.
    fn welcome(&self, stream: &mut TcpStream) -> io::Result<Claim> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HANDSHAKE))?;
        stream.set_write_timeout(Some(HANDSHAKE))?;
        let claim = wire::challenge(stream, &self.secret)?;
        let refusal = self.register(&claim, stream)?;
        let (op, why) = match refusal {
            None => (Op::Done, String::new()),
            Some((op, why)) => (op, why),
        };
        Message::of(op, why.clone()).write(stream)?;
        if op != Op::Done {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        // From here on the connection lives as long as its process: its end is how the others learn of a death.
        stream.set_read_timeout(None)?;
        Ok(claim)
    }

    fn register(&self, claim: &Claim, stream: &TcpStream) -> io::Result<Option<(Op, String)>> {
        if claim.run != self.run {
            let why = format!("attempt {:?} meets here, not {:?}", self.run, claim.run);
            return Ok(Some((Op::OtherRun, why)));
        }
        if claim.size != self.size || claim.rank >= self.size {
            let why = format!(
                "rank {} of {} came to a world of {}: give every rank the same WORLD_SIZE",
                claim.rank, claim.size, self.size
            );
            return Ok(Some((Op::Refused, why)));
        }
        let mut state = self.lock();
        if state.closing {
            return Ok(Some((
                Op::OtherRun,
                "rank 0 is leaving, this rank came too late".into(),
            )));
        }
        if let Some(host) = state.came.get(&claim.rank) {
            // A replaced rank may come while those that it was lost to have not noticed yet: the next attempt is its own.
            if state.came.len() == self.size || state.gone.contains(&claim.rank) {
                let why = format!("rank {} has already been here, from {host}", claim.rank);
                return Ok(Some((Op::OtherRun, why)));
            }
            let why = format!(
                "rank {} is already here, from {host}: give every process a rank of its own",
                claim.rank
            );
            return Ok(Some((Op::Refused, why)));
        }
        state.came.insert(claim.rank, claim.host.clone());
        state.streams.push(stream.try_clone()?);
        self.changed.notify_all();
        Ok(None)
    }

    fn answer(&self, rank: usize, request: Message) -> Message {
        let wait = Duration::from_millis(request.number).min(MAX_WAIT);
        match request.op {
            Op::Set => self.set(request.key, request.value),
            Op::Get => self
                .wait_for(wait, |state| state.entries.get(&request.key).cloned())
                .map_or(Message::of(Op::NotYet, []), |value| Message::of(Op::Done, value)),
            Op::Add => self.add(request.key, request.number as i64),
            Op::Members => self.members(wait),
            Op::Victim => {
                self.lock().victims.insert(rank);
                self.changed.notify_all();
                Message::of(Op::Done, [])
            }
            Op::Lost => {
                let state = self.lock();
                ranks(Op::Done, state.gone.union(&state.victims).copied())
            }
            Op::Culprits => self.culprits(rank, wait),
            Op::Done | Op::NotYet | Op::Refused | Op::OtherRun => Message::of(Op::Refused, "not a request"),
        }
    }

    fn members(&self, wait: Duration) -> Message {
        let all = |state: &State| (state.came.len() == self.size).then_some(());
        let _ = self.wait_for(wait, all);
        let state = self.lock();
        let members = state.came.iter();
        Message::of(
            Op::Done,
            members
                .flat_map(|(rank, host)| Member::encode(*rank, host))
                .collect::<Vec<u8>>(),
        )
    }

    fn set(&self, key: String, value: Vec<u8>) -> Message {
        let mut state = self.lock();
        if state.entries.len() >= MAX_ENTRIES {
            return Message::of(Op::Refused, format!("more than {MAX_ENTRIES} entries"));
        }
        state.entries.insert(key, value);
        self.changed.notify_all();
        Message::of(Op::Done, [])
    }

    fn add(&self, key: String, by: i64) -> Message {
        let mut state = self.lock();
        if state.counters.len() >= MAX_ENTRIES {
            return Message::of(Op::Refused, format!("more than {MAX_ENTRIES} counters"));
        }
        let counter = state.counters.entry(key).or_default();
        *counter = counter.wrapping_add(by);
        Message {
            number: *counter as u64,
            ..Message::of(Op::Done, [])
        }
    }

    /// A rank that went without having blamed another one is at fault; if none did, those that say nothing are: they
    /// are stopped or cut off.
    fn culprits(&self, asking: usize, wait: Duration) -> Message {
        let others = || (0..self.size).filter(move |rank| *rank != asking);
        let dead = |state: &State| -> Vec<usize> {
            others()
                .filter(|rank| state.gone.contains(rank) && !state.victims.contains(rank))
                .collect()
        };
        let silent = |state: &State| -> Vec<usize> {
            others()
                .filter(|rank| !state.gone.contains(rank) && !state.victims.contains(rank))
                .collect()
        };
        let settled = |state: &State| (!dead(state).is_empty() || silent(state).is_empty()).then_some(());
        let _ = self.wait_for(wait, settled);
        let mut state = self.lock();
        let dead = dead(&state);
        let culprits = if dead.is_empty() { silent(&state) } else { dead };
        state.blamed.extend(&culprits);
        ranks(Op::Done, culprits.into_iter())
    }

    /// Waits until `ready` answers something, the time is over, or the host closes.
    fn wait_for<T>(&self, at_most: Duration, ready: impl Fn(&State) -> Option<T>) -> Option<T> {
        let until = Instant::now() + at_most;
        let mut state = self.lock();
        loop {
            let answer = ready(&state);
            let left = until.checked_duration_since(Instant::now());
            match (answer, left) {
                (None, Some(left)) if !state.closing => state = self.wait(state, left),
                (answer, _) => return answer,
            }
        }
    }
}

/// A reply that lists ranks, 4 bytes each.
fn ranks(op: Op, ranks: impl Iterator<Item = usize>) -> Message {
    Message::of(
        op,
        ranks.flat_map(|rank| (rank as u32).to_le_bytes()).collect::<Vec<u8>>(),
    )
}

/// The log line for somebody who was not let in.
fn refuse(from: SocketAddr, why: &str) {
    eprintln!("rendezvous: refused a connection from {from}: {why}");
}
