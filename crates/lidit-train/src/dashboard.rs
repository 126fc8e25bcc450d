//! What a person sees while a run trains: burn-train's dashboard, a progress bar or plain lines, driven alike.

use std::io::{self, IsTerminal};
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Result, anyhow, bail};
use burn_train::Interrupter;
use burn_train::renderer::MetricsRenderer;
use burn_train::renderer::tui::TuiMetricsRendererWrapper;
use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::columns::{definitions, states};
use crate::console::{Console, Output};
use crate::metrics::StepRecord;

/// The ways to watch a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// burn-train's dashboard on the whole screen; `q` offers to stop.
    Tui,
    /// A progress bar on standard error.
    Progress,
    /// A line for each logged step on standard error.
    Lines,
}

/// Which view was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewRequest {
    /// What suits standard error.
    Auto,
    /// `--tui`.
    Tui,
}

/// What an output stream is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// A person reads it.
    Terminal,
    /// A file or a program reads it.
    Pipe,
}

impl Stream {
    fn of(stream: &impl IsTerminal) -> Self {
        if stream.is_terminal() {
            Self::Terminal
        } else {
            Self::Pipe
        }
    }
}

impl View {
    /// The view for this process.
    ///
    /// # Errors
    /// When the dashboard is asked for where there is no terminal.
    pub fn choose(request: ViewRequest) -> Result<Self> {
        Self::for_streams(request, Stream::of(&io::stdout()), Stream::of(&io::stderr()))
    }

    /// The view for given standard output and standard error.
    pub fn for_streams(request: ViewRequest, stdout: Stream, stderr: Stream) -> Result<Self> {
        match (request, stdout, stderr) {
            (ViewRequest::Tui, Stream::Terminal, _) => Ok(Self::Tui),
            (ViewRequest::Tui, Stream::Pipe, _) => {
                bail!("--tui needs a terminal, and standard output is none: leave out --tui to get plain lines")
            }
            (ViewRequest::Auto, _, Stream::Terminal) => Ok(Self::Progress),
            (ViewRequest::Auto, _, Stream::Pipe) => Ok(Self::Lines),
        }
    }
}

/// The view of one attempt at a run.
pub struct Dashboard {
    /// `None` once it was closed or killed.
    renderer: Option<Box<dyn MetricsRenderer>>,
    view: View,
    steps: u64,
    /// Step and seconds of the first record, from which the time that is left is estimated.
    first: Option<(u64, f64)>,
}

impl Dashboard {
    /// Opens a view on a run of `steps` steps, of which `done` are done; the dashboard's `q` sets `stop`.
    pub fn open(view: View, stop: &Interrupter, name: &str, steps: u64, done: u64) -> Result<Self> {
        let renderer: Box<dyn MetricsRenderer> = match view {
            View::Tui => Box::new(TuiMetricsRendererWrapper::new(stop.clone(), None)),
            View::Progress => {
                let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
                Box::new(Console::new(Output::Bar(bar)))
            }
            View::Lines => Box::new(Console::new(Output::Lines(Box::new(io::stderr())))),
        };
        Self::with_renderer(renderer, view, name, steps, done)
    }

    fn with_renderer(
        renderer: Box<dyn MetricsRenderer>,
        view: View,
        name: &str,
        steps: u64,
        done: u64,
    ) -> Result<Self> {
        let mut dashboard = Self {
            renderer: Some(renderer),
            view,
            steps,
            first: None,
        };
        dashboard.drive(|renderer| {
            for definition in definitions() {
                renderer.register_metric(definition);
            }
            // The stream of samples is endless, so to burn-train a run is one epoch: the first of one.
            renderer.start(1, 1, Some(steps as usize), Some(name));
            renderer.start_split("train", steps as usize);
            renderer.update_split(done as usize);
        })?;
        Ok(dashboard)
    }

    /// Shows a logged step.
    ///
    /// # Errors
    /// When the person at the dashboard chose to kill the run.
    pub fn show(&mut self, record: &StepRecord) -> Result<()> {
        let states = states(record, self.seconds_left(record));
        self.drive(|renderer| {
            for state in states {
                renderer.update_train(state);
            }
            renderer.update_split(record.step as usize);
        })
    }

    /// Moves on to `step`, between logged steps.
    pub fn advance(&mut self, step: u64) -> Result<()> {
        self.drive(|renderer| renderer.update_split(step as usize))
    }

    /// Says that something happened now. burn-train's dashboard counts events of one text, so it gets no numbers.
    pub fn note(&mut self, event: &str, numbers: &str) -> Result<()> {
        let text = match self.view {
            View::Tui => event.to_owned(),
            View::Progress | View::Lines => format!("{event} {numbers}").trim_end().to_owned(),
        };
        self.drive(|renderer| renderer.log_event_training(text))
    }

    /// Gives the terminal back; a view that is dropped is closed too.
    ///
    /// burn-train's `on_train_end` is not called: it resets the interrupter, and why the run ended would be lost.
    pub fn close(&mut self) -> Result<()> {
        self.drive(|renderer| {
            renderer.end_split();
            renderer.end();
        })?;
        let renderer = self.renderer.take();
        catch_unwind(AssertUnwindSafe(|| drop(renderer))).map_err(|_| killed())
    }

