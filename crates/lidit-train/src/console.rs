//! Progress on standard error: a bar for people, plain lines for files.

use std::io::Write;

use burn_train::LearnerSummary;
use burn_train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn_train::metric::{MetricDefinition, MetricEntry, MetricId};
use burn_train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining,
};
use indicatif::{ProgressBar, ProgressStyle};

/// A [`MetricsRenderer`] without a screen of its own.
///
/// Progress is for looking at: what cannot be shown is dropped, and training goes on.
pub(crate) struct Console {
    output: Output,
    names: Vec<(MetricId, String)>,
    /// What was reported since the last line, as "name value".
    fresh: Vec<String>,
    step: usize,
    steps: usize,
}

/// Where the console writes.
pub(crate) enum Output {
    /// One line that is drawn again and again.
    Bar(ProgressBar),
    /// A line for each logged step.
    Lines(Box<dyn Write + Send + Sync>),
}

impl Console {
    pub(crate) fn new(output: Output) -> Self {
        if let Output::Bar(bar) = &output
            && let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}")
        {
            bar.set_style(style);
        }
        Self {
            output,
            names: Vec::new(),
            fresh: Vec::new(),
            step: 0,
            steps: 0,
        }
    }

    fn report(&mut self, state: MetricState) {
        let (MetricState::Generic(entry) | MetricState::Numeric(entry, _)) = state;
        let MetricEntry {
            metric_id,
            serialized_entry,
        } = entry;
        let name = self
            .names
            .iter()
            .find(|(id, _)| *id == metric_id)
            .map_or("?", |(_, name)| name);
        self.fresh.push(format!("{name} {}", serialized_entry.formatted));
    }

    fn say(&mut self, line: &str) {
        match &mut self.output {
            Output::Bar(bar) => bar.println(line),
            Output::Lines(lines) => drop(writeln!(lines, "{line}")),
        }
    }
}

impl TrainingProgressLogger for Console {
    fn start(&mut self, _epochs: usize, _first: usize, steps: Option<usize>, _label: Option<&str>) {
        self.steps = steps.unwrap_or(self.steps);
    }

    fn start_split(&mut self, _split: &str, steps: usize) {
        self.steps = steps;
        if let Output::Bar(bar) = &self.output {
            bar.set_length(steps as u64);
        }
    }

    fn update_split(&mut self, step: usize) {
        self.step = step;
        let fresh = std::mem::take(&mut self.fresh).join("  ");
        match &mut self.output {
            Output::Bar(bar) => {
                bar.set_position(step as u64);
                if !fresh.is_empty() {
                    bar.set_message(fresh);
                }
            }
            Output::Lines(_) if fresh.is_empty() => {}
            Output::Lines(_) => self.say(&format!("step {step}/{}  {fresh}", self.steps)),
        }
    }

    fn end_split(&mut self) {}

    fn update_epoch(&mut self, _epoch: usize) {}

    fn end(&mut self) {
        if let Output::Bar(bar) = &self.output {
            // Leaves the bar where it stands, also short of its end.
            bar.abandon();
        }
    }

    fn log_event_training(&mut self, event: String) {
        self.say(&format!("step {}: {event}", self.step));
    }
}

impl MetricsRendererTraining for Console {
    fn update_train(&mut self, state: MetricState) {
        self.report(state);
    }

    fn update_valid(&mut self, state: MetricState) {
        self.report(state);
    }

    fn on_train_end(&mut self, summary: Option<LearnerSummary>) -> Result<(), Box<dyn std::error::Error>> {
        if let Some(summary) = summary {
            self.say(&summary.to_string());
        }
        Ok(())
    }
}

impl MetricsRendererEvaluation for Console {
    fn update_test(&mut self, _name: EvaluationName, state: MetricState) {
        self.report(state);
    }

    fn on_test_end(&mut self, summary: Option<LearnerSummary>) -> Result<(), Box<dyn std::error::Error>> {
        self.on_train_end(summary)
    }
}

impl EvaluationProgressLogger for Console {
    fn start_global_progress(&mut self, _tests: usize) {}

    fn start_test(&mut self, name: &str, items: usize) {
        self.start_split(name, items);
    }

    fn update_test_progress(&mut self, items: usize) {
        self.update_split(items);
    }

    fn end_test(&mut self) {}

    fn end_global_progress(&mut self) {
        self.end();
    }

    fn log_event_evaluation(&mut self, event: String) {
        self.log_event_training(event);
    }
}

impl MetricsRenderer for Console {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.names.push((definition.metric_id, definition.name.to_string()));
    }
}
