//! How far a build is: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use lidit_data::{BuildProgress, BuildStart};

const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows a build's progress on stderr.
pub struct Bar {
    // None before the first word, and where stderr is no terminal.
    shown: Option<ProgressBar>,
    begun: bool,
    last_line: Instant,
}

impl Bar {
    /// Shows nothing yet.
    pub fn new() -> Self {
        Self {
            shown: None,
            begun: false,
            last_line: Instant::now(),
        }
    }

    /// Shows where the build is.
    pub fn show(&mut self, told: &BuildProgress) {
        if !self.begun {
            self.begin(told);
        }
        if let Some(bar) = &self.shown {
            bar.set_position(told.rows);
            if told.rows.is_multiple_of(64) {
                bar.set_message(describe(told));
            }
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let total = told.total.map_or_else(String::new, |total| format!(" of {total}"));
            eprintln!("{}{total} rows, {}", told.rows, describe(told));
        }
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        if let Some(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }

    fn begin(&mut self, told: &BuildProgress) {
        self.begun = true;
        match &told.start {
            BuildStart::New => {}
            BuildStart::Resumed { rows } => eprintln!("going on after {rows} rows of an earlier attempt"),
            BuildStart::Over { reason } => {
                eprintln!("an earlier attempt can't be gone on with ({reason}): starting over");
            }
        }
        if stderr().is_terminal() {
            let bar = told.total.map_or_else(ProgressBar::no_length, ProgressBar::new);
            let style = ProgressStyle::with_template("{bar:30} {pos} of {len} rows, {msg}, {eta} left");
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar.set_message(describe(told));
            // What an earlier attempt did says nothing of the time that is left.
            bar.set_position(told.rows);
            bar.reset_eta();
            self.shown = Some(bar);
        }
    }
}

fn describe(told: &BuildProgress) -> String {
    let written = HumanBytes(told.bytes);
    match told.skipped {
        0 => format!("{written} written"),
        skipped => format!("{written} written, {skipped} skipped"),
    }
}
