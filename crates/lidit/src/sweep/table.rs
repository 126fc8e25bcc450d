//! Columns of text.

use std::fmt::Write as _;

/// `header` over `rows`, columns as wide as their widest cell; the first column is left-aligned, the others right.
pub fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |row: &[String], i: usize| row.get(i).map_or(0, |text| text.chars().count());
    let widths: Vec<usize> = (0..header.len())
        .map(|i| {
            rows.iter()
                .map(|row| cell(row, i))
                .max()
                .unwrap_or(0)
                .max(header[i].chars().count())
        })
        .collect();
    let mut text = String::new();
    let header: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let width = widths[i];
            let _ = if i == 0 {
                write!(line, "{cell:width$}")
            } else {
                write!(line, "  {cell:>width$}")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `2 h 05 min`, `3.2 min`, `41 s`.
pub fn readable_seconds(seconds: f64) -> String {
    if seconds >= 3600.0 {
        let minutes = (seconds / 60.0).round() as u64;
        format!("{} h {:02} min", minutes / 60, minutes % 60)
    } else if seconds >= 100.0 {
        format!("{:.1} min", seconds / 60.0)
    } else {
        format!("{seconds:.0} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["a".to_owned(), "10".to_owned()],
            vec!["long".to_owned(), "7".to_owned()],
        ];
        assert_eq!(
            columns(&["run", "steps"], &rows),
            "run   steps\na        10\nlong      7\n"
        );
    }

    #[test]
    fn durations_have_the_unit_that_suits_them() {
        assert_eq!(
            [41.2, 192.0, 7500.0].map(readable_seconds),
            ["41 s", "3.2 min", "2 h 05 min"]
        );
    }
}
