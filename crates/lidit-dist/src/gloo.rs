//! Collectives between CPU processes, over Gloo's connections.
//!
//! Gloo moves the bytes; the order of sums is ours: **rank order**, element by element, whatever the split. A vector
//! reduced whole, in ranges, or with another kind of split therefore has the same bits. Each rank sends every other
//! rank its part of the vector directly and sums its own part: as much traffic as a ring, in one hop.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytemuck::Pod;

use crate::mesh::{Broken, Mesh, UNDER_WAY};
use crate::store::Store;
use crate::watch::Watch;
use crate::{DistError, Meeting, Member, Place, bf16, interface};

/// The most bytes that travel at once from one rank to another. Less costs processor time, more does not overlap.
const SEGMENT: usize = 1 << 21;
/// Elements that are summed at once, over all ranks: they stay in the processor's first cache meanwhile.
const BLOCK: usize = 2048;
/// Bytes in which summands of all ranks may land before they are summed.
const LANDING: usize = 1 << 26;
/// Below this a vector goes whole to everybody: one hop instead of two.
const SMALL: usize = 1 << 14;
/// The most a broadcast may carry.
const MAX_BROADCAST: u64 = 1 << 32;
/// How long a rank that is done waits for the others before it closes its connections.
const FAREWELL: Duration = Duration::from_secs(1);

/// The ranks of a run on CPUs, connected over Gloo.
pub struct Gloo {
    rank: usize,
    size: usize,
    deadline: Duration,
    // Before the store: its thread holds one as well.
    watch: Watch,
    store: Arc<Store>,
    mesh: Mutex<State>,
}

/// A mesh that works, or who broke it.
enum State {
    Alive(Mesh),
    Dead { members: Vec<Member>, detail: String },
}

impl Gloo {
    /// Meets the other ranks and connects to each.
    pub fn join(place: &Place, meeting: &Meeting, deadline: Duration) -> Result<Self, DistError> {
        let store = Arc::new(Store::join(place, meeting, deadline)?);
        let address = match &place.interface {
            Some(asked) => interface::choose(asked, store.local_address())?,
            None => store.local_address(),
        };
        let mesh = Mesh::connect(place.rank, place.size, address, &store, deadline)
            .map_err(|detail| store.blame("connect", &[], detail))?;
        let abort = mesh.abort();
        let watch = Watch::start(Arc::clone(&store), move || abort.abort())?;
        Ok(Self {
            rank: place.rank,
            size: place.size,
            deadline,
            watch,
            store,
            mesh: Mutex::new(State::Alive(mesh)),
        })
    }

    /// Replaces `values` by their fold over ranks, in rank order.
    pub fn all_reduce<T: Pod>(
        &self,
        operation: &'static str,
        values: &mut [T],
        fold: impl Fn(T, T) -> T,
    ) -> Result<(), DistError> {
        self.run(operation, |mesh, until| {
            if size_of_val(values) <= SMALL {
                return self.reduce_small(mesh, values, fold, until);
            }
            let ranges = split(values.len(), self.size);
            self.reduce_parts(mesh, values, &ranges, fold, until)?;
            self.gather_parts(mesh, values, &ranges, until)
        })
    }

    /// Replaces `values[ranges[rank]]` by its fold over ranks, in rank order; leaves the rest as it was.
    pub fn reduce_scatter<T: Pod>(
        &self,
        operation: &'static str,
        values: &mut [T],
        ranges: &[Range<usize>],
        fold: impl Fn(T, T) -> T,
    ) -> Result<(), DistError> {
        self.run(operation, |mesh, until| {
            self.reduce_parts(mesh, values, ranges, fold, until)
        })
    }

    /// As `all_reduce` with a sum of f32, but every rank's summands travel as bf16; their sum is made and sent in f32.
    pub fn all_reduce_bf16(&self, operation: &'static str, values: &mut [f32]) -> Result<(), DistError> {
        self.run(operation, |mesh, until| {
            let ranges = split(values.len(), self.size);
            self.reduce_parts_bf16(mesh, values, &ranges, until)?;
            self.gather_parts(mesh, values, &ranges, until)
        })
    }

    /// As `reduce_scatter` with a sum of f32, but every rank's summands travel as bf16; their sum is made in f32.
    pub fn reduce_scatter_bf16(
        &self,
        operation: &'static str,
        values: &mut [f32],
        ranges: &[Range<usize>],
    ) -> Result<(), DistError> {
        self.run(operation, |mesh, until| {
            self.reduce_parts_bf16(mesh, values, ranges, until)
        })
    }

    /// Fills `values[ranges[r]]` with rank r's, for every r.
    pub fn all_gather<T: Pod>(
        &self,
        operation: &'static str,
        values: &mut [T],
        ranges: &[Range<usize>],
    ) -> Result<(), DistError> {
        self.run(operation, |mesh, until| self.gather_parts(mesh, values, ranges, until))
    }

