//! Stopping on purpose: signals and the dashboard set a flag, the loop reads it between steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use burn_train::Interrupter;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};

/// Whether somebody asked the run to save and leave.
#[derive(Clone, Default)]
pub struct Stop {
    signalled: Arc<AtomicBool>,
    interrupter: Interrupter,
}

impl Stop {
    /// A flag that SIGINT, SIGTERM and SIGUSR1 set. A second SIGINT or SIGTERM ends the process at once. SIGXFSZ is
    /// ignored.
    pub fn on_signals() -> Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // Order matters: the exit is armed by the flag, which the first signal sets after this ran.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.signalled.clone())
                .context("handling signals")?;
        }
        for signal in [SIGINT, SIGTERM, SIGUSR1] {
            signal_hook::flag::register(signal, stop.signalled.clone()).context("handling signals")?;
        }
        // A file that would grow beyond the process's limit is an error of that write, not the end of the process.
        signal_hook::flag::register(SIGXFSZ, Arc::default()).context("handling signals")?;
        Ok(stop)
    }

    /// What burn-train's dashboard sets when a person stops the run there.
    pub fn interrupter(&self) -> &Interrupter {
        &self.interrupter
    }

    /// Whether somebody asked.
    pub fn is_requested(&self) -> bool {
        self.signalled.load(Ordering::Relaxed) || self.interrupter.should_stop()
    }

    /// Why, for the run's history.
    pub fn reason(&self) -> String {
        if self.signalled.load(Ordering::Relaxed) {
            "a signal".to_owned()
        } else if self.interrupter.should_stop() {
            self.interrupter
                .get_message()
                .unwrap_or_else(|| "the dashboard".to_owned())
        } else {
            "train.stop_after, or another rank".to_owned()
        }
    }
}
