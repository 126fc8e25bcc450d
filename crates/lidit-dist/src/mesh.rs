//! The only door to Gloo: a full mesh of ranks that exchange buffers, over the C++ shim.
#![expect(
    unsafe_code,
    reason = "calls the C++ shim over Gloo; each block says what it relies on"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::net::IpAddr;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::store::Store;

/// Room for an exception's text.
const ERROR_CAPACITY: usize = 1024;
/// Segments that are on their way at once: a rank that gets no processor for a while does not hold the others up at once.
pub const UNDER_WAY: usize = 4;
/// Keeps lidit's slots apart from those that Gloo's own collectives would use (their top bytes are 1 to 8).
const FIRST_SLOT: u64 = 0x40 << 56;

/// A full mesh of TCP connections between ranks. After an error it is dead.
pub struct Mesh {
    handle: Arc<Handle>,
    slot: u64,
    /// Where summands land, kept from call to call: fresh memory costs as much time as the sums.
    landing: Vec<u64>,
}

/// The shim's mesh, freed with its last owner.
struct Handle(NonNull<RawMesh>);

/// Ends a mesh's exchanges from another thread.
pub struct Abort(Arc<Handle>);

/// An exchange that failed.
pub struct Broken {
    /// The rank with which it failed, if Gloo knows.
    pub peer: Option<usize>,
    /// Gloo's text.
    pub detail: String,
}

#[repr(C)]
struct RawMesh {
    _opaque: [u8; 0],
}

/// `lidit_part` of the shim.
#[repr(C)]
struct RawPart {
    peer: i32,
    data: *mut c_void,
    bytes: usize,
}

type SetCallback = extern "C" fn(*mut c_void, *const c_char, usize, *const c_void, usize) -> c_int;
type GetCallback = extern "C" fn(*mut c_void, *const c_char, usize, *mut c_void, usize, u64) -> i64;

unsafe extern "C" {
    fn lidit_gloo_connect(
        rank: i32,
        size: i32,
        address: *const c_char,
        timeout_ms: u64,
        store: *mut c_void,
        set: SetCallback,
        get: GetCallback,
        error: *mut c_char,
        error_capacity: usize,
    ) -> *mut RawMesh;
    fn lidit_gloo_begin(
        mesh: *mut RawMesh,
        slot: u64,
        sends: *const RawPart,
        num_sends: usize,
        receives: *const RawPart,
        num_receives: usize,
        peer: *mut i32,
        error: *mut c_char,
        error_capacity: usize,
    ) -> i32;
    fn lidit_gloo_finish(
        mesh: *mut RawMesh,
        timeout_ms: u64,
        peer: *mut i32,
        error: *mut c_char,
        error_capacity: usize,
    ) -> i32;
    fn lidit_gloo_abort(mesh: *mut RawMesh);
    fn lidit_gloo_free(mesh: *mut RawMesh);
}

// SAFETY: a Gloo context is not tied to the thread that made it.
unsafe impl Send for Handle {}
// SAFETY: exchanges are kept apart by `&mut Mesh`; an abort may run beside one, the shim locks what they share.
unsafe impl Sync for Handle {}

impl Mesh {
    /// Connects to every other rank, from `address` of this host.
    pub fn connect(
        rank: usize,
        size: usize,
        address: IpAddr,
        store: &Store,
        deadline: Duration,
    ) -> Result<Self, String> {
        let address = CString::new(address.to_string()).map_err(|error| error.to_string())?;
        let mut error: [c_char; ERROR_CAPACITY] = [0; ERROR_CAPACITY];
        // SAFETY: the shim uses the store's pointer during this call only, through the two callbacks below, which take it
        // for what it is; the texts and the buffer outlive the call.
        let raw = unsafe {
            lidit_gloo_connect(
                rank as i32,
                size as i32,
                address.as_ptr(),
                deadline.as_millis() as u64,
                std::ptr::from_ref(store).cast_mut().cast(),
                set,
                get,
                error.as_mut_ptr(),
                error.len(),
            )
        };
        NonNull::new(raw)
            .map(|raw| Self {
                handle: Arc::new(Handle(raw)),
                slot: FIRST_SLOT,
                landing: Vec::new(),
            })
            .ok_or_else(|| text(&error))
    }

    /// Something that can end this mesh's exchanges from another thread.
    pub fn abort(&self) -> Abort {
        Abort(Arc::clone(&self.handle))
    }