    /// Replaces `bytes` by those of rank `root`.
    pub fn broadcast(&self, bytes: &mut Vec<u8>, root: usize) -> Result<(), DistError> {
        self.run("broadcast", |mesh, until| {
            let mut len = (bytes.len() as u64).to_le_bytes();
            self.spread(mesh, &mut len, root, until)?;
            let len = u64::from_le_bytes(len);
            if len > MAX_BROADCAST {
                let detail = format!("{len} bytes announced, at most {MAX_BROADCAST} are allowed");
                return Err(Broken {
                    peer: Some(root),
                    detail,
                });
            }
            bytes.resize(len as usize, 0);
            self.spread(mesh, bytes, root, until)
        })
    }

    /// Runs one collective under the deadline. Its failure kills the mesh and finds out who is to blame.
    fn run(
        &self,
        operation: &'static str,
        collective: impl FnOnce(&mut Mesh, Instant) -> Result<(), Broken>,
    ) -> Result<(), DistError> {
        let mut state = self.mesh.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = match &mut *state {
            State::Dead { members, detail } => {
                let detail = format!("the world ended before: {detail}");
                return Err(DistError::Peer {
                    members: members.clone(),
                    operation,
                    detail,
                });
            }
            State::Alive(mesh) => {
                let until = Instant::now() + self.deadline;
                match self.watch.during(until, || collective(mesh, until)) {
                    Ok(()) => return Ok(()),
                    Err(broken) => broken,
                }
            }
        };
        let detail = format!("{} (deadline {:.1} s)", broken.detail, self.deadline.as_secs_f64());
        let suspects: Vec<usize> = broken.peer.into_iter().collect();
        let error = self.store.blame(operation, &suspects, detail);
        let (members, detail) = match &error {
            DistError::Peer { members, detail, .. } => (members.clone(), detail.clone()),
            other => (Vec::new(), other.to_string()),
        };
        *state = State::Dead { members, detail };
        Err(error)
    }

    /// Every rank sends everything to everybody.
    fn reduce_small<T: Pod>(
        &self,
        mesh: &mut Mesh,
        values: &mut [T],
        fold: impl Fn(T, T) -> T,
        until: Instant,
    ) -> Result<(), Broken> {
        let own = values.to_vec();
        let mut theirs = vec![own.clone(); self.size];
        let sends: Vec<_> = self.others().map(|peer| (peer, bytemuck::cast_slice(&own))).collect();
        let mut receives = receives(self.rank, theirs.iter_mut().map(Vec::as_mut_slice));
        mesh.exchange(&sends, &mut receives, self.segment(), until)?;
        let theirs: Vec<&[T]> = self.others().map(|peer| theirs[peer].as_slice()).collect();
        fold_in_rank_order(values, self.rank, &theirs, fold);
        Ok(())
    }

    /// Every rank sends each other rank's range to it, and folds what it receives for its own.
    fn reduce_parts<T: Pod>(
        &self,
        mesh: &mut Mesh,
        values: &mut [T],
        ranges: &[Range<usize>],
        fold: impl Fn(T, T) -> T,
        until: Instant,
    ) -> Result<(), Broken> {
        let mut parts = disjoint(values, ranges);
        let own = std::mem::take(&mut parts[self.rank]);
        let sends: Vec<_> = self
            .others()
            .map(|peer| (peer, bytemuck::cast_slice(parts[peer])))
            .collect();
        let peers: Vec<usize> = self.others().collect();
        let len = size_of_val(own);
        mesh.exchange_and_use(&sends, &peers, len, self.segment(), until, |bytes, came| {
            let own = &mut own[bytes.start / size_of::<T>()..bytes.end / size_of::<T>()];
            let came: Vec<&[T]> = came.iter().map(|bytes| bytemuck::cast_slice(bytes)).collect();
            fold_in_rank_order(own, self.rank, &came, &fold);
        })
    }

    /// As `reduce_parts`. The own summands are rounded too, so that it does not matter who owns a range.
    fn reduce_parts_bf16(
        &self,
        mesh: &mut Mesh,
        values: &mut [f32],
        ranges: &[Range<usize>],
        until: Instant,
    ) -> Result<(), Broken> {
        let mut parts = disjoint(values, ranges);
        let own = std::mem::take(&mut parts[self.rank]);
        let round = |part: &[f32]| -> Vec<u16> { part.iter().map(|value| bf16::round(*value)).collect() };
        let rounded: Vec<_> = self.others().map(|peer| (peer, round(parts[peer]))).collect();
        let sends: Vec<_> = rounded
            .iter()
            .map(|(peer, part)| (*peer, bytemuck::cast_slice(part)))
            .collect();
        let peers: Vec<usize> = self.others().collect();
        let len = own.len() * size_of::<u16>();
        mesh.exchange_and_use(&sends, &peers, len, self.segment(), until, |bytes, came| {
            let own = &mut own[bytes.start / size_of::<u16>()..bytes.end / size_of::<u16>()];
            let came: Vec<&[u16]> = came.iter().map(|bytes| bytemuck::cast_slice(bytes)).collect();
            for start in (0..own.len()).step_by(BLOCK) {
                let block = start..own.len().min(start + BLOCK);
                let own = &mut own[block.clone()];
                let ours = round(own);
                own.fill(0.0);
                for rank in 0..self.size {
                    let summands = match rank.cmp(&self.rank) {
                        Ordering::Less => &came[rank][block.clone()],
                        Ordering::Equal => &ours,
                        Ordering::Greater => &came[rank - 1][block.clone()],
                    };
                    for (value, summand) in own.iter_mut().zip(summands) {
                        *value += bf16::widen(*summand);
                    }
                }
            }
        })
    }

