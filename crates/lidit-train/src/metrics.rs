//! The numbers of a run: `metrics.jsonl`, `TensorBoard` and the screen, by one call a logged step.

use std::path::Path;

use anyhow::{Result, bail};
use burn_train::Interrupter;
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::dashboard::{Dashboard, View};
use crate::jsonl::{self, JsonLines, null_is_nan};
use crate::loss_bins::{BINS, bin_name};
use crate::loss_watch::LossWatch;
use crate::run_dir::RunDir;
use crate::tensorboard::{Ending, TensorBoard, code_block};
use crate::validation::ValidationRecord;

/// The version of a line of `metrics.jsonl`.
pub const FORMAT_VERSION: u32 = 3;

/// One logged step. Counts and times run from the run's first step over all attempts that survive in it.
///
/// A number that is not finite is `null` in the file and NaN again when read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Steps done, this one included.
    pub step: u64,
    /// Passes over the data set, with fraction.
    pub epoch: f64,
    /// Samples of the stream used up, unusable ones included.
    pub samples_seen: u64,
    /// Image tokens of those samples.
    pub tokens_seen: u64,
    /// Floating-point operations of the model for those samples (a `f64`: large runs pass 2^64).
    pub flops: f64,
    /// Loss or gradient were not finite, so nothing was updated; `incidents/step-N.json` says more.
    pub skipped: bool,
    /// Mean over the usable samples of the global batch.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Mean loss without weighting by time, of the usable samples since the last logged step, for each tenth of t from 0
    /// (clean) to 1; `null` where none fell.
    pub loss_bins: [Option<f64>; BINS],
    /// How many those are.
    pub loss_bin_counts: [u64; BINS],
    /// Before clipping.
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    /// The rate of this step.
    pub lr: f64,
    /// Caption tokens that `encoders.max_caption_tokens` cut off this step's prompts, over all encoders.
    pub caption_tokens_cut: u64,
    /// Over all ranks, since the last logged step.
    #[serde(deserialize_with = "null_is_nan")]
    pub images_per_s: f64,
    /// Wall clock, the attempts' times added up.
    pub seconds: f64,
    /// Of `seconds`, the steps that updated something, less what rank 0 waited for its loader.
    pub useful_seconds: f64,
    /// Wall clock of all attempts up to this line, whatever they did: loading, saves, validation, steps that were lost.
    pub wall_seconds: f64,
    /// `useful_seconds / wall_seconds`.
    pub goodput: f64,
    /// Mean wall clock of a step since the last logged one.
    pub step_s: f64,
    /// Of `step_s`, what rank 0 waited for its loader.
    pub data_wait_s: f64,
    /// What training waited for saves since the last logged line; not part of `seconds` and `step_s`.
    pub save_stall_s: f64,
    /// What the save that was completed since then took in the background; `null` where none was.
    pub save_write_s: Option<f64>,
    /// The validation loss of an evaluated step; `null` of others, and where it is not finite.
    pub val_loss: Option<f64>,
    /// Its standard error.
    pub val_loss_se: Option<f64>,
    /// What the losses up to this step were like.
    pub watch: LossWatch,
}

/// A line of `metrics.jsonl`.
#[derive(Serialize, Deserialize)]
struct Line {
    format_version: u32,
    #[serde(flatten)]
    record: StepRecord,
}

/// What an attempt at a run shows, and where it begins.
pub struct Watch<'a> {
    /// How a person sees it.
    pub view: View,
    /// Set by the dashboard when the person stops the run; the loop reads it.
    pub stop: &'a Interrupter,
    /// The run's name on the dashboard.
    pub name: &'a str,
    /// The run's last step.
    pub steps: u64,
    /// Steps done, by the checkpoint that was loaded; 0 for a new run.
    pub done: u64,
}

/// Everything that rank 0 reports; the other ranks have none.
pub struct Metrics {
    lines: JsonLines,
    board: TensorBoard,
    dashboard: Dashboard,
    last: Option<StepRecord>,
}

impl Metrics {
    /// Opens a run's metrics for an attempt; what was logged after step `watch.done` belongs to no checkpoint and goes.
    pub fn open(run: &RunDir, watch: &Watch) -> Result<Self> {
        let kept = jsonl::retain(&run.metrics(), |line: &Line| line.record.step <= watch.done)?;
        check_versions(&run.metrics(), &kept)?;
        Ok(Self {
            lines: JsonLines::open(&run.metrics())?,
            board: TensorBoard::open(&run.tensorboard(), watch.done)?,
            dashboard: Dashboard::open(watch.view, watch.stop, watch.name, watch.steps, watch.done)?,
            last: kept.into_iter().next_back().map(|line| line.record),
        })
    }

