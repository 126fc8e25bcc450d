//! Collectives between GPU processes, over NCCL.
//!
//! One communicator a process, non-blocking: every call returns at once, and a loop watches NCCL's asynchronous error and
//! the stream until the work is done or the deadline is over; then the communicator is aborted, which also ends
//! kernels that wait for a peer. Buffers are the host's, staged through one device buffer, like Gloo's: device pointers
//! (no staging, overlap with compute) need the hub's flat tensors to live on the device first.
//!
//! All ranks need the same version of NCCL. NCCL's own connections are not authenticated: use a private network.
#![expect(
    unsafe_code,
    reason = "calls NCCL and the CUDA driver; each block says what it relies on"
)]

use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytemuck::Pod;
use cudarc::nccl::{result, sys};

use crate::communicator::{Communicator, Failure, open_device};
use crate::watch::Watch;
use crate::{DistError, Meeting, Member, Place, Store, Wire, bf16};

/// The oldest NCCL whose configuration has what the binding writes.
const OLDEST: i32 = 21_800;
const MAX_BROADCAST: u64 = 1 << 32;

/// The ranks of a run on GPUs, connected over NCCL.
pub struct Nccl {
    rank: usize,
    deadline: Duration,
    // Before the store: its thread holds one as well.
    watch: Watch,
    store: Arc<Store>,
    state: Mutex<State>,
}

/// A communicator that works, or who broke it.
enum State {
    Alive(Communicator),
    Dead { members: Vec<Member>, detail: String },
}

impl Nccl {
    /// Meets the other ranks, agrees on a version and an id with them, and connects.
    pub fn join(place: &Place, meeting: &Meeting, deadline: Duration) -> Result<Self, DistError> {
        let version = version()?;
        let store = Arc::new(Store::join(place, meeting, deadline)?);
        let until = Instant::now() + deadline;
        let id = agree_on_id(place.rank, version, &store, deadline)?;
        let mut communicator =
            Communicator::new(&open_device(place.local_rank)?).map_err(|failure| own(failure.text()))?;
        if let Err(failure) = communicator.connect(place, id, until) {
            communicator.abort();
            return Err(match failure {
                Failure::Peer(detail) => store.blame("connect", &[], detail),
                Failure::Own(problem) => own(problem),
            });
        }
        let lost = Arc::clone(&communicator.lost);
        let watch = Watch::start(Arc::clone(&store), move || lost.store(true, Ordering::Relaxed))?;
        let state = Mutex::new(State::Alive(communicator));
        Ok(Self {
            rank: place.rank,
            deadline,
            watch,
            store,
            state,
        })
    }

    /// Replaces `values` by their sum over ranks. NCCL adds in the type that travels: over bf16 it rounds the result, and
    /// depending on its algorithm the sums on the way to it.
    pub fn all_reduce_sum(&self, values: &mut [f32], wire: Wire) -> Result<(), DistError> {
        match wire {
            Wire::F32 => self.all_reduce("all_reduce_sum", values, Kind { data: F32, fold: SUM }),
            Wire::Bf16 => {
                let mut rounded = round(values);
                self.all_reduce("all_reduce_sum", &mut rounded, Kind { data: BF16, fold: SUM })?;
                widen(&rounded, values);
                Ok(())
            }
        }
    }

    /// Replaces `values` by their sum over ranks.
    pub fn sum_f64(&self, values: &mut [f64]) -> Result<(), DistError> {
        self.all_reduce("sum_f64", values, Kind { data: F64, fold: SUM })
    }

    /// The largest `value` of all ranks.
    pub fn max(&self, value: u64) -> Result<u64, DistError> {
        let mut values = [value];
        self.all_reduce("max", &mut values, Kind { data: U64, fold: MAX })?;
        Ok(values[0])
    }

    /// Replaces `values[ranges[rank]]` by its sum over ranks, as [`Nccl::all_reduce_sum`] adds; leaves the rest as it was.
    pub fn reduce_scatter_sum(&self, values: &mut [f32], ranges: &[Range<usize>], wire: Wire) -> Result<(), DistError> {
        let own = ranges[self.rank].clone();
        match wire {
            Wire::F32 => self.reduce_scatter(values, ranges, F32),
            Wire::Bf16 => {
                let mut rounded = round(values);
                self.reduce_scatter(&mut rounded, ranges, BF16)?;
                widen(&rounded[own.clone()], &mut values[own]);
                Ok(())
            }
        }
    }

    fn reduce_scatter<T: Pod>(
        &self,
        values: &mut [T],
        ranges: &[Range<usize>],
        kind: sys::ncclDataType_t,
    ) -> Result<(), DistError> {
        self.run("reduce_scatter_sum", |communicator, until| {
            let device = communicator.upload(values)?;
            // Ranges of different lengths: one reduction a rank, in one group.
            communicator.group(until, |raw, stream| {
                ranges.iter().enumerate().try_for_each(|(root, range)| {
                    let at = at(device, range.start * size_of::<T>());
                    // SAFETY: the staging buffer holds all of `values` and lives until the group is done.
                    unsafe { result::reduce(at, at, range.len(), kind, SUM, root as i32, raw, stream) }.map(|_| ())
                })
            })?;
            communicator.download(values, ranges[self.rank].clone())
        })
    }

