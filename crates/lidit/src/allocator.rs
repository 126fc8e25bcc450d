//! The C allocator's settings for a process that trains on the CPU.
#![expect(unsafe_code, reason = "mallopt has no safe wrapper")]

/// Keeps large freed buffers in the process instead of handing them back to the kernel.
///
/// Every step frees and allocates the same activations; giving their pages back makes the kernel fault and zero them
/// again, 15-20 % of a step (docs/log.md). Costs: peak memory is not returned before the process ends, so all threads share
/// two arenas: encoded pictures are allocated by readers and freed by decoders, and an arena a thread would keep 350 MiB
/// more of them.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only changes the allocator's settings, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
