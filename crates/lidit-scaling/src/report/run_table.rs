//! The table of runs, on the page and as CSV.

use std::collections::BTreeSet;
use std::path::Path;

use super::Report;
use super::error::ReportError;
use super::escape::escaped;
use super::group::varying_axes;
use super::numbers::{count, hours, loss, money, percent, power};
use super::run::ReportRun;

/// A column of the page's table. A column that no run has a value in is not shown.
struct Column {
    name: String,
    title: String,
    is_number: bool,
    /// What is shown, and what rows are sorted by.
    cells: Vec<Option<(String, String)>>,
}

impl Report {
    /// The table as HTML; its rows are sorted and filtered by the page's script.
    pub(super) fn run_table(&self) -> String {
        let columns: Vec<Column> = self
            .columns()
            .into_iter()
            .filter(|column| column.cells.iter().any(Option::is_some))
            .collect();
        let header: String = columns
            .iter()
            .map(|column| {
                format!(
                    "<th scope=\"col\"{}><button type=\"button\" title=\"{}\">{}</button></th>",
                    class(column),
                    escaped(&column.title),
                    escaped(&column.name)
                )
            })
            .collect::<Vec<String>>()
            .concat();
        let rows: String = (0..self.runs.len())
            .map(|run| {
                let cells: String = columns
                    .iter()
                    .map(|column| match &column.cells[run] {
                        Some((shown, value)) => {
                            format!(
                                "<td{} data-value=\"{}\">{}</td>",
                                class(column),
                                escaped(value),
                                escaped(shown)
                            )
                        }
                        None => format!("<td{}>–</td>", class(column)),
                    })
                    .collect::<Vec<String>>()
                    .concat();
                format!("<tr data-run=\"{run}\" tabindex=\"0\">{cells}</tr>\n")
            })
            .collect::<Vec<String>>()
            .concat();
        format!(
            "<div class=\"scroll tall\"><table id=\"run-table\"><thead><tr>{header}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n"
        )
    }

    fn columns(&self) -> Vec<Column> {
        let mut columns = vec![self.text(
            "run",
            "the run's name; choose a row to see its pictures and config",
            |run| Some(run.name.clone()),
        )];
        columns.push(self.text("status", "how far it is", |run| Some(run.status.word().to_owned())));
        for axis in varying_axes(&self.runs) {
            let title = format!("the sweep's axis {axis}");
            columns.push(self.text(&axis, &title, |run| run.axes.get(&axis).cloned()));
        }
        columns.push(self.number("N", "trainable parameters", |run| run.n, count));
        columns.push(self.number("D", "image tokens seen", |run| run.d, count));
        columns.push(self.number("U", "unique samples", |run| run.u, count));
        columns.push(self.number("C model", "FLOPs of the trained network", |run| run.c, power));
        columns.push(self.number("C total", "FLOPs with the frozen encoders", |run| run.c_total, power));
        columns.push(self.number("loss", "validation loss", |run| run.loss, loss));
        columns.push(self.number(
            "± 95 %",
            "half the loss's 95 % interval",
            |run| run.se.map(|se| 1.96 * se),
            loss,
        ));
        columns.push(self.number(
            "prompt gain",
            "by how much prompts lower the validation loss",
            |run| run.prompt_gain,
            loss,
        ));
        columns.push(self.number("mean score", "mean over categories", ReportRun::mean_score, percent));
        for category in self.categories() {
            let title = format!("score in the category {category}");
            let of = |run: &ReportRun| run.scores.get(&category).map(|score| score.mean);
            columns.push(self.number(&category, &title, of, percent));
        }
        columns.push(self.number("device time", "devices times wall time", ReportRun::device_hours, hours));
        columns.push(self.number("goodput", "useful step time over wall time", |run| run.goodput, percent));
        let cost = format!("cost, {}", self.currency);
        columns.push(self.number(&cost, "at the given rate", |run| run.cost, money));
        columns
    }

    pub(super) fn categories(&self) -> BTreeSet<String> {
        self.runs.iter().flat_map(|run| run.scores.keys().cloned()).collect()
    }

    fn text(&self, name: &str, title: &str, of: impl Fn(&ReportRun) -> Option<String>) -> Column {
        let cells: Vec<_> = self.runs.iter().map(of).collect();
        // Axes of numbers are sorted as numbers.
        let is_number = name != "run" && cells.iter().flatten().all(|cell| cell.parse::<f64>().is_ok());
        Column {
            name: name.to_owned(),
            title: title.to_owned(),
            is_number,
            cells: cells
                .into_iter()
                .map(|cell| cell.map(|text| (text.clone(), text)))
                .collect(),
        }
    }

    fn number(
        &self,
        name: &str,
        title: &str,
        of: impl Fn(&ReportRun) -> Option<f64>,
        shown: impl Fn(f64) -> String,
    ) -> Column {
        let cells = self.runs.iter().map(|run| of(run).filter(|value| value.is_finite()));
        Column {
            name: name.to_owned(),
            title: title.to_owned(),
            is_number: true,
            cells: cells
                .map(|value| value.map(|value| (shown(value), value.to_string())))
                .collect(),
        }
    }

    /// Writes the runs as CSV with all their numbers; the law reads it again.
    pub(super) fn write_csv(&self, path: &Path) -> Result<(), ReportError> {
        let failed = |source| ReportError::Csv {
            path: path.to_owned(),
            source,
        };
        let axes: BTreeSet<&String> = self.runs.iter().flat_map(|run| run.axes.keys()).collect();
        // The law's own columns keep their names; axes of the same name are the same thing.
        let axes: Vec<&String> = axes
            .into_iter()
            .filter(|axis| !NUMBERS.contains(&axis.as_str()))
            .collect();
        let categories = self.categories();
        let mut writer = csv::Writer::from_path(path).map_err(failed)?;
        let header = ["name", "status"].into_iter().chain(NUMBERS).map(str::to_owned);
        let header = header.chain(axes.iter().map(|axis| (*axis).clone()));
        let scores = categories
            .iter()
            .flat_map(|category| ["", " low", " high"].map(|end| format!("score {category}{end}")));
        writer.write_record(header.chain(scores)).map_err(failed)?;
        for run in &self.runs {
            let mut cells = vec![run.name.clone(), run.status.word().to_owned()];
            cells.extend(numbers(run).map(optional));
            cells.extend(axes.iter().map(|axis| run.axes.get(*axis).cloned().unwrap_or_default()));
            for category in &categories {
                let score = run.scores.get(category);
                cells.extend([score.map(|s| s.mean), score.map(|s| s.low), score.map(|s| s.high)].map(optional));
            }
            writer.write_record(cells).map_err(failed)?;
        }
        writer.flush().map_err(|source| ReportError::Io {
            path: path.to_owned(),
            source,
        })
    }
}

const NUMBERS: [&str; 15] = [
    "n",
    "d",
    "c",
    "c_encoder",
    "c_total",
    "loss",
    "se",
    "prompt_gain",
    "prompt_gain_se",
    "u",
    "seed",
    "seconds",
    "devices",
    "goodput",
    "cost",
];

fn numbers(run: &ReportRun) -> [Option<f64>; 15] {
    [
        run.n,
        run.d,
        run.c,
        run.c_encoder,
        run.c_total,
        run.loss,
        run.se,
        run.prompt_gain,
        run.prompt_gain_se,
        run.u,
        run.seed.map(|seed| seed as f64),
        run.seconds,
        run.devices,
        run.goodput,
        run.cost,
    ]
}

fn optional(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn class(column: &Column) -> &'static str {
    if column.is_number { " class=\"number\"" } else { "" }
}
