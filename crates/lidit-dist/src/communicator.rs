//! One non-blocking NCCL communicator, its stream, and the device buffer for host data.
#![expect(
    unsafe_code,
    reason = "calls NCCL and the CUDA driver; each block says what it relies on"
)]

use std::ffi::{CStr, c_void};
use std::ops::Range;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytemuck::Pod;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DriverError, sys as driver};
use cudarc::nccl::result::{self, NcclError};
use cudarc::nccl::sys;

use crate::{DistError, Place};

const POLL: Duration = Duration::from_micros(50);
/// How long a rank that is done waits for NCCL to finish what is on its way.
const FAREWELL: Duration = Duration::from_secs(2);
/// The version that the binding's configuration describes.
const CONFIG_VERSION: u32 = 23_007;
const CONFIG_MAGIC: u32 = 0xcafe_beef;
/// NCCL's "not set" for integers of the configuration.
const UNSET: i32 = i32::MIN;

/// NCCL's communicator with its stream and the buffer through which host data pass.
pub struct Communicator {
    raw: sys::ncclComm_t,
    stream: Arc<CudaStream>,
    staging: CudaSlice<u8>,
    /// Set by the watch when a rank is gone.
    pub lost: Arc<AtomicBool>,
}

// SAFETY: NCCL allows a communicator to be used by one thread after another; the mutex around it sees to that.
unsafe impl Send for Communicator {}

/// Why a collective failed.
pub enum Failure {
    /// Another rank, as far as NCCL can tell.
    Peer(String),
    /// This rank.
    Own(String),
}

impl Communicator {
    pub fn new(context: &Arc<CudaContext>) -> Result<Self, Failure> {
        let stream = context.new_stream()?;
        let staging = stream.alloc_zeros(1 << 20)?;
        Ok(Self {
            raw: ptr::null_mut(),
            stream,
            staging,
            lost: Arc::default(),
        })
    }

    pub fn connect(&mut self, place: &Place, id: sys::ncclUniqueId, until: Instant) -> Result<(), Failure> {
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
    pub fn upload<T: Pod>(&mut self, values: &[T]) -> Result<*mut c_void, Failure> {
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
    pub fn download<T: Pod>(&self, values: &mut [T], range: Range<usize>) -> Result<(), Failure> {
        if range.is_empty() {
            return Ok(());
        }
        let bytes = range.start * size_of::<T>()..range.end * size_of::<T>();
        let target: &mut [u8] = bytemuck::cast_slice_mut(&mut values[range]);
        self.stream.memcpy_dtoh(&self.staging.slice(bytes), target)?;
        Ok(self.stream.synchronize()?)
    }

    /// Starts the calls of `body` together, and waits until all are done.
    pub fn group(
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
    pub fn abort(&mut self) {
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
    /// What happened.
    pub fn text(self) -> String {
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

/// The GPU of this rank: the one of its local rank, or the only one that it sees.
pub fn open_device(local_rank: usize) -> Result<Arc<CudaContext>, DistError> {
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
