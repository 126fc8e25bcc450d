//! What a launcher needs of its ranks' processes beyond the standard library, and a process of its host.
#![expect(
    unsafe_code,
    reason = "prctl, getppid and kill have no safe wrapper in std; each block says what it relies on"
)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Has the kernel kill the command's process when the thread that starts it ends, however that happens.
///
/// Start it from a thread that lives as long as the process should.
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let ask = move || {
        // SAFETY: a plain system call, with the arguments that this option takes.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a plain system call. A parent that died before the call above would never be noticed.
        if unsafe { libc::getppid() } as u32 == parent {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    };
    // SAFETY: between fork and exec only system calls run; nothing allocates, locks or panics.
    unsafe { command.pre_exec(ask) };
}

/// What this host calls itself.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    // A name of the kernel's has at most 64 bytes.
    match name.trim() {
        "" => "a host without a name".into(),
        name => name.chars().take(64).collect(),
    }
}

/// Sends a signal to a child that has not been waited for.
pub fn send_signal(child: &Child, signal: i32) -> io::Result<()> {
    // SAFETY: a plain system call; the child's id can't belong to another process before it is waited for.
    match unsafe { libc::kill(child.id() as i32, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets no file of a child that has not been waited for grow beyond `bytes`, as a full disk would; `None`: any.
///
/// Writes then fail with "file too large", if the child ignores SIGXFSZ.
pub fn limit_file_size(child: &Child, bytes: Option<u64>) -> io::Result<()> {
    let bytes = bytes.unwrap_or(libc::RLIM_INFINITY);
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a plain system call; `limit` lives through it, the old limit is not asked for, and the child's id can't
    // belong to another process before it is waited for.
    match unsafe {
        libc::prlimit(
            child.id() as i32,
            libc::RLIMIT_FSIZE,
            &raw const limit,
            std::ptr::null_mut(),
        )
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
