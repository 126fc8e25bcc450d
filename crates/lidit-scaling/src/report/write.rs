//! A report's files.

use std::fs;
use std::path::Path;

use super::Report;
use super::chart::Size;
use super::error::ReportError;
use super::svg::Place;

impl Report {
    /// Writes `report.html`, `table.csv`, `plots/NAME.svg` and `.png`, and where runs differ in their seed only `groups.csv`,
    /// into a folder, which is made if it is not there.
    pub fn write(&self, out: &Path) -> Result<(), ReportError> {
        let plots = out.join("plots");
        fs::create_dir_all(&plots).map_err(|source| ReportError::Io {
            path: plots.clone(),
            source,
        })?;
        let write = |path: &Path, bytes: &[u8]| {
            fs::write(path, bytes).map_err(|source| ReportError::Io {
                path: path.to_owned(),
                source,
            })
        };
        write(&out.join("report.html"), self.page()?.as_bytes())?;
        self.write_csv(&out.join("table.csv"))?;
        self.write_groups_csv(&out.join("groups.csv"))?;
        for figure in self.figures() {
            for (name, chart) in &figure.charts {
                let plot = if name.is_empty() {
                    figure.id.to_owned()
                } else {
                    format!("{}-{}", figure.id, file_name(name))
                };
                let drawing = chart.draw(Size::Wide);
                write(&plots.join(format!("{plot}.svg")), drawing.svg(Place::File).as_bytes())?;
                let png = drawing.png().map_err(|problem| ReportError::Plot {
                    plot: plot.clone(),
                    problem,
                })?;
                write(&plots.join(format!("{plot}.png")), &png)?;
            }
        }
        Ok(())
    }
}

/// Letters and digits of a name; all else is a dash.
fn file_name(name: &str) -> String {
    let letters = name
        .chars()
        .map(|letter| if letter.is_alphanumeric() { letter } else { '-' });
    letters.collect::<String>().to_lowercase()
}
