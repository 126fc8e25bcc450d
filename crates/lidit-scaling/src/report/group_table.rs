//! Means over seeds, as a table on the page and as CSV.

use std::path::Path;

use super::Report;
use super::error::ReportError;
use super::escape::escaped;
use super::group::{Group, MEAN_NOTE, Mean};
use super::numbers::{loss, percent};
use super::run::{HeldOutLosses, ReportRun};

/// A number of every group.
struct Column {
    name: String,
    kind: Kind,
    means: Vec<Option<Mean>>,
}

/// What its numbers are.
enum Kind {
    Loss,
    Difference,
    Score,
}

impl Report {
    /// The table's section; empty where no runs differ in their seed only.
    pub(super) fn group_section(&self) -> String {
        let groups = self.groups();
        if groups.is_empty() {
            return String::new();
        }
        let columns = self.group_columns(&groups);
        let names = ["group", "runs"].into_iter();
        let names = names.chain(columns.iter().map(|column| column.name.as_str()));
        let header: Vec<String> = names
            .map(|name| format!("<th scope=\"col\" class=\"number\">{}</th>", escaped(name)))
            .collect();
        let header = header.concat();
        let row = |(i, group): (usize, &Group)| {
            let cells: Vec<String> = columns
                .iter()
                .map(|column| format!("<td class=\"number\">{}</td>", column.cell(i)))
                .collect();
            let cells = cells.concat();
            format!(
                "<tr><th scope=\"row\">{}</th><td class=\"number\">{}</td>{cells}</tr>\n",
                escaped(&group.label),
                group.runs.len()
            )
        };
        let rows: String = groups.iter().enumerate().map(row).collect();
        format!(
            "<section id=\"groups\">\n<h2>Means over seeds</h2>\n<p>{MEAN_NOTE} Differences are between runs of one seed, on the \
             same held-out samples, times and noise.</p>\n<div class=\"scroll \
             tall\"><table><thead><tr>{header}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n</section>\n"
        )
    }

    /// Writes the table to `path`, a mean and its 95 % interval a number; no file where no runs differ in their seed only.
    pub(super) fn write_groups_csv(&self, path: &Path) -> Result<(), ReportError> {
        let groups = self.groups();
        if groups.is_empty() {
            return Ok(());
        }
        let failed = |source| ReportError::Csv {
            path: path.to_owned(),
            source,
        };
        let columns = self.group_columns(&groups);
        let mut writer = csv::Writer::from_path(path).map_err(failed)?;
        let names = columns
            .iter()
            .flat_map(|column| ["", " low", " high"].map(|end| format!("{}{end}", column.name)));
        let header = ["group", "runs"].into_iter().map(str::to_owned);
        writer.write_record(header.chain(names)).map_err(failed)?;
        for (i, group) in groups.iter().enumerate() {
            let numbers = columns.iter().flat_map(|column| {
                let mean = column.means[i];
                let ends = mean.and_then(|mean| mean.ends);
                [
                    mean.map(|mean| mean.value),
                    ends.map(|ends| ends.0),
                    ends.map(|ends| ends.1),
                ]
            });
            let cells = [group.label.clone(), group.runs.len().to_string()].into_iter();
            let numbers = numbers.map(|number| number.map(|number| number.to_string()).unwrap_or_default());
            writer.write_record(cells.chain(numbers)).map_err(failed)?;
        }
        writer.flush().map_err(|source| ReportError::Io {
            path: path.to_owned(),
            source,
        })
    }

    /// Groups of several runs, and those beside them.
    fn groups(&self) -> Vec<Group> {
        let groups = Group::of(&self.runs);
        if groups.len() == self.runs.len() || groups.len() < 2 {
            return Vec::new();
        }
        groups
    }

