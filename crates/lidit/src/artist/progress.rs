//! How far the pictures are: a bar on a terminal, a line now and then elsewhere.

use std::cell::Cell;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(10);

/// Counts picture-steps.
pub struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    steps: usize,
    done: Cell<usize>,
    last_line: Cell<Instant>,
}

impl Progress {
    /// Of `pictures`, each of `steps`.
    pub fn new(pictures: usize, steps: usize) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {msg} pictures, {eta} left");
        let bar = style.ok().filter(|_| stderr().is_terminal()).map(|style| {
            ProgressBar::new((pictures * steps) as u64)
                .with_style(style)
                .with_message(format!("0 of {pictures}"))
        });
        Self {
            bar,
            total: pictures,
            steps,
            done: Cell::new(0),
            last_line: Cell::new(Instant::now()),
        }
    }

    /// `pictures` more took a step.
    pub fn step(&self, pictures: usize) {
        self.done.set(self.done.get() + pictures);
        let drawn = format!("{} of {}", self.done.get() / self.steps, self.total);
        if let Some(bar) = &self.bar {
            bar.set_position(self.done.get() as u64);
            bar.set_message(drawn);
        } else if self.last_line.get().elapsed() >= LINE_EVERY {
            self.last_line.set(Instant::now());
            eprintln!("drew {drawn} pictures");
        }
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
