//! What `TensorBoard` shows of a run: curves, sample grids, the resolved config and the HPARAMS tab.
//!
//! The event types are tensorboard-proto's, the writer is ours: its errors are returned, and a resumed run's files are
//! cut back so that the curves are those of one lineage.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use image::RgbImage;
use protobuf::{Message, RepeatedField};
use tensorboard_proto::api::Status;
use tensorboard_proto::event::{Event, SessionLog, SessionLog_SessionStatus};
use tensorboard_proto::plugin_hparams::{HParamsPluginData, SessionEndInfo, SessionStartInfo};
use tensorboard_proto::plugin_text::TextPluginData;
use tensorboard_proto::summary::{Summary, Summary_Image, Summary_Value, SummaryMetadata, SummaryMetadata_PluginData};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::tensor_shape::TensorShapeProto;
use tensorboard_proto::types::DataType;

use crate::event_file::{self, EventFile};
use crate::hparams;

const HPARAMS: &str = "hparams";
const TEXT: &str = "text";
/// `TensorBoard`'s number for RGB.
const RGB: i32 = 3;

/// The event files of one run, written by one process.
pub struct TensorBoard {
    file: EventFile,
    start: Duration,
}

/// How an attempt at a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done.
    Done,
    /// Stopped on purpose; can be resumed.
    Stopped,
    /// By an error.
    Failed,
}

impl TensorBoard {
    /// Opens `folder` for an attempt that begins after `done` steps; everything later is cut away.
    ///
    /// Text and hparams describe the attempt, not a step: those of earlier attempts go too, and the caller writes
    /// them anew.
    pub fn open(folder: &Path, done: u64) -> Result<Self> {
        event_file::cut_back(folder, |event| is_curve(event) && event.step <= done as i64)?;
        let start = now();
        let mut board = Self {
            file: EventFile::create_next(folder, start.as_secs())?,
            start,
        };
        let mut header = board.event(0);
        header.set_file_version("brain.Event:2".to_owned());
        board.file.append(&header)?;
        // A TensorBoard that is running has the old steps in its memory; this makes it forget them.
        let mut log = SessionLog::new();
        log.set_status(SessionLog_SessionStatus::START);
        let mut restart = board.event(done + 1);
        restart.set_session_log(log);
        board.file.append(&restart)?;
        Ok(board)
    }

    /// Adds one point to each of some curves.
    pub fn scalars(&mut self, step: u64, points: &[(&str, f64)]) -> Result<()> {
        let values = points.iter().map(|&(tag, number)| {
            let mut value = tagged(tag);
            value.set_simple_value(number as f32);
            value
        });
        self.append(step, values.collect())
    }

    /// Adds an image, as PNG.
    pub fn image(&mut self, step: u64, tag: &str, image: &RgbImage) -> Result<()> {
        let mut summary = Summary_Image::new();
        summary.set_width(image.width() as i32);
        summary.set_height(image.height() as i32);
        summary.set_colorspace(RGB);
        summary.set_encoded_image_string(crate::image_grid::png(image)?);
        let mut value = tagged(tag);
        value.set_image(summary);
        self.append(step, vec![value])
    }

    /// Adds a text in Markdown that holds for the whole attempt.
    pub fn text(&mut self, tag: &str, markdown: &str) -> Result<()> {
        let mut tensor = TensorProto::new();
        tensor.set_dtype(DataType::DT_STRING);
        // No dimensions: a vector would be shown as a table.
        tensor.set_tensor_shape(TensorShapeProto::new());
        tensor.set_string_val(RepeatedField::from(vec![markdown.as_bytes().to_vec()]));
        let mut value = tagged(tag);
        value.set_metadata(plugin(TEXT, TextPluginData::new().write_to_bytes()?));
        value.set_tensor(tensor);
        self.append(0, vec![value])
    }

    /// Tells the HPARAMS tab this run's settings: every leaf of `config`, by its dotted key.
    pub fn hparams(&mut self, config: &toml::Table) -> Result<()> {
        let mut info = SessionStartInfo::new();
        info.set_hparams(hparams::hparams(config));
        info.set_start_time_secs(self.start.as_secs_f64());
        let mut data = HParamsPluginData::new();
        data.set_session_start_info(info);
        self.hparams_event("_hparams_/session_start_info", &data)
    }

    /// Tells the HPARAMS tab how the attempt ended, and waits until all is on the disk.
    pub fn finish(&mut self, ending: Ending) -> Result<()> {
        let mut info = SessionEndInfo::new();
        info.set_status(match ending {
            Ending::Done => Status::STATUS_SUCCESS,
            Ending::Stopped => Status::STATUS_UNKNOWN,
            Ending::Failed => Status::STATUS_FAILURE,
        });
        info.set_end_time_secs(now().as_secs_f64());
        let mut data = HParamsPluginData::new();
        data.set_session_end_info(info);
        self.hparams_event("_hparams_/session_end_info", &data)?;
        self.sync()
    }

    /// Waits until all events are on the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    fn hparams_event(&mut self, tag: &str, data: &HParamsPluginData) -> Result<()> {
        let mut value = tagged(tag);
        value.set_metadata(plugin(HPARAMS, data.write_to_bytes()?));
        // The HPARAMS tab reads the metadata alone, but a value without a tensor is dropped on the way to it.
        let mut tensor = TensorProto::new();
        tensor.set_dtype(DataType::DT_FLOAT);
        tensor.set_tensor_shape(TensorShapeProto::new());
        tensor.set_float_val(vec![0.0]);
        value.set_tensor(tensor);
        self.append(0, vec![value])
    }

    fn append(&mut self, step: u64, values: Vec<Summary_Value>) -> Result<()> {
        let mut summary = Summary::new();
        summary.set_value(RepeatedField::from(values));
        let mut event = self.event(step);
        event.set_summary(summary);
        self.file.append(&event)
    }

    fn event(&self, step: u64) -> Event {
        let mut event = Event::new();
        // Never before the attempt's start, whatever the clock does: TensorBoard's "relative" axis would run backwards.
        event.set_wall_time(now().max(self.start).as_secs_f64());
        event.set_step(step as i64);
        event
    }
}