    /// The last step in the file: after opening, where a resumed run's counts and times go on from.
    pub fn last(&self) -> Option<&StepRecord> {
        self.last.as_ref()
    }

    /// Records a step everywhere.
    pub fn log(&mut self, record: &StepRecord) -> Result<()> {
        self.lines.append(&Line {
            format_version: FORMAT_VERSION,
            record: record.clone(),
        })?;
        let r = record;
        let points = [
            ("train/loss", r.loss),
            ("train/grad_norm", r.grad_norm),
            ("train/lr", r.lr),
            ("train/caption_tokens_cut", r.caption_tokens_cut as f64),
            ("train/skipped_steps", r.watch.skipped as f64),
            ("progress/epoch", r.epoch),
            ("progress/samples_seen", r.samples_seen as f64),
            ("progress/tokens_seen", r.tokens_seen as f64),
            ("progress/flops", r.flops),
            ("speed/images_per_s", r.images_per_s),
            ("speed/step_s", r.step_s),
            ("speed/data_wait_s", r.data_wait_s),
            ("speed/save_stall_s", r.save_stall_s),
            ("speed/goodput", r.goodput),
        ];
        self.board.scalars(r.step, &points)?;
        if let Some(write) = r.save_write_s {
            self.board.scalars(r.step, &[("speed/save_write_s", write)])?;
        }
        let bins = r.loss_bins.iter().enumerate();
        let points: Vec<_> = bins
            .filter_map(|(i, loss)| Some((format!("loss_at/{}", bin_name(i)), (*loss)?)))
            .collect();
        let points: Vec<_> = points.iter().map(|(tag, loss)| (tag.as_str(), *loss)).collect();
        self.board.scalars(r.step, &points)?;
        self.dashboard.show(record)?;
        self.last = Some(record.clone());
        Ok(())
    }

    /// Shows a step's validation loss, whole and at each time.
    pub fn validated(&mut self, record: &ValidationRecord, seconds: f64) -> Result<()> {
        let mut points = vec![("validation/loss".to_owned(), record.val_loss)];
        let levels = record.levels.iter();
        points.extend(levels.map(|level| (format!("validation/loss_at/{:.3}", level.time), level.mean)));
        let gain = record.prompt_gain.as_ref();
        points.extend(gain.map(|gain| ("validation/prompt_gain".to_owned(), gain.mean)));
        let points: Vec<_> = points.iter().map(|(tag, loss)| (tag.as_str(), *loss)).collect();
        self.board.scalars(record.step, &points)?;
        let gain = gain.map_or_else(String::new, |gain| format!(", prompts gain {:.5}", gain.mean));
        let numbers = format!(
            "of step {}: {:.5}, standard error {:.5}{gain} ({}), in {seconds:.1} s",
            record.step, record.val_loss, record.se, record.weights
        );
        self.dashboard.note("validation loss", &numbers)
    }

    /// Moves the progress on, at steps that are not logged.
    pub fn advance(&mut self, step: u64) -> Result<()> {
        self.dashboard.advance(step)
    }

    /// Says on the screen that something happened; `event` is a kind of event ("saved a checkpoint"), `numbers` what there
    /// is to say of this one.
    pub fn note(&mut self, event: &str, numbers: &str) -> Result<()> {
        self.dashboard.note(event, numbers)
    }

    /// Adds an image to `TensorBoard`.
    pub fn image(&mut self, step: u64, tag: &str, image: &RgbImage) -> Result<()> {
        self.board.image(step, tag, image)
    }

    /// Adds a text in Markdown to `TensorBoard`; it holds for the attempt.
    pub fn text(&mut self, tag: &str, markdown: &str) -> Result<()> {
        self.board.text(tag, markdown)
    }

    /// Shows the resolved config in `TensorBoard`, as text and as hparams.
    pub fn config(&mut self, resolved: &toml::Table) -> Result<()> {
        self.board
            .text("config", &code_block("toml", &toml::to_string(resolved)?))?;
        self.board.hparams(resolved)
    }

    /// Waits until everything logged is on the disk: to be called before a checkpoint's manifest is renamed, so that a
    /// run never resumes at a step whose metrics were lost.
    pub fn sync(&self) -> Result<()> {
        self.lines.sync()?;
        self.board.sync()
    }

    /// Ends the attempt: everything on the disk, the screen given back.
    pub fn finish(mut self, ending: Ending) -> Result<()> {
        self.lines.sync()?;
        self.board.finish(ending)?;
        self.dashboard.close()
    }
}