    /// Sends `sends` and fills `receives`, each `(peer, buffer)`, in segments of at most `segment` bytes a peer, of which
    /// several are on their way at once. Empty ones don't travel.
    ///
    /// Every rank must call it equally often, and each pair of ranks must agree on the lengths.
    pub fn exchange(
        &mut self,
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
        segment: usize,
        until: Instant,
    ) -> Result<(), Broken> {
        let sends: Vec<RawPart> = sends.iter().map(|(peer, data)| RawPart::to_send(*peer, data)).collect();
        let receives = receives.iter_mut();
        let receives: Vec<RawPart> = receives.map(|(peer, data)| RawPart::to_fill(*peer, data)).collect();
        let longest = sends.iter().chain(&receives).map(|part| part.bytes).max().unwrap_or(0);
        let parts = |step: usize| {
            let cut = |part: &RawPart| part.cut(step * segment, segment);
            (sends.iter().map(cut).collect(), receives.iter().map(cut).collect())
        };
        // SAFETY: the slices behind the parts are borrowed for the whole call: received ones are exclusive and apart from
        // each other, and so are their segments; sent ones are only read.
        unsafe { self.stream(longest.div_ceil(segment), until, parts, |_| ()) }
    }

    /// Sends `sends` and receives `len` bytes from each of `peers`, in segments as [`Mesh::exchange`] does. `arrived` gets
    /// what came of a segment from every peer, in the order of `peers`, while the next one is on its way.
    pub fn exchange_and_use(
        &mut self,
        sends: &[(usize, &[u8])],
        peers: &[usize],
        len: usize,
        segment: usize,
        until: Instant,
        mut arrived: impl FnMut(Range<usize>, &[&[u8]]),
    ) -> Result<(), Broken> {
        let sends: Vec<RawPart> = sends.iter().map(|(peer, data)| RawPart::to_send(*peer, data)).collect();
        let longest = sends.iter().map(|part| part.bytes).max().unwrap_or(0).max(len);
        // A place for each peer and exchange under way. Aligned for whatever travels.
        let stride = len.min(segment).div_ceil(8);
        let mut landing = std::mem::take(&mut self.landing);
        landing.resize((UNDER_WAY * peers.len() * stride).max(landing.len()), 0);
        let start = landing.as_mut_ptr();
        let place = |step: usize, i: usize| -> *mut u8 {
            start.wrapping_add((step % UNDER_WAY * peers.len() + i) * stride).cast()
        };
        let range = |step: usize| (step * segment).min(len)..((step + 1) * segment).min(len);
        let parts = |step: usize| {
            let receives = peers.iter().enumerate().map(|(i, peer)| RawPart {
                peer: *peer as i32,
                data: place(step, i).cast(),
                bytes: range(step).len(),
            });
            let cut = |part: &RawPart| part.cut(step * segment, segment);
            (sends.iter().map(cut).collect(), receives.collect())
        };
        let done = |step: usize| {
            let range = range(step);
            if range.is_empty() {
                return;
            }
            let came: Vec<&[u8]> = (0..peers.len())
                // SAFETY: the place is inside of `landing`, which lives through the call and is not moved; the exchange
                // that filled it is done, and those under way fill other places.
                .map(|i| unsafe { std::slice::from_raw_parts(place(step, i), range.len()) })
                .collect();
            arrived(range, &came);
        };
        // SAFETY: what is sent is borrowed for the whole call and only read; the places in `landing` are apart from each
        // other, also those of exchanges under way together, and nothing else touches them while they fill.
        let outcome = unsafe { self.stream(longest.div_ceil(segment), until, parts, done) };
        self.landing = landing;
        outcome
    }

    /// Runs `steps` exchanges of `parts` (to send, to fill), several under way at once, and calls `done` after each.
    ///
    /// # Safety
    /// The memory of all parts must stay until the call returns. Parts to fill must be apart from each other and from parts
    /// to send, and unused, from `done` of the step `UNDER_WAY` before theirs until `done` of their own.
    unsafe fn stream(
        &mut self,
        steps: usize,
        until: Instant,
        parts: impl Fn(usize) -> (Vec<RawPart>, Vec<RawPart>),
        mut done: impl FnMut(usize),
    ) -> Result<(), Broken> {
        let mut finished = 0;
        for step in 0..steps {
            if step - finished == UNDER_WAY {
                self.finish(until)?;
                done(finished);
                finished += 1;
            }
            let (mut sends, mut receives) = parts(step);
            sends.retain(|part| part.bytes > 0);
            receives.retain(|part| part.bytes > 0);
            // SAFETY: the caller's promise; a failure, here or in `finish`, lets go of all buffers at once.
            unsafe { self.begin(&sends, &receives) }?;
        }
        for step in finished..steps {
            self.finish(until)?;
            done(step);
        }
        Ok(())
    }