/// A text as a block of code in Markdown.
pub fn code_block(language: &str, text: &str) -> String {
    // A longer fence than any in the text keeps the text inside.
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}{language}\n{text}\n{fence}\n")
}

/// Whether an event is a point of a curve or an image: something that belongs to a step.
fn is_curve(event: &Event) -> bool {
    let of_attempt =
        |value: &Summary_Value| [HPARAMS, TEXT].contains(&value.get_metadata().get_plugin_data().get_plugin_name());
    event.has_summary() && !event.get_summary().get_value().iter().any(of_attempt)
}

fn tagged(tag: &str) -> Summary_Value {
    let mut value = Summary_Value::new();
    value.set_tag(tag.to_owned());
    value
}

fn plugin(name: &str, content: Vec<u8>) -> SummaryMetadata {
    let mut data = SummaryMetadata_PluginData::new();
    data.set_plugin_name(name.to_owned());
    data.set_content(content);
    let mut metadata = SummaryMetadata::new();
    metadata.set_plugin_data(data);
    metadata
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    /// All events of a folder, in `TensorBoard`'s order.
    fn events(folder: &Path) -> Vec<Event> {
        let mut all = Vec::new();
        for path in event_file::event_files(folder).unwrap() {
            let bytes = fs::read(path).unwrap();
            all.extend(event_file::records(&bytes).map(|r| Event::parse_from_bytes(r).unwrap()));
        }
        all
    }

    fn values(folder: &Path) -> Vec<(i64, Summary_Value)> {
        let of = |e: &Event| {
            e.get_summary()
                .get_value()
                .iter()
                .map(|v| (e.step, v.clone()))
                .collect::<Vec<_>>()
        };
        events(folder).iter().flat_map(of).collect()
    }

    #[test]
    fn an_attempt_begins_with_the_version_and_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        TensorBoard::open(dir.path(), 7).unwrap();
        let events = events(dir.path());
        assert_eq!(events[0].get_file_version(), "brain.Event:2");
        assert_eq!(
            (events[1].step, events[1].get_session_log().get_status()),
            (8, SessionLog_SessionStatus::START)
        );
    }

    #[test]
    fn an_image_keeps_width_and_height_apart() {
        let dir = tempfile::tempdir().unwrap();
        let picture = RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8, y as u8, 9]));
        TensorBoard::open(dir.path(), 0)
            .unwrap()
            .image(4, "samples", &picture)
            .unwrap();
        let (step, value) = values(dir.path()).remove(0);
        let stored = value.get_image();
        assert_eq!((step, stored.width, stored.height, stored.colorspace), (4, 5, 3, 3));
        let decoded = image::load_from_memory(stored.get_encoded_image_string())
            .unwrap()
            .into_rgb8();
        assert_eq!(decoded, picture);
    }

    #[test]
    fn hparams_say_the_settings_and_the_ending() {
        let dir = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::open(dir.path(), 0).unwrap();
        board.hparams(&"[train]\nlr = 0.5\n".parse().unwrap()).unwrap();
        board.finish(Ending::Failed).unwrap();
        let contents: Vec<_> = values(dir.path())
            .iter()
            .map(|(_, value)| value.get_metadata().get_plugin_data().get_content().to_vec())
            .map(|bytes| HParamsPluginData::parse_from_bytes(&bytes).unwrap())
            .collect();
        assert!(
            contents[0]
                .get_session_start_info()
                .get_hparams()
                .contains_key("train.lr")
        );
        assert_eq!(contents[1].get_session_end_info().get_status(), Status::STATUS_FAILURE);
    }

    #[test]
    fn a_resumed_run_shows_one_clean_curve_and_the_newest_config() {
        let dir = tempfile::tempdir().unwrap();
        for (done, steps) in [(0, 1..=6), (3, 4..=5), (4, 5..=7)] {
            let mut board = TensorBoard::open(dir.path(), done).unwrap();
            board.text("config", &format!("from {done}")).unwrap();
            for step in steps {
                board.scalars(step, &[("loss", (100 * done + step) as f64)]).unwrap();
            }
            board.finish(Ending::Stopped).unwrap();
        }
        let values = values(dir.path());
        let curve: Vec<_> = values
            .iter()
            .filter(|v| v.1.tag == "loss")
            .map(|v| (v.0, v.1.get_simple_value()))
            .collect();
        assert_eq!(
            curve,
            [
                (1, 1.0),
                (2, 2.0),
                (3, 3.0),
                (4, 304.0),
                (5, 405.0),
                (6, 406.0),
                (7, 407.0)
            ]
        );
        let texts: Vec<_> = values.iter().filter(|v| v.1.tag == "config").collect();
        assert_eq!(texts.len(), 1);
        assert_eq!(texts[0].1.get_tensor().get_string_val()[0], b"from 4");
    }

    #[test]
    fn a_code_block_holds_text_that_has_fences() {
        assert_eq!(code_block("toml", "a = 1"), "```toml\na = 1\n```\n");
        assert!(code_block("", "x ``` y").starts_with("````\n"));
    }
}
