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

use std::ffi::{CStr, c_void};
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytemuck::Pod;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DriverError, sys as driver};
use cudarc::nccl::result::{self, NcclError};
use cudarc::nccl::sys;

use crate::watch::Watch;
use crate::{DistError, Meeting, Place, Store};

const POLL: Duration = Duration::from_micros(50);
/// How long a rank that is done waits for NCCL to finish what is on its way.
const FAREWELL: Duration = Duration::from_secs(2);
/// The oldest NCCL whose configuration has what the binding writes.
const OLDEST: i32 = 21_800;
/// The version that the binding's configuration describes.
const CONFIG_VERSION: u32 = 23_007;
const CONFIG_MAGIC: u32 = 0xcafe_beef;
/// NCCL's "not set" for integers of the configuration.
const UNSET: i32 = i32::MIN;
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
    Dead { ranks: Vec<usize>, detail: String },
}

/// NCCL's communicator with its stream and the buffer through which host data pass.
struct Communicator {
    raw: sys::ncclComm_t,
    stream: Arc<CudaStream>,
    staging: CudaSlice<u8>,
    /// Set by the watch when a rank is gone.
    lost: Arc<AtomicBool>,
}

// SAFETY: NCCL allows a communicator to be used by one thread after another; the mutex around it sees to that.
unsafe impl Send for Communicator {}

/// Why a collective failed.
enum Failure {
    /// Another rank, as far as NCCL can tell.
    Peer(String),
    /// This rank.
    Own(String),
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

