//! One rank's process, as its launcher sees it.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::thread::{self, JoinHandle};

use lidit_dist::process;
use signal_hook::consts::SIGKILL;

use super::{PEER_FAILED, STOPPED};

/// One rank's process.
pub struct Rank {
    child: Child,
    /// How it ended, once it has.
    pub end: Option<ExitStatus>,
    /// Whether the launcher lost its patience with it, so that its end is nobody's fault.
    stopped: bool,
    pumps: Vec<JoinHandle<()>>,
}

impl Rank {
    /// Takes a started child and copies what it prints, if that is ours to copy, to stderr with its rank before each line.
    pub fn follow(mut child: Child, rank: usize) -> Self {
        let mut pumps = Vec::new();
        pumps.extend(child.stdout.take().map(|out| pump(out, rank)));
        pumps.extend(child.stderr.take().map(|out| pump(out, rank)));
        Self {
            child,
            end: None,
            stopped: false,
            pumps,
        }
    }

    /// Looks whether it has ended; answers true when it has just failed.
    pub fn notice_end(&mut self, number: usize) -> bool {
        if self.end.is_some() {
            return false;
        }
        let Ok(Some(end)) = self.child.try_wait() else {
            return false;
        };
        self.end = Some(end);
        let failed = !matches!(end.code(), Some(0 | STOPPED));
        if failed {
            eprintln!("launch: rank {number} ended with {}", describe(end));
        }
        failed
    }

    /// Sends it a signal, if it still runs.
    pub fn tell(&self, signal: i32) {
        if self.end.is_none() {
            // It may end in this very moment; its end is noticed next.
            let _ = process::send_signal(&self.child, signal);
        }
    }

    /// Has it end, because another rank failed.
    pub fn stop(&mut self, signal: i32) {
        self.stopped |= self.end.is_none();
        self.tell(signal);
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.tell(SIGKILL);
        // Killed above, so this does not wait long.
        let _ = self.child.wait();
        self.finish_output();
    }

    /// Waits until all that it printed is copied.
    pub fn finish_output(&mut self) {
        for pump in self.pumps.drain(..) {
            // A panicked copier has nothing more to copy.
            let _ = pump.join();
        }
    }

    /// How it ended, once it has, unless it was stopped.
    pub fn own_end(&self) -> Option<ExitStatus> {
        self.end.filter(|_| !self.stopped)
    }
}

fn describe(end: ExitStatus) -> String {
    match (end.code(), end.signal()) {
        (Some(PEER_FAILED), _) => "code 76: it lost a peer".into(),
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "neither code nor signal".into(),
    }
}

fn pump(out: impl Read + Send + 'static, rank: usize) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
            // A full disk under standard error must not end the copying, and with it the ranks.
            let _ = writeln!(
                std::io::stderr(),
                "[rank {rank}] {}",
                String::from_utf8_lossy(&line).trim_end_matches('\r')
            );
        }
    })
}
