//! One process of a run of a sweep.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use lidit_dist::process;
use lidit_train::Stop;
use signal_hook::consts::SIGTERM;

/// How often its end and a wish to stop are looked for.
const POLL: Duration = Duration::from_millis(100);
/// Exit code of a process that stopped on purpose and can go on.
const STOPPED: i32 = 75;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With 0.
    Done,
    /// With 75, or by the signal that was handed on to it.
    Stopped,
    /// With another exit code, or by a signal (`None`).
    Failed(Option<i32>),
}

/// Runs this program with `arguments` on `threads` to its end; what it prints goes to the end of the file `log`. A wish to
/// stop is handed on.
///
/// Call it from a thread that lives as long as this program: the process ends with it.
pub fn run(arguments: &[String], threads: Option<(&str, String)>, log: &Path, stop: &Stop) -> Result<Ended> {
    let open = || {
        File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))
    };
    let mut command = Command::new(std::env::current_exe().context("finding this binary")?);
    command
        .args(arguments)
        .envs(threads)
        .stdin(Stdio::null())
        .stdout(open()?)
        .stderr(open()?);
    // Ctrl-C reaches it once: through us.
    command.process_group(0);
    process::die_with_parent(&mut command);
    let mut child = command.spawn().context("starting a process of the sweep")?;
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait().context("waiting for a process of the sweep")? {
            return Ok(match status.code() {
                Some(0) => Ended::Done,
                Some(STOPPED) => Ended::Stopped,
                // Not every command waits for a good moment to stop in: a killed evaluation starts anew.
                None if told && status.signal() == Some(SIGTERM) => Ended::Stopped,
                code => Ended::Failed(code),
            });
        }
        if stop.is_requested() && !told {
            told = true;
            // It may end in this very moment; its end is noticed next.
            let _ = process::send_signal(&child, SIGTERM);
        }
        thread::sleep(POLL);
    }
}
