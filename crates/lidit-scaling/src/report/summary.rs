//! The numbers at the top: how many runs, what they cost, the best of them.

use super::Report;
use super::escape::escaped;
use super::numbers::{hours, loss, money, percent, power};
use super::run::{ReportRun, RunStatus};

/// One number with its name and what it means.
struct Tile {
    name: &'static str,
    value: String,
    note: String,
}

impl Report {
    /// The tiles as HTML.
    pub(super) fn summary(&self) -> String {
        let tiles = [
            Some(self.progress()),
            self.best(),
            self.best_score(),
            self.compute(),
            self.time(),
            self.money(),
            self.goodput(),
        ];
        let tiles: String = tiles
            .into_iter()
            .flatten()
            .map(|Tile { name, value, note }| {
                format!(
                    "<div class=\"tile\"><dt>{name}</dt><dd>{}</dd><dd class=\"small\">{}</dd></div>\n",
                    escaped(&value),
                    escaped(&note)
                )
            })
            .collect::<Vec<String>>()
            .concat();
        let notes: String = self
            .notes
            .iter()
            .map(|note| format!("<p class=\"note\">{}</p>\n", escaped(note)))
            .collect::<Vec<String>>()
            .concat();
        format!(
            "<section id=\"summary\" aria-label=\"Summary\">\n<dl class=\"tiles\">\n{tiles}</dl>\n{notes}</section>\n"
        )
    }

    fn progress(&self) -> Tile {
        let of = |status| self.runs.iter().filter(|run| run.status == status).count();
        let others: Vec<String> = [RunStatus::Unfinished, RunStatus::Failed, RunStatus::Planned]
            .into_iter()
            .filter(|status| of(*status) > 0)
            .map(|status| format!("{} {}", of(status), status.word()))
            .collect();
        Tile {
            name: "Runs finished",
            value: format!("{} of {}", of(RunStatus::Finished), self.runs.len()),
            note: others.join(", "),
        }
    }

    fn best(&self) -> Option<Tile> {
        let runs = self
            .runs
            .iter()
            .filter_map(|run| Some((run, run.loss.filter(|loss| loss.is_finite())?)));
        let (run, value) = runs.min_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(Tile {
            name: "Lowest validation loss",
            value: loss(value),
            note: run.name.clone(),
        })
    }

    fn best_score(&self) -> Option<Tile> {
        let runs = self.runs.iter().filter_map(|run| Some((run, run.mean_score()?)));
        let (run, value) = runs.max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(Tile {
            name: "Best mean score",
            value: percent(value),
            note: run.name.clone(),
        })
    }

    fn compute(&self) -> Option<Tile> {
        let model = self.total(|run| run.c)?;
        let encoder = self.total(|run| run.c_encoder).map(power);
        let encoder = encoder.map_or_else(String::new, |encoder| format!(", encoders {encoder}"));
        let note = format!("model {}{encoder}", power(model));
        Some(Tile {
            name: "FLOPs, total",
            value: power(self.total(|run| run.c_total.or(run.c))?),
            note,
        })
    }

    fn time(&self) -> Option<Tile> {
        Some(Tile {
            name: "Device time",
            value: hours(self.total(ReportRun::device_hours)?),
            note: "devices × wall time".to_owned(),
        })
    }

    fn money(&self) -> Option<Tile> {
        Some(Tile {
            name: "Cost",
            value: format!("{} {}", money(self.total(|run| run.cost)?), self.currency),
            note: "at the given rate".to_owned(),
        })
    }

    /// Weighted by device time.
    fn goodput(&self) -> Option<Tile> {
        let weighted = self.total(|run| Some(run.goodput? * run.device_hours()?))?;
        let hours = self.total(|run| run.goodput.and_then(|_| run.device_hours()))?;
        (hours > 0.0).then(|| Tile {
            name: "Goodput",
            value: percent(weighted / hours),
            note: "useful step time over wall time".to_owned(),
        })
    }

    fn total(&self, of: impl Fn(&ReportRun) -> Option<f64>) -> Option<f64> {
        let mut values = self.runs.iter().filter_map(of).peekable();
        values.peek()?;
        Some(values.sum())
    }
}