    /// Calls the renderer. burn-train's dashboard kills a run by a panic in the thread that feeds it; here it becomes an
    /// error, so that the run's history is written and other ranks are told.
    fn drive(&mut self, call: impl FnOnce(&mut dyn MetricsRenderer)) -> Result<()> {
        let Some(renderer) = self.renderer.as_mut() else {
            return Ok(());
        };
        if catch_unwind(AssertUnwindSafe(|| call(renderer.as_mut()))).is_err() {
            // Dropping it would panic once more; its screen is restored already.
            std::mem::forget(self.renderer.take());
            return Err(killed());
        }
        Ok(())
    }

    fn seconds_left(&mut self, record: &StepRecord) -> f64 {
        let (step, seconds) = *self.first.get_or_insert((record.step, record.seconds));
        let pace = if record.step > step {
            (record.seconds - seconds) / (record.step - step) as f64
        } else {
            record.step_s
        };
        pace * self.steps.saturating_sub(record.step) as f64
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        // A kill that arrives only now has nothing left to stop.
        drop(self.close());
    }
}

fn killed() -> anyhow::Error {
    anyhow!("the run was killed from the dashboard")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use indicatif::InMemoryTerm;
    use std::io::Read;

    fn record(step: u64, loss: f64) -> StepRecord {
        StepRecord {
            step,
            loss,
            grad_norm: 0.5,
            lr: 1e-3,
            epoch: 1.25,
            images_per_s: 105.2,
            seconds: step as f64 * 2.0,
            step_s: 2.0,
            ..StepRecord::example()
        }
    }

    fn lines(drive: impl FnOnce(&mut Dashboard)) -> String {
        let (mut reader, writer) = io::pipe().unwrap();
        let console = Console::new(Output::Lines(Box::new(writer)));
        let mut dashboard = Dashboard::with_renderer(Box::new(console), View::Lines, "debug", 1000, 0).unwrap();
        drive(&mut dashboard);
        drop(dashboard);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_pipe_gets_a_line_for_each_logged_step_and_event() {
        let text = lines(|dashboard| {
            dashboard.advance(19).unwrap();
            dashboard.show(&record(20, 0.123_44)).unwrap();
            dashboard.advance(25).unwrap();
            dashboard.note("saved a checkpoint", "of step 10").unwrap();
            dashboard.show(&record(40, f64::NAN)).unwrap();
        });
        let expected = "step 20/1000  loss 0.1234  grad 0.5000  lr 1.00e-3  epoch 1.250  speed 105.2 img/s  eta 32m 40s\n\
             step 25: saved a checkpoint of step 10\n\
             step 40/1000  loss NaN  grad 0.5000  lr 1.00e-3  epoch 1.250  speed 105.2 img/s  eta 32m 00s\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_terminal_gets_a_bar_that_starts_where_the_run_resumed() {
        let term = InMemoryTerm::new(4, 120);
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::term_like(Box::new(term.clone())));
        let console = Console::new(Output::Bar(bar));
        let mut dashboard = Dashboard::with_renderer(Box::new(console), View::Lines, "debug", 40, 10).unwrap();
        assert!(term.contents().contains("10/40"), "{}", term.contents());
        dashboard.show(&record(20, 0.25)).unwrap();
        dashboard.note("saved a checkpoint", "of step 10").unwrap();
        dashboard.close().unwrap();
        let screen = term.contents();
        assert!(
            screen.starts_with("step 20: saved a checkpoint of step 10\n"),
            "{screen}"
        );
        assert!(
            screen.contains("20/40  loss 0.2500") && screen.contains("img/s  eta 40s"),
            "{screen}"
        );
    }

    #[test]
    fn the_view_follows_the_request_and_the_streams() {
        use Stream::{Pipe, Terminal};
        let choose = View::for_streams;
        assert_eq!(choose(ViewRequest::Auto, Pipe, Terminal).unwrap(), View::Progress);
        assert_eq!(choose(ViewRequest::Auto, Terminal, Pipe).unwrap(), View::Lines);
        assert_eq!(choose(ViewRequest::Tui, Terminal, Pipe).unwrap(), View::Tui);
        let message = choose(ViewRequest::Tui, Pipe, Terminal).unwrap_err().to_string();
        assert!(message.contains("--tui needs a terminal"), "{message}");
    }

    /// A renderer whose person chose "kill", as burn-train's does it.
    #[test]
    fn a_kill_from_the_dashboard_is_an_error_and_no_panic() {
        struct Killing;
        impl io::Write for Killing {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                panic!("Killing training from user input.")
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let console = Console::new(Output::Lines(Box::new(Killing)));
        let mut dashboard = Dashboard::with_renderer(Box::new(console), View::Lines, "debug", 10, 0).unwrap();
        assert!(dashboard.note("x", "").unwrap_err().to_string().contains("killed"));
        dashboard.show(&record(1, 0.5)).unwrap();
    }
}
