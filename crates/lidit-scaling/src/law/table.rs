//! Finished runs as CSV.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::error::LawError;
use super::point::Point;

const NUMBERS: [&str; 4] = ["n", "d", "c", "loss"];
const OPTIONAL: [&str; 4] = ["u", "seed", "se", "name"];

/// Finished runs: CSV with columns `n, d, c, loss` and optional `u, seed, se, name`, in any order. A field left empty in an
/// optional column means "not known".
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Table {
    /// One a row.
    pub points: Vec<Point>,
    /// Columns of the file that mean nothing to the law.
    pub ignored: Vec<String>,
}

impl Table {
    /// Reads a table.
    pub fn read(path: &Path) -> Result<Self, LawError> {
        let text = fs::read_to_string(path).map_err(|source| LawError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Reads a table from text; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, LawError> {
        let in_file = |source| LawError::Csv {
            path: path.to_owned(),
            source,
        };
        let mut reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .from_reader(text.trim_start_matches('\u{feff}').as_bytes());
        let columns = Columns::find(reader.headers().map_err(in_file)?, path)?;
        let mut points = Vec::new();
        for record in reader.records() {
            let record = record.map_err(in_file)?;
            let line = record.position().map_or(0, csv::Position::line);
            points.push(
                Row {
                    record: &record,
                    line,
                    path,
                }
                .point(&columns)?,
            );
        }
        Ok(Self {
            points,
            ignored: columns.ignored,
        })
    }

    /// Writes the table as CSV, with all columns that [`Self::read`] knows.
    pub fn write(&self, path: &Path) -> Result<(), LawError> {
        let failed = |source| LawError::Csv {
            path: path.to_owned(),
            source,
        };
        let mut writer = csv::Writer::from_path(path).map_err(failed)?;
        writer
            .write_record(["name", "n", "d", "c", "loss", "se", "u", "seed"])
            .map_err(failed)?;
        for point in &self.points {
            let optional = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
            let seed = point.seed.map(|seed| seed.to_string()).unwrap_or_default();
            writer
                .write_record([
                    &point.name,
                    &point.n.to_string(),
                    &point.d.to_string(),
                    &point.c.to_string(),
                    &point.loss.to_string(),
                    &optional(point.se),
                    &optional(point.u),
                    &seed,
                ])
                .map_err(failed)?;
        }
        writer.flush().map_err(|source| LawError::Io {
            path: path.to_owned(),
            source,
        })
    }
}

struct Columns {
    numbers: [usize; 4],
    optional: [Option<usize>; 4],
    ignored: Vec<String>,
}

impl Columns {
    fn find(headers: &csv::StringRecord, path: &Path) -> Result<Self, LawError> {
        let failed = |problem| LawError::Columns {
            path: path.to_owned(),
            problem,
            found: headers.iter().collect::<Vec<_>>().join(", "),
        };
        let place = |name: &str| {
            let mut places = (0..headers.len()).filter(|place| &headers[*place] == name);
            match (places.next(), places.next()) {
                (first, None) => Ok(first),
                (_, Some(_)) => Err(failed(format!("column `{name}` is there twice"))),
            }
        };
        let mut numbers = [0; 4];
        for (number, name) in numbers.iter_mut().zip(NUMBERS) {
            *number = place(name)?.ok_or_else(|| failed(format!("no column `{name}`")))?;
        }
        let mut optional = [None; 4];
        for (found, name) in optional.iter_mut().zip(OPTIONAL) {
            *found = place(name)?;
        }
        let known = |name: &str| NUMBERS.contains(&name) || OPTIONAL.contains(&name);
        let ignored = headers.iter().filter(|name| !known(name)).map(str::to_owned).collect();
        Ok(Self {
            numbers,
            optional,
            ignored,
        })
    }
}

struct Row<'a> {
    record: &'a csv::StringRecord,
    line: u64,
    path: &'a Path,
}

impl Row<'_> {
    fn point(&self, columns: &Columns) -> Result<Point, LawError> {
        let mut numbers = [0.0; 4];
        for ((number, place), name) in numbers.iter_mut().zip(columns.numbers).zip(NUMBERS) {
            *number = self.number(place, name)?;
        }
        let [u, seed, se, name] = columns.optional;
        let filled = |place: Option<usize>| place.filter(|place| !self.record[*place].is_empty());
        let seed = match filled(seed) {
            Some(place) => Some(
                self.record[place]
                    .parse()
                    .map_err(|_| self.wrong(place, "seed", "is not a whole number"))?,
            ),
            None => None,
        };
        let name = filled(name).map_or_else(|| format!("line {}", self.line), |place| self.record[place].to_owned());
        let [n, d, c, loss] = numbers;
        Ok(Point {
            name,
            n,
            d,
            c,
            loss,
            se: filled(se).map(|place| self.number(place, "se")).transpose()?,
            u: filled(u).map(|place| self.number(place, "u")).transpose()?,
            seed,
        })
    }

    fn number(&self, place: usize, column: &'static str) -> Result<f64, LawError> {
        let number: f64 = self.record[place]
            .parse()
            .map_err(|_| self.wrong(place, column, "is not a number"))?;
        if number.is_finite() && number > 0.0 {
            Ok(number)
        } else {
            Err(self.wrong(place, column, "must be a finite number above 0"))
        }
    }

    fn wrong(&self, place: usize, column: &'static str, problem: &'static str) -> LawError {
        LawError::Value {
            path: self.path.to_owned(),
            line: self.line,
            column,
            value: self.record[place].to_owned(),
            problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Table, String> {
        Table::parse(text, Path::new("runs.csv")).map_err(|error| error.to_string())
    }

    #[test]
    fn columns_come_in_any_order_and_unknown_ones_are_named() {
        let table = parsed("loss, gpu,c,d,n,seed,name\n0.5,h200,6e9,1e4,1e5,7,first\n0.4,,6e9,1e4,1e5,,\n").unwrap();
        assert_eq!(table.ignored, ["gpu"]);
        let point = &table.points[0];
        assert_eq!((point.name.as_str(), point.seed, point.u), ("first", Some(7), None));
        assert_eq!(
            format!("{} {} {:e} {}", point.n, point.d, point.c, point.loss),
            "100000 10000 6e9 0.5"
        );
        assert_eq!(table.points[1].name, "line 3");
    }

    #[test]
    fn mistakes_name_file_line_and_column() {
        let cases = [
            (
                "n,d,c\n1,1,1\n",
                "runs.csv: no column `loss` (the columns are: n, d, c)",
            ),
            ("n,d,c,loss,n\n1,1,1,1,1\n", "column `n` is there twice"),
            (
                "n,d,c,loss\n1,1,1,1\n1,x,1,1\n",
                "runs.csv: line 3, column d: `x` is not a number",
            ),
            (
                "n,d,c,loss\n1,1,1,NaN\n",
                "line 2, column loss: `NaN` must be a finite number above 0",
            ),
            (
                "n,d,c,loss,seed\n1,1,1,1,1.5\n",
                "column seed: `1.5` is not a whole number",
            ),
            ("n,d,c,loss\n1,1,1\n", "line: 2"),
        ];
        for (text, expected) in cases {
            let message = parsed(text).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_written_table_is_read_back_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.csv");
        let table =
            parsed("name,n,d,c,loss,se,u,seed\n\"a, b\",1.5e6,2e9,1e16,0.123456789012345,0.001,4e6,18\n").unwrap();
        table.write(&path).unwrap();
        assert_eq!(Table::read(&path).unwrap(), table);
    }
}
