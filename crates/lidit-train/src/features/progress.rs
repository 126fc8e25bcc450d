//! How far the encoding is, on standard error: a bar for people, lines for files.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Pause between two lines.
const PAUSE: Duration = Duration::from_secs(10);

/// Samples done of all.
pub(super) enum Progress {
    /// On a terminal.
    Bar(ProgressBar),
    /// In a file.
    Lines { total: u64, last: Option<Instant> },
    /// Ranks above 0.
    Silent,
}

impl Progress {
    pub fn new(total: u64, rank: usize) -> Self {
        if rank > 0 {
            return Self::Silent;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines { total, last: None };
        }
        let bar = ProgressBar::new(total);
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} samples  {eta} left") {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    pub fn advance(&mut self, done: u64) {
        match self {
            Self::Bar(bar) => bar.set_position(done),
            Self::Lines { total, last } => {
                if done == *total || last.is_none_or(|last| last.elapsed() >= PAUSE) {
                    eprintln!("encoded {done}/{total} samples");
                    *last = Some(Instant::now());
                }
            }
            Self::Silent => {}
        }
    }
}
