//! The only door to Gloo: a full mesh of ranks that exchange buffers, over the C++ shim.
#![expect(
    unsafe_code,
    reason = "calls the C++ shim over Gloo; each block says what it relies on"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::net::IpAddr;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::store::Store;

/// Room for an exception's text.
const ERROR_CAPACITY: usize = 1024;
/// Keeps lidit's slots apart from those that Gloo's own collectives would use (their top bytes are 1 to 8).
const FIRST_SLOT: u64 = 0x40 << 56;

/// A full mesh of TCP connections between ranks. After an error it is dead.
pub struct Mesh {
    handle: Arc<Handle>,
    slot: u64,
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
    fn lidit_gloo_exchange(
        mesh: *mut RawMesh,
        slot: u64,
        sends: *const RawPart,
        num_sends: usize,
        receives: *const RawPart,
        num_receives: usize,
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
            })
            .ok_or_else(|| text(&error))
    }

    /// Something that can end this mesh's exchanges from another thread.
    pub fn abort(&self) -> Abort {
        Abort(Arc::clone(&self.handle))
    }

    /// Sends `sends` and fills `receives`, each `(peer, buffer)`, at most one a peer and direction; empty ones don't travel.
    ///
    /// Every rank must call it equally often, and each pair of ranks must agree on the lengths.
    pub fn exchange(
        &mut self,
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
        until: Instant,
    ) -> Result<(), Broken> {
        let sends: Vec<RawPart> = sends
            .iter()
            .filter(|(_, data)| !data.is_empty())
            .map(|(peer, data)| RawPart {
                peer: *peer as i32,
                data: data.as_ptr().cast_mut().cast(),
                bytes: data.len(),
            })
            .collect();
        let receives: Vec<RawPart> = receives
            .iter_mut()
            .filter(|(_, data)| !data.is_empty())
            .map(|(peer, data)| RawPart {
                peer: *peer as i32,
                data: data.as_mut_ptr().cast(),
                bytes: data.len(),
            })
            .collect();
        self.slot += 1;
        let left = until.saturating_duration_since(Instant::now());
        let mut error: [c_char; ERROR_CAPACITY] = [0; ERROR_CAPACITY];
        let mut peer = -1;
        // SAFETY: the handle keeps the mesh alive. The slices behind the parts are borrowed for the whole
        // call: received ones are exclusive and apart from each other, sent ones are only read (the shim's promise).
        // When the call returns, failed or not, Gloo has let go of them: its buffers' destructors wait for that.
        let failed = unsafe {
            lidit_gloo_exchange(
                self.handle.0.as_ptr(),
                self.slot,
                sends.as_ptr(),
                sends.len(),
                receives.as_ptr(),
                receives.len(),
                left.as_millis() as u64,
                &raw mut peer,
                error.as_mut_ptr(),
                error.len(),
            )
        };
        if failed == 0 {
            return Ok(());
        }
        Err(Broken {
            peer: usize::try_from(peer).ok(),
            detail: text(&error),
        })
    }
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