    /// Fills `values[ranges[r]]` with rank r's, for every r.
    pub fn all_gather<T: Pod>(&self, values: &mut [T], ranges: &[Range<usize>]) -> Result<(), DistError> {
        self.run("all_gather", |communicator, until| {
            let device = communicator.upload(values)?;
            communicator.group(until, |raw, stream| {
                ranges.iter().enumerate().try_for_each(|(root, range)| {
                    let at = at(device, range.start * size_of::<T>());
                    let bytes = range.len() * size_of::<T>();
                    // SAFETY: the staging buffer holds all of `values` and lives until the group is done.
                    unsafe { result::broadcast(at, at, bytes, U8, root as i32, raw, stream) }.map(|_| ())
                })
            })?;
            communicator.download(values, 0..values.len())
        })
    }

    /// Replaces `bytes` by those of rank `root`.
    pub fn broadcast(&self, bytes: &mut Vec<u8>, root: usize) -> Result<(), DistError> {
        self.run("broadcast", |communicator, until| {
            let mut len = [bytes.len() as u64];
            spread(communicator, &mut len, root, until)?;
            if len[0] > MAX_BROADCAST {
                return Err(Failure::Peer(format!(
                    "{} bytes announced, at most {MAX_BROADCAST} are allowed",
                    len[0]
                )));
            }
            bytes.resize(len[0] as usize, 0);
            spread(communicator, bytes, root, until)
        })
    }

    fn all_reduce<T: Pod>(&self, operation: &'static str, values: &mut [T], kind: Kind) -> Result<(), DistError> {
        self.run(operation, |communicator, until| {
            let device = communicator.upload(values)?;
            communicator.group(until, |raw, stream| {
                // SAFETY: the staging buffer holds all of `values` and lives until the group is done.
                unsafe { result::all_reduce(device, device, values.len(), kind.data, kind.fold, raw, stream) }
                    .map(|_| ())
            })?;
            communicator.download(values, 0..values.len())
        })
    }

    /// Runs one collective under the deadline. Its failure aborts the communicator and finds out who is to blame.
    fn run(
        &self,
        operation: &'static str,
        collective: impl FnOnce(&mut Communicator, Instant) -> Result<(), Failure>,
    ) -> Result<(), DistError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = match &mut *state {
            State::Dead { members, detail } => {
                let detail = format!("the world ended before: {detail}");
                return Err(DistError::Peer {
                    members: members.clone(),
                    operation,
                    detail,
                });
            }
            State::Alive(communicator) => {
                let until = Instant::now() + self.deadline;
                match self.watch.during(until, || collective(communicator, until)) {
                    Ok(()) => return Ok(()),
                    Err(failure) => {
                        communicator.abort();
                        failure
                    }
                }
            }
        };
        let error = match failure {
            Failure::Own(problem) => own(format!("{operation}: {problem}")),
            Failure::Peer(detail) => {
                let detail = format!("{detail} (deadline {:.1} s)", self.deadline.as_secs_f64());
                self.store.blame(operation, &[], detail)
            }
        };
        let members = match &error {
            DistError::Peer { members, .. } => members.clone(),
            _ => Member::of([self.rank], self.store.hosts()),
        };
        *state = State::Dead {
            members,
            detail: error.to_string(),
        };
        Err(error)
    }
}

/// What is folded, and how.
#[derive(Clone, Copy)]
struct Kind {
    data: sys::ncclDataType_t,
    fold: sys::ncclRedOp_t,
}

const F32: sys::ncclDataType_t = sys::ncclDataType_t::ncclFloat32;
const BF16: sys::ncclDataType_t = sys::ncclDataType_t::ncclBfloat16;
const F64: sys::ncclDataType_t = sys::ncclDataType_t::ncclFloat64;
const U64: sys::ncclDataType_t = sys::ncclDataType_t::ncclUint64;
const U8: sys::ncclDataType_t = sys::ncclDataType_t::ncclUint8;
const SUM: sys::ncclRedOp_t = sys::ncclRedOp_t::ncclSum;
const MAX: sys::ncclRedOp_t = sys::ncclRedOp_t::ncclMax;

/// Replaces `values` by those of `root`; their length is known.
fn spread<T: Pod>(
    communicator: &mut Communicator,
    values: &mut [T],
    root: usize,
    until: Instant,
) -> Result<(), Failure> {
    let device = communicator.upload(values)?;
    let bytes = size_of_val(values);
    communicator.group(until, |raw, stream| {
        // SAFETY: the staging buffer holds all of `values` and lives until the group is done.
        unsafe { result::broadcast(device, device, bytes, U8, root as i32, raw, stream) }.map(|_| ())
    })?;
    communicator.download(values, 0..values.len())
}

fn own(problem: String) -> DistError {
    DistError::Engine {
        engine: "nccl",
        problem,
    }
}