    /// Every rank sends its own range to everybody.
    fn gather_parts<T: Pod>(
        &self,
        mesh: &mut Mesh,
        values: &mut [T],
        ranges: &[Range<usize>],
        until: Instant,
    ) -> Result<(), Broken> {
        let mut parts = disjoint(values, ranges);
        let own = std::mem::take(&mut parts[self.rank]);
        let sends: Vec<_> = self.others().map(|peer| (peer, bytemuck::cast_slice(own))).collect();
        mesh.exchange(
            &sends,
            &mut receives(self.rank, parts.into_iter()),
            self.segment(),
            until,
        )
    }

    /// The root sends `bytes` to everybody; their length is known.
    fn spread(&self, mesh: &mut Mesh, bytes: &mut [u8], root: usize, until: Instant) -> Result<(), Broken> {
        if self.rank == root {
            let sends: Vec<_> = self.others().map(|peer| (peer, &*bytes)).collect();
            mesh.exchange(&sends, &mut [], self.segment(), until)
        } else {
            mesh.exchange(&[], &mut [(root, bytes)], self.segment(), until)
        }
    }

    /// Bytes that travel at once to each rank, whole pages.
    fn segment(&self) -> usize {
        let landing = LANDING / (UNDER_WAY * (self.size - 1).max(1));
        landing.clamp(1 << 16, SEGMENT) / 4096 * 4096
    }

    fn others(&self) -> impl Iterator<Item = usize> {
        let rank = self.rank;
        (0..self.size).filter(move |peer| *peer != rank)
    }
}

impl Drop for Gloo {
    /// Closing a connection may drop what is still on its way to a slower rank, so the last one is waited for.
    fn drop(&mut self) {
        let state = self.mesh.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Dead { .. }) || self.store.set(&format!("left/{}", self.rank), &[]).is_err() {
            return;
        }
        let keys: Vec<String> = self.others().map(|peer| format!("left/{peer}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        // A rank that does not come any more can't lose anything.
        let _ = self.store.wait(&keys, FAREWELL);
    }
}

/// `len` elements in `size` ranges whose lengths differ by at most one.
fn split(len: usize, size: usize) -> Vec<Range<usize>> {
    (0..size)
        .map(|rank| len * rank / size..len * (rank + 1) / size)
        .collect()
}

/// Each range of `values`, exclusively.
fn disjoint<'a, T>(mut values: &'a mut [T], ranges: &[Range<usize>]) -> Vec<&'a mut [T]> {
    let mut parts = Vec::with_capacity(ranges.len());
    let mut at = 0;
    for range in ranges {
        let (_, tail) = values.split_at_mut(range.start - at);
        let (part, rest) = tail.split_at_mut(range.len());
        parts.push(part);
        values = rest;
        at = range.end;
    }
    parts
}

/// One buffer a rank, without the own one.
fn receives<'a, T: Pod>(rank: usize, buffers: impl Iterator<Item = &'a mut [T]>) -> Vec<(usize, &'a mut [u8])> {
    buffers
        .enumerate()
        .filter(|(peer, _)| *peer != rank)
        .map(|(peer, data)| (peer, bytemuck::cast_slice_mut(data)))
        .collect()
}

/// `((rank 0 + rank 1) + rank 2) + ..`, element by element: `own` are those of `rank`, `theirs` the other ranks', in order.
fn fold_in_rank_order<T: Pod>(own: &mut [T], rank: usize, theirs: &[&[T]], fold: impl Fn(T, T) -> T) {
    let (before, after) = theirs.split_at(rank);
    let mut sum = Vec::with_capacity(BLOCK);
    for start in (0..own.len()).step_by(BLOCK) {
        let block = start..own.len().min(start + BLOCK);
        let own = &mut own[block.clone()];
        if let [first, rest @ ..] = before {
            sum.clear();
            sum.extend_from_slice(&first[block.clone()]);
            for next in rest {
                for (sum, next) in sum.iter_mut().zip(&next[block.clone()]) {
                    *sum = fold(*sum, *next);
                }
            }
            for (own, sum) in own.iter_mut().zip(&sum) {
                *own = fold(*sum, *own);
            }
        }
        for next in after {
            for (own, next) in own.iter_mut().zip(&next[block.clone()]) {
                *own = fold(*own, *next);
            }
        }
    }
}
