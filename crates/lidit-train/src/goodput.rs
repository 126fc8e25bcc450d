//! How much of a run's wall time was useful.

use std::time::Instant;

use chrono::DateTime;

use crate::history::{Event, HistoryLine};

/// Useful step time over wall time, on rank 0.
///
/// Useful is the time of the steps that survive in the lineage and updated something, less what they waited for the loader.
/// Wall time is that of all attempts, each from the opening of the run directory to its end (or last sign of life): loading,
/// encoding, saves, validation, previews, and steps that a crash lost.
pub(crate) struct Goodput {
    /// Seconds of the attempts before this one.
    before: f64,
    begun: Instant,
}

impl Goodput {
    /// This attempt begins; those before left `history`, and `logged` as the wall time of their last logged step.
    pub fn begin(history: &[HistoryLine], logged: Option<f64>) -> Self {
        Self {
            before: seconds_of(history).max(logged.unwrap_or(0.0)),
            begun: Instant::now(),
        }
    }

    /// Of the attempts before, in milliseconds: what the history says when this one opens.
    pub fn before_ms(&self) -> u64 {
        (self.before * 1e3).round() as u64
    }

    /// Seconds of all attempts up to now.
    pub fn wall_seconds(&self) -> f64 {
        self.before + self.begun.elapsed().as_secs_f64()
    }
}

/// What the last attempt in `history` says: the seconds before it, and those from its first event to its last.
fn seconds_of(history: &[HistoryLine]) -> f64 {
    let Some(last) = history.last() else { return 0.0 };
    let mut own = history.iter().filter(|line| line.attempt == last.attempt);
    let Some(HistoryLine {
        time,
        event: Event::Opened { wall_ms },
        ..
    }) = own.next()
    else {
        return 0.0;
    };
    let at = |time: &str| DateTime::parse_from_rfc3339(time).ok();
    let span = at(&last.time).zip(at(time)).map(|(end, begin)| end - begin);
    // A clock that was set back in between adds nothing.
    let span = span.map_or(0, |span| span.num_milliseconds().max(0));
    (*wall_ms as f64 + span as f64) / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::FORMAT_VERSION;

    fn line(attempt: u32, time: &str, event: Event) -> HistoryLine {
        HistoryLine {
            format_version: FORMAT_VERSION,
            time: format!("2026-11-22T05:{time}Z"),
            attempt,
            event,
        }
    }

    #[test]
    fn attempts_add_up_and_a_killed_one_counts_to_its_last_sign_of_life() {
        let saved = Event::Saved {
            step: 10,
            stall_ms: 0,
            write_ms: 0,
            bytes: 0,
        };
        let mut history = Vec::new();
        let before = |history: &[HistoryLine], logged| Goodput::begin(history, logged).before_ms();
        assert_eq!(before(&history, None), 0);
        // Killed four seconds after its last event: the log knows.
        history.push(line(1, "00:00.000", Event::Opened { wall_ms: 0 }));
        history.push(line(1, "00:06.500", saved));
        assert_eq!(before(&history, None), 6500);
        assert_eq!(before(&history, Some(10.25)), 10250);
        // It stood still for an hour; the next one died while it was loading, and its log was cut back before.
        history.push(line(2, "59:00.000", Event::Opened { wall_ms: 10_250 }));
        let error = "no disk".to_owned();
        history.push(line(2, "59:01.750", Event::Failed { step: 0, error }));
        assert_eq!(before(&history, Some(4.0)), 12_000);
        // A clock that was set back.
        history.push(line(3, "30:00.000", Event::Opened { wall_ms: 12_000 }));
        history.push(line(3, "20:00.000", Event::Finished { step: 20 }));
        assert_eq!(before(&history, None), 12_000);
    }
}