fn round(values: &[f32]) -> Vec<u16> {
    values.iter().map(|value| bf16::round(*value)).collect()
}

fn widen(rounded: &[u16], values: &mut [f32]) {
    for (value, rounded) in values.iter_mut().zip(rounded) {
        *value = bf16::widen(*rounded);
    }
}

fn at(device: *mut c_void, bytes: usize) -> *mut c_void {
    device.wrapping_byte_add(bytes)
}

/// NCCL's version as an integer, 23007 for 2.30.7; an error if there is no usable library. Needs no GPU.
fn version() -> Result<i32, DistError> {
    // SAFETY: only looks for the library. Every other call would panic without it.
    if !unsafe { sys::is_culib_present() } {
        return Err(own(
            "libnccl.so is not found (only libnccl.so.2 is there? make a link): put its folder into LD_LIBRARY_PATH"
                .into(),
        ));
    }
    let version = result::get_nccl_version().map_err(|error| own(format!("no version: {:?}", error.0)))?;
    if version < OLDEST {
        return Err(own(format!("version {version} is too old: install {OLDEST} or newer")));
    }
    Ok(version)
}

/// Rank 0 makes the id and publishes it with its version; the others fetch both.
fn agree_on_id(rank: usize, version: i32, store: &Store, deadline: Duration) -> Result<sys::ncclUniqueId, DistError> {
    const KEY: &str = "nccl/id";
    if rank == 0 {
        let id = result::get_uniqueid().map_err(|error| own(format!("no id: {:?}", error.0)))?;
        let mut bytes = version.to_le_bytes().to_vec();
        bytes.extend(id.internal.map(|byte| byte as u8));
        store.set(KEY, &bytes)?;
        return Ok(id);
    }
    let bytes = store.get(KEY, deadline)?;
    let parts = bytes
        .split_first_chunk::<4>()
        .and_then(|(version, id)| Some((version, <[u8; 128]>::try_from(id).ok()?)));
    let Some((theirs, id)) = parts else {
        return Err(own(format!("rank 0 published {} bytes for an id", bytes.len())));
    };
    let theirs = i32::from_le_bytes(*theirs);
    if theirs != version {
        return Err(own(format!(
            "rank 0 has version {theirs}, rank {rank} has {version}: install the same one everywhere"
        )));
    }
    Ok(sys::ncclUniqueId {
        internal: id.map(|byte| byte as std::ffi::c_char),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::thread;

    use super::*;
    use crate::World;

    const DEADLINE: Duration = Duration::from_secs(10);

    /// The library's version; nothing, and a line that says so, where there is none. No GPU is needed.
    fn library() -> Option<i32> {
        version().map_err(|error| println!("not run: {error}")).ok()
    }

    fn on_ranks<T: Send>(size: usize, rank_main: impl Fn(&Place, &Meeting) -> T + Sync) -> Vec<T> {
        let meeting = Meeting::on_this_host("test").unwrap();
        thread::scope(|scope| {
            let ranks: Vec<_> = (0..size)
                .map(|rank| {
                    let (meeting, rank_main) = (&meeting, &rank_main);
                    scope.spawn(move || rank_main(&Place::of(rank, size, rank), meeting))
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn all_ranks_agree_on_an_id_of_the_real_library() {
        let Some(version) = library() else { return };
        let agree = || {
            on_ranks(3, |place, meeting| {
                let store = Store::join(place, meeting, DEADLINE).unwrap();
                agree_on_id(place.rank, version, &store, DEADLINE).unwrap().internal
            })
        };
        let [one, other] = [agree(), agree()];
        assert!(one.iter().all(|id| *id == one[0]) && other.iter().all(|id| *id == other[0]));
        assert_ne!(one[0], other[0], "every world has an id of its own");
    }

    #[test]
    fn another_version_on_a_rank_is_named() {
        let Some(version) = library() else { return };
        let outcomes = on_ranks(2, |place, meeting| {
            let store = Store::join(place, meeting, DEADLINE).unwrap();
            agree_on_id(place.rank, version + place.rank as i32, &store, DEADLINE).map(|_| ())
        });
        assert!(outcomes[0].is_ok());
        let message = outcomes[1].as_ref().unwrap_err().to_string();
        assert_eq!(
            message,
            format!(
                "nccl: rank 0 has version {version}, rank 1 has {}: install the same one everywhere",
                version + 1
            )
        );
    }

    #[test]
    fn without_a_driver_ranks_say_so_after_they_have_met() {
        // SAFETY: only looks for the library.
        if library().is_none() || unsafe { cudarc::driver::sys::is_culib_present() } {
            println!("not run: this needs NCCL and no driver");
            return;
        }
        let errors = on_ranks(2, |place, meeting| {
            let place = Place {
                meeting: Some(meeting.clone()),
                engine: Some(crate::Engine::Nccl),
                ..place.clone()
            };
            World::join(&place, DEADLINE).err().unwrap().to_string()
        });
        for error in errors {
            assert_eq!(error, "nccl: libcuda.so is not found: install NVIDIA's driver");
        }
    }
}