    fn group_columns(&self, groups: &[Group]) -> Vec<Column> {
        let column = |name: &str, kind, of: &dyn Fn(&Group) -> Option<Mean>| Column {
            name: name.to_owned(),
            kind,
            means: groups.iter().map(of).collect(),
        };
        let mut columns = vec![column("loss", Kind::Loss, &|group| group.loss(&self.runs))];
        let base = &groups[0];
        let less_base = |name: &str, of: fn(&ReportRun) -> Option<&HeldOutLosses>| {
            let above = |group: &Group| {
                if group == base {
                    return None;
                }
                group.above(base, &self.runs, of)
            };
            column(&format!("{name} less {}", base.label), Kind::Difference, &above)
        };
        columns.push(less_base("loss", |run| run.held_out.as_ref()));
        columns.push(column("prompt gain", Kind::Loss, &|group| {
            group.prompt_gain(&self.runs)
        }));
        columns.push(less_base("prompt gain", |run| run.held_out_gains.as_ref()));
        columns.retain(|column| column.means.iter().any(Option::is_some));
        for category in self.categories() {
            let score = |group: &Group| group.score(&self.runs, &category);
            columns.push(column(&category, Kind::Score, &score));
        }
        columns
    }
}

impl Column {
    /// A group's mean and half its interval.
    fn cell(&self, group: usize) -> String {
        let Some(mean) = self.means[group] else {
            return "–".to_owned();
        };
        let sign = match self.kind {
            _ if mean.value < 0.0 => "\u{2212}",
            Kind::Difference => "+",
            Kind::Loss | Kind::Score => "",
        };
        let ends = mean.ends.map_or_else(String::new, |(low, high)| {
            format!(" <span class=\"small\">± {}</span>", self.shown((high - low) / 2.0))
        });
        format!("{sign}{}{ends}", self.shown(mean.value.abs()))
    }

    fn shown(&self, value: f64) -> String {
        match self.kind {
            Kind::Loss | Kind::Difference => loss(value),
            Kind::Score => percent(value),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn run(row: &str, seed: &str, losses: [f64; 2]) -> ReportRun {
        ReportRun {
            axes: [("row", row), ("seed", seed)]
                .map(|(axis, value)| (axis.to_owned(), value.to_owned()))
                .into(),
            loss: Some(losses.iter().sum::<f64>() / 2.0),
            held_out: Some(HeldOutLosses {
                digest: "same".to_owned(),
                losses: losses.to_vec(),
            }),
            ..ReportRun::default()
        }
    }

    #[test]
    fn rows_are_compared_with_the_first_one() {
        let runs = vec![
            run("none", "0", [1.0, 2.0]),
            run("none", "1", [1.0, 3.0]),
            run("all", "0", [0.75, 1.75]),
            run("all", "1", [0.75, 2.75]),
        ];
        let report = Report {
            runs,
            ..Report::default()
        };
        let page = report.group_section();
        assert!(
            page.contains("loss less none") && page.contains("\u{2212}0.2500"),
            "{page}"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("groups.csv");
        report.write_groups_csv(&path).unwrap();
        let table = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines,
            [
                "group,runs,loss,loss low,loss high,loss less none,loss less none low,loss less none high",
                "none,2,1.75,,,,,",
                "all,2,1.5,,,-0.25,-0.25,-0.25",
            ]
        );
    }

    #[test]
    fn what_prompts_gain_is_compared_like_losses_and_may_be_below_zero() {
        let with_gains = |row, seed, gains: [f64; 2]| ReportRun {
            prompt_gain: Some(gains.iter().sum::<f64>() / 2.0),
            held_out_gains: Some(HeldOutLosses {
                digest: "same".to_owned(),
                losses: gains.to_vec(),
            }),
            ..run(row, seed, [1.0, 2.0])
        };
        let report = Report {
            runs: vec![
                with_gains("none", "0", [0.25, 0.5]),
                with_gains("none", "1", [0.25, 0.5]),
                with_gains("all", "0", [-0.25, 0.0]),
                with_gains("all", "1", [-0.25, 0.0]),
            ],
            ..Report::default()
        };
        let page = report.group_section();
        for shown in [
            "prompt gain less none",
            ">0.3750<",
            ">\u{2212}0.1250<",
            ">\u{2212}0.5000 ",
        ] {
            assert!(page.contains(shown), "{shown}: {page}");
        }
    }

    #[test]
    fn single_runs_have_no_means() {
        let report = Report {
            runs: vec![run("none", "0", [1.0, 2.0]), run("all", "0", [0.5, 1.0])],
            ..Report::default()
        };
        let folder = tempfile::tempdir().unwrap();
        report.write_groups_csv(&folder.path().join("groups.csv")).unwrap();
        assert!(report.group_section().is_empty() && !folder.path().join("groups.csv").exists());
    }
}