    /// Replaces `values` by their sum over ranks.
    pub fn all_reduce_sum(&self, values: &mut [f32]) -> Result<(), DistError> {
        self.all_reduce("all_reduce_sum", values, Kind { data: F32, fold: SUM })
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

    /// Replaces `values[ranges[rank]]` by its sum over ranks; leaves the rest as it was.
    pub fn reduce_scatter_sum(&self, values: &mut [f32], ranges: &[Range<usize>]) -> Result<(), DistError> {
        self.run("reduce_scatter_sum", |communicator, until| {
            let device = communicator.upload(values)?;
            // Ranges of different lengths: one reduction a rank, in one group.
            communicator.group(until, |raw, stream| {
                ranges.iter().enumerate().try_for_each(|(root, range)| {
                    let at = at(device, range.start * size_of::<f32>());
                    // SAFETY: the staging buffer holds all of `values` and lives until the group is done.
                    unsafe { result::reduce(at, at, range.len(), F32, SUM, root as i32, raw, stream) }.map(|_| ())
                })
            })?;
            communicator.download(values, ranges[self.rank].clone())
        })
    }

    /// Fills `values[ranges[r]]` with rank r's, for every r.
    pub fn all_gather(&self, values: &mut [f32], ranges: &[Range<usize>]) -> Result<(), DistError> {
        self.run("all_gather", |communicator, until| {
            let device = communicator.upload(values)?;
            communicator.group(until, |raw, stream| {
                ranges.iter().enumerate().try_for_each(|(root, range)| {
                    let at = at(device, range.start * size_of::<f32>());
                    // SAFETY: the staging buffer holds all of `values` and lives until the group is done.
                    unsafe { result::broadcast(at, at, range.len(), F32, root as i32, raw, stream) }.map(|_| ())
                })
            })?;
            communicator.download(values, 0..values.len())
        })
    }

    /// Replaces `bytes` by those of rank `root`.
    pub fn broadcast(&self, bytes: &mut Vec<u8>, root: usize) -> Result<(), DistError> {
        self.run("broadcast", |communicator, until| {
            let mut len = [bytes.len() as u64];
            communicator.spread(&mut len, root, until)?;
            if len[0] > MAX_BROADCAST {
                return Err(Failure::Peer(format!(
                    "{} bytes announced, at most {MAX_BROADCAST} are allowed",
                    len[0]
                )));
            }
            bytes.resize(len[0] as usize, 0);
            communicator.spread(bytes, root, until)
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
            State::Dead { ranks, detail } => {
                let detail = format!("the world ended before: {detail}");
                return Err(DistError::Peer {
                    ranks: ranks.clone(),
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
        let (ranks, error) = match failure {
            Failure::Own(problem) => (vec![self.rank], own(format!("{operation}: {problem}"))),
            Failure::Peer(detail) => {
                let detail = format!("{detail} (deadline {:.1} s)", self.deadline.as_secs_f64());
                match self.store.blame(operation, &[], detail) {
                    DistError::Peer {
                        ranks,
                        operation,
                        detail,
                    } => (
                        ranks.clone(),
                        DistError::Peer {
                            ranks,
                            operation,
                            detail,
                        },
                    ),
                    other => (Vec::new(), other),
                }
            }
        };
        *state = State::Dead {
            ranks,
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
const F64: sys::ncclDataType_t = sys::ncclDataType_t::ncclFloat64;
const U64: sys::ncclDataType_t = sys::ncclDataType_t::ncclUint64;
const U8: sys::ncclDataType_t = sys::ncclDataType_t::ncclUint8;
const SUM: sys::ncclRedOp_t = sys::ncclRedOp_t::ncclSum;
const MAX: sys::ncclRedOp_t = sys::ncclRedOp_t::ncclMax;

impl Communicator {
    fn new(context: &Arc<CudaContext>) -> Result<Self, Failure> {
        let stream = context.new_stream()?;
        let staging = stream.alloc_zeros(1 << 20)?;
        Ok(Self {
            raw: ptr::null_mut(),
            stream,
            staging,
            lost: Arc::default(),
        })
    }

    fn connect(&mut self, place: &Place, id: sys::ncclUniqueId, until: Instant) -> Result<(), Failure> {
        let mut config = config();
        // SAFETY: `raw` and `config` live through the call, NCCL copies the configuration, and this rank's device is
        // current on this thread (opening the context and its stream made it so).
        let started = unsafe {
            result::comm_init_rank_config(
                &raw mut self.raw,
                place.size as i32,
                id,
                place.rank as i32,
                &raw mut config,
            )
        };
        started.map_err(|error| self.explain(&error))?;
        self.settle(until)
    }

    /// Copies `values` to the device; answers where they lie.
    fn upload<T: Pod>(&mut self, values: &[T]) -> Result<*mut c_void, Failure> {
        // The device is current for one thread; a collective may run on another one than the last did.
        self.stream.context().bind_to_thread()?;
        let bytes: &[u8] = bytemuck::cast_slice(values);
        if self.staging.len() < bytes.len() {
            self.staging = self.stream.alloc_zeros(bytes.len())?;
        }
        if !bytes.is_empty() {
            self.stream
                .memcpy_htod(bytes, &mut self.staging.slice_mut(..bytes.len()))?;
        }
        let (device, _order) = self.staging.device_ptr(&self.stream);
        Ok(device as *mut c_void)
    }

    /// Copies the elements `range` of what [`Communicator::upload`] sent back into `values`.
    fn download<T: Pod>(&self, values: &mut [T], range: Range<usize>) -> Result<(), Failure> {
        if range.is_empty() {
            return Ok(());
        }
        let bytes = range.start * size_of::<T>()..range.end * size_of::<T>();
        let target: &mut [u8] = bytemuck::cast_slice_mut(&mut values[range]);
        self.stream.memcpy_dtoh(&self.staging.slice(bytes), target)?;
        Ok(self.stream.synchronize()?)
    }

    /// Replaces `values` by those of `root`; their length is known.
    fn spread<T: Pod>(&mut self, values: &mut [T], root: usize, until: Instant) -> Result<(), Failure> {
        let device = self.upload(values)?;
        let bytes = size_of_val(values);
        self.group(until, |raw, stream| {
            // SAFETY: the staging buffer holds all of `values` and lives until the group is done.
            unsafe { result::broadcast(device, device, bytes, U8, root as i32, raw, stream) }.map(|_| ())
        })?;
        self.download(values, 0..values.len())
    }

    /// Starts the calls of `body` together, and waits until all are done.
    fn group(
        &self,
        until: Instant,
        body: impl FnOnce(sys::ncclComm_t, sys::cudaStream_t) -> Result<(), NcclError>,
    ) -> Result<(), Failure> {
        let stream = self.stream.cu_stream() as sys::cudaStream_t;
        result::group_start().map_err(|error| self.explain(&error))?;
        let called = body(self.raw, stream);
        let ended = result::group_end();
        called.map_err(|error| self.explain(&error))?;
        ended.map_err(|error| self.explain(&error))?;
        self.settle(until)?;
        self.finish(until)
    }

    /// Waits until NCCL has taken the last call.
    fn settle(&self, until: Instant) -> Result<(), Failure> {
        while self.in_progress()? {
            self.pause(until)?;
        }
        Ok(())
    }

    /// Waits until the device has done the work, watching for errors of the network meanwhile.
    fn finish(&self, until: Instant) -> Result<(), Failure> {
        loop {
            // SAFETY: the stream is this communicator's own and alive.
            match unsafe { driver::cuStreamQuery(self.stream.cu_stream()) } {
                driver::CUresult::CUDA_SUCCESS => return Ok(()),
                driver::CUresult::CUDA_ERROR_NOT_READY => {}
                error => return Err(DriverError(error).into()),
            }
            self.in_progress()?;
            self.pause(until)?;
        }
    }

    /// Lets a moment pass, unless there is nothing to wait for any more.
    fn pause(&self, until: Instant) -> Result<(), Failure> {
        if self.lost.load(Ordering::Relaxed) {
            return Err(Failure::Peer("a rank left the run".into()));
        }
        if Instant::now() >= until {
            return Err(Failure::Peer("no answer".into()));
        }
        thread::sleep(POLL);
        Ok(())
    }

    fn in_progress(&self) -> Result<bool, Failure> {
        let mut status = sys::ncclResult_t::ncclSuccess;
        // SAFETY: `raw` came from NCCL and is not aborted yet; `status` lives through the call.
        unsafe { sys::ncclCommGetAsyncError(self.raw, &raw mut status) }
            .result()
            .map_err(|error| self.explain(&error))?;
        match status {
            sys::ncclResult_t::ncclSuccess => Ok(false),
            sys::ncclResult_t::ncclInProgress => Ok(true),
            error => Err(self.explain(&NcclError(error))),
        }
    }

    /// NCCL's words. What a call was given is this rank's fault; what the network did is a peer's.
    fn explain(&self, error: &NcclError) -> Failure {
        // SAFETY: NCCL answers a static text, also for no communicator.
        let text = unsafe { sys::ncclGetLastError(self.raw) };
        let text = if text.is_null() {
            String::new()
        } else {
            // SAFETY: not null, so a C string that NCCL keeps.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_string()
        };
        let text = format!("{:?} {text}", error.0);
        match error.0 {
            sys::ncclResult_t::ncclUnhandledCudaError
            | sys::ncclResult_t::ncclInvalidArgument
            | sys::ncclResult_t::ncclInvalidUsage => Failure::Own(text),
            _ => Failure::Peer(text),
        }
    }

    /// Ends the communicator at once, with whatever is under way.
    fn abort(&mut self) {
        let raw = std::mem::replace(&mut self.raw, ptr::null_mut());
        if !raw.is_null() {
            // SAFETY: `raw` came from NCCL and is forgotten here. A failure leaves nothing to do about it.
            let _ = unsafe { result::comm_abort(raw) };
        }
    }

    /// Waits for what is on its way to slower ranks, then frees the communicator.
    fn leave(&mut self) -> Result<(), Failure> {
        // SAFETY: `raw` came from NCCL and is alive.
        unsafe { result::comm_finalize(self.raw) }.map_err(|error| self.explain(&error))?;
        self.settle(Instant::now() + FAREWELL)?;
        let raw = std::mem::replace(&mut self.raw, ptr::null_mut());
        // SAFETY: finalized, and forgotten here.
        unsafe { result::comm_destroy(raw) }
            .map(|_| ())
            .map_err(|error| self.explain(&error))
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if !self.raw.is_null() && self.leave().is_err() {
            self.abort();
        }
    }
}

impl Failure {
    fn text(self) -> String {
        match self {
            Self::Peer(text) | Self::Own(text) => text,
        }
    }
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        Self::Own(error.to_string())
    }
}

fn own(problem: String) -> DistError {
    DistError::Engine {
        engine: "nccl",
        problem,
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

/// The GPU of this rank: the one of its local rank, or the only one that it sees.
fn open_device(local_rank: usize) -> Result<Arc<CudaContext>, DistError> {
    // SAFETY: only looks for the library. Every other call would panic without it.
    if !unsafe { driver::is_culib_present() } {
        return Err(own("libcuda.so is not found: install NVIDIA's driver".into()));
    }
    let failed = |error: DriverError| own(format!("device of local rank {local_rank}: {error}"));
    let ordinal = match CudaContext::device_count().map_err(failed)? as usize {
        1 => 0,
        count if local_rank < count => local_rank,
        count => {
            return Err(own(format!(
                "local rank {local_rank} has no GPU of its own: this host shows {count}"
            )));
        }
    };
    CudaContext::new(ordinal).map_err(failed)
}

/// NCCL's defaults, written by hand because its initializer is a C macro; only non-blocking.
fn config() -> sys::ncclConfig_t {
    sys::ncclConfig_t {
        size: size_of::<sys::ncclConfig_t>(),
        magic: CONFIG_MAGIC,
        version: CONFIG_VERSION,
        blocking: 0,
        cgaClusterSize: UNSET,
        minCTAs: UNSET,
        maxCTAs: UNSET,
        netName: ptr::null(),
        splitShare: UNSET,
        trafficClass: UNSET,
        commName: ptr::null(),
        collnetEnable: UNSET,
        CTAPolicy: UNSET,
        shrinkShare: UNSET,
        nvlsCTAs: UNSET,
        nChannelsPerNetPeer: UNSET,
        nvlinkCentricSched: UNSET,
        graphUsageMode: UNSET,
        numRmaCtx: UNSET,
        maxP2pPeers: UNSET,
    }
}