/// Reads a `metrics.jsonl`; a file that is not there has no steps.
///
/// # Errors
/// When a line cannot be read or has another format version.
pub fn read(path: &Path) -> Result<Vec<StepRecord>> {
    let lines: Vec<Line> = jsonl::read(path)?;
    check_versions(path, &lines)?;
    Ok(lines.into_iter().map(|line| line.record).collect())
}

fn check_versions(path: &Path, lines: &[Line]) -> Result<()> {
    match lines.iter().find(|line| line.format_version != FORMAT_VERSION) {
        Some(line) => bail!(
            "{} has format_version {}, this program writes {FORMAT_VERSION}",
            path.display(),
            line.format_version
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
impl StepRecord {
    /// Any step.
    pub(crate) fn example() -> Self {
        Self {
            step: 1,
            epoch: 0.5,
            samples_seen: 32,
            tokens_seen: 2048,
            flops: 1e20,
            skipped: false,
            loss: 1.0,
            loss_bins: std::array::from_fn(|i| (i != 3).then_some(0.1 * i as f64)),
            loss_bin_counts: [4, 3, 2, 0, 1, 5, 5, 5, 5, 2],
            grad_norm: 2.0,
            lr: 1e-3,
            caption_tokens_cut: 3,
            images_per_s: 100.0,
            seconds: 0.3,
            useful_seconds: 0.25,
            wall_seconds: 0.5,
            goodput: 0.5,
            step_s: 0.3,
            data_wait_s: 0.01,
            save_stall_s: 0.0,
            save_write_s: None,
            val_loss: None,
            val_loss_se: None,
            watch: LossWatch::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::io::Write;

    fn open(run: &RunDir, done: u64) -> Metrics {
        let stop = Interrupter::new();
        Metrics::open(
            run,
            &Watch {
                view: View::Lines,
                stop: &stop,
                name: "test",
                steps: 10,
                done,
            },
        )
        .unwrap()
    }

    fn at(step: u64, loss: f64) -> StepRecord {
        StepRecord {
            step,
            loss,
            ..StepRecord::example()
        }
    }

    #[test]
    fn a_resumed_run_keeps_the_steps_of_its_lineage_and_goes_on_from_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path()).unwrap();
        let mut first = open(&run, 0);
        assert!(first.last().is_none());
        for step in 1..=5 {
            first.log(&at(step, 1.0)).unwrap();
        }
        drop(first);
        fs::File::options()
            .append(true)
            .open(run.metrics())
            .unwrap()
            .write_all(b"{\"format_ver")
            .unwrap();
        let mut second = open(&run, 3);
        assert_eq!(second.last(), Some(&at(3, 1.0)));
        second.log(&at(4, 2.0)).unwrap();
        second.sync().unwrap();
        second.finish(Ending::Done).unwrap();
        let steps: Vec<_> = read(&run.metrics()).unwrap().iter().map(|r| (r.step, r.loss)).collect();
        assert_eq!(steps, [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]);
    }

    #[test]
    fn a_line_has_the_documented_keys_and_every_digit() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path()).unwrap();
        let record = at(7, 0.1 + 0.2);
        open(&run, 0).log(&record).unwrap();
        let line: serde_json::Value = serde_json::from_str(&fs::read_to_string(run.metrics()).unwrap()).unwrap();
        let keys = [
            "format_version",
            "step",
            "epoch",
            "samples_seen",
            "tokens_seen",
            "flops",
            "skipped",
            "loss",
            "loss_bins",
            "loss_bin_counts",
            "grad_norm",
            "lr",
            "caption_tokens_cut",
            "images_per_s",
            "seconds",
            "useful_seconds",
            "wall_seconds",
            "goodput",
            "val_loss",
            "val_loss_se",
            "watch",
        ];
        assert!(keys.iter().all(|key| line.get(key).is_some()), "{line}");
        assert_eq!(read(&run.metrics()).unwrap(), [record]);
    }

    #[test]
    fn a_loss_that_is_no_number_comes_back_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path()).unwrap();
        open(&run, 0).log(&at(1, f64::INFINITY)).unwrap();
        assert!(fs::read_to_string(run.metrics()).unwrap().contains("\"loss\":null"));
        assert!(read(&run.metrics()).unwrap()[0].loss.is_nan());
    }

    #[test]
    fn another_format_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path()).unwrap();
        let text = serde_json::to_string(&Line {
            format_version: 1,
            record: at(1, 1.0),
        })
        .unwrap();
        fs::write(run.metrics(), text + "\n").unwrap();
        assert!(
            read(&run.metrics())
                .unwrap_err()
                .to_string()
                .contains("format_version 1")
        );
    }
}