    /// Begins one exchange.
    ///
    /// # Safety
    /// The memory of the parts must stay, and what is filled be unused, until a `finish` has returned for it or anything failed.
    unsafe fn begin(&mut self, sends: &[RawPart], receives: &[RawPart]) -> Result<(), Broken> {
        self.slot += 1;
        let mut error: [c_char; ERROR_CAPACITY] = [0; ERROR_CAPACITY];
        let mut peer = -1;
        // SAFETY: the handle keeps the mesh alive, the lists live through the call, and their memory as promised.
        let failed = unsafe {
            lidit_gloo_begin(
                self.handle.0.as_ptr(),
                self.slot,
                sends.as_ptr(),
                sends.len(),
                receives.as_ptr(),
                receives.len(),
                &raw mut peer,
                error.as_mut_ptr(),
                error.len(),
            )
        };
        outcome(failed, peer, &error)
    }

    /// Waits until the oldest exchange that has begun is done.
    fn finish(&mut self, until: Instant) -> Result<(), Broken> {
        let left = until.saturating_duration_since(Instant::now());
        let mut error: [c_char; ERROR_CAPACITY] = [0; ERROR_CAPACITY];
        let mut peer = -1;
        // SAFETY: the handle keeps the mesh alive.
        let failed = unsafe {
            lidit_gloo_finish(
                self.handle.0.as_ptr(),
                left.as_millis() as u64,
                &raw mut peer,
                error.as_mut_ptr(),
                error.len(),
            )
        };
        outcome(failed, peer, &error)
    }
}

impl RawPart {
    fn to_send(peer: usize, data: &[u8]) -> Self {
        Self {
            peer: peer as i32,
            data: data.as_ptr().cast_mut().cast(),
            bytes: data.len(),
        }
    }

    fn to_fill(peer: usize, data: &mut [u8]) -> Self {
        Self {
            peer: peer as i32,
            data: data.as_mut_ptr().cast(),
            bytes: data.len(),
        }
    }

    /// The bytes `start..start + len` of it, as far as it goes.
    fn cut(&self, start: usize, len: usize) -> Self {
        let start = start.min(self.bytes);
        Self {
            peer: self.peer,
            data: self.data.wrapping_byte_add(start),
            bytes: len.min(self.bytes - start),
        }
    }
}

fn outcome(failed: i32, peer: i32, error: &[c_char; ERROR_CAPACITY]) -> Result<(), Broken> {
    if failed == 0 {
        return Ok(());
    }
    Err(Broken {
        peer: usize::try_from(peer).ok(),
        detail: text(error),
    })
}

impl Abort {
    /// Makes the exchange under way, and every later one, fail.
    pub fn abort(&self) {
        // SAFETY: the handle keeps the mesh alive, and the shim allows an abort beside an exchange.
        unsafe { lidit_gloo_abort(self.0.0.as_ptr()) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the pointer came from connect, is freed here alone, and its last owner is gone.
        unsafe { lidit_gloo_free(self.0.as_ptr()) }
    }
}

/// A text that the shim wrote; it always ends it.
fn text(error: &[c_char; ERROR_CAPACITY]) -> String {
    // SAFETY: the buffer began as zeros and the shim writes at most its length, ending in NUL.
    let text = unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy();
    // Gloo begins with the place in its own sources, `[/tmp/x/pair.cc:598] `.
    let text = text
        .split_once(".cc:")
        .and_then(|(_, rest)| rest.split_once("] "))
        .map_or(&*text, |(_, rest)| rest);
    text.to_string()
}

/// The store's key for one of Gloo's.
fn key(name: *const c_char, len: usize) -> Option<String> {
    // SAFETY: the shim hands over a C++ string's data and length, alive during the callback.
    let name = unsafe { std::slice::from_raw_parts(name.cast::<u8>(), len) };
    std::str::from_utf8(name).ok().map(|name| format!("gloo/{name}"))
}

extern "C" fn set(store: *mut c_void, name: *const c_char, name_len: usize, value: *const c_void, len: usize) -> c_int {
    // SAFETY: connect handed over a pointer to the store it borrows, and the callback runs within that call.
    let store = unsafe { &*store.cast::<Store>() };
    // SAFETY: the shim hands over a vector's data and length, alive during the callback; an empty one may be null.
    let value = if len == 0 {
        &[][..]
    } else {
        unsafe { std::slice::from_raw_parts(value.cast::<u8>(), len) }
    };
    match key(name, name_len).map(|key| store.set(&key, value)) {
        Some(Ok(())) => 0,
        _ => 1,
    }
}

extern "C" fn get(
    store: *mut c_void,
    name: *const c_char,
    name_len: usize,
    value: *mut c_void,
    capacity: usize,
    timeout_ms: u64,
) -> i64 {
    // SAFETY: as in `set`.
    let store = unsafe { &*store.cast::<Store>() };
    match key(name, name_len).map(|key| store.get(&key, Duration::from_millis(timeout_ms))) {
        Some(Ok(bytes)) if bytes.len() <= capacity => {
            // SAFETY: the shim offers `capacity` writable bytes, and the two regions are different allocations.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.cast::<u8>(), bytes.len()) };
            bytes.len() as i64
        }
        _ => -1,
    }
}
