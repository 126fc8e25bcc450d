//! What all ranks found, as one table.

use serde::{Deserialize, Serialize};

use super::check::{Check, Kind, Status};

/// What one rank found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Its host.
    pub host: String,
    /// In the order in which it looked.
    pub checks: Vec<Check>,
}

/// One line of the table: what some ranks found alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub advice: String,
    /// Who found it.
    pub ranks: Vec<usize>,
    /// Their hosts, each once.
    pub hosts: Vec<String>,
    /// Whether other ranks found something else.
    pub differs: bool,
}

/// Joins what ranks found alike, in the order in which checks first appear.
pub fn merge(reports: &[Report]) -> Vec<Line> {
    let mut names: Vec<&str> = Vec::new();
    for check in reports.iter().flat_map(|report| &report.checks) {
        if !names.contains(&check.name.as_str()) {
            names.push(&check.name);
        }
    }
    names.into_iter().flat_map(|name| lines_of(name, reports)).collect()
}

fn lines_of(name: &str, reports: &[Report]) -> Vec<Line> {
    let mut lines: Vec<(Line, Kind)> = Vec::new();
    for (rank, report) in reports.iter().enumerate() {
        for check in report.checks.iter().filter(|check| check.name == name) {
            match lines.iter_mut().find(|(line, kind)| is_alike(line, *kind, check)) {
                Some((line, kind)) => join(line, kind, check, rank, &report.host),
                None => lines.push((begin(check, rank, &report.host), check.kind)),
            }
        }
    }
    let differs = lines.len() > 1;
    let finish = |(mut line, kind): (Line, Kind)| {
        line.differs = differs;
        if differs && kind == Kind::Agreed {
            line.status = Status::Failed;
            line.advice = format!("give every rank the same {name}");
        }
        line
    };
    lines.into_iter().map(finish).collect()
}

fn begin(check: &Check, rank: usize, host: &str) -> Line {
    Line {
        name: check.name.clone(),
        status: check.status,
        found: check.found.clone(),
        advice: check.advice.clone(),
        ranks: vec![rank],
        hosts: vec![host.to_owned()],
        differs: false,
    }
}

fn is_alike(line: &Line, kind: Kind, check: &Check) -> bool {
    let same = line.status == check.status && line.advice == check.advice;
    match (kind, check.kind) {
        (Kind::Least(_), Kind::Least(_)) => same,
        _ => same && line.found == check.found,
    }
}

/// Adds a rank to a line; of numbers the lower one is shown.
fn join(line: &mut Line, kind: &mut Kind, check: &Check, rank: usize, host: &str) {
    line.ranks.push(rank);
    if !line.hosts.iter().any(|known| known == host) {
        line.hosts.push(host.to_owned());
    }
    if let (Kind::Least(least), Kind::Least(amount)) = (*kind, check.kind)
        && amount < least
    {
        line.found.clone_from(&check.found);
        *kind = check.kind;
    }
}

/// The table: a line a check, and the whole in a line.
pub fn text(lines: &[Line]) -> String {
    let count = |status| lines.iter().filter(|line| line.status == status).count();
    let whole = match (count(Status::Failed), count(Status::Warning)) {
        (0, 0) => "all well".to_owned(),
        (0, warnings) => format!("ready, {warnings} to look at"),
        (failed, _) => format!("{failed} failed: a run would, too"),
    };
    let table: Vec<String> = lines.iter().map(Line::text).chain([whole]).collect();
    table.join("\n")
}

impl Line {
    fn text(&self) -> String {
        let status = match self.status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Failed => "FAILED",
        };
        let ranks: Vec<String> = self.ranks.iter().map(usize::to_string).collect();
        let who = match (self.differs, ranks.as_slice()) {
            (false, _) => String::new(),
            (true, [one]) => format!("rank {one} ({}): ", self.hosts.join(", ")),
            (true, many) => format!("ranks {} ({}): ", many.join(", "), self.hosts.join(", ")),
        };
        let advice = match self.advice.as_str() {
            "" => String::new(),
            advice => format!("; {advice}"),
        };
        format!("{status:<8} {:<14} {who}{}{advice}", self.name, self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(host: &str, checks: &[Check]) -> Report {
        Report {
            host: host.to_owned(),
            checks: checks.to_vec(),
        }
    }

    #[test]
    fn ranks_that_agree_share_a_line_and_others_are_named() {
        let good = Check::ok("data", "20 rows");
        let bad = Check::failed("data", "no such file", "mount it");
        let lines = merge(&[
            report("a", std::slice::from_ref(&good)),
            report("b", &[bad]),
            report("a", std::slice::from_ref(&good)),
        ]);
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (lines[0].ranks.as_slice(), lines[0].hosts.as_slice()),
            (&[0, 2][..], &["a".to_owned()][..])
        );
        let table = text(&lines);
        assert!(
            table.contains("ok       data           ranks 0, 2 (a): 20 rows\n"),
            "{table}"
        );
        assert!(
            table.contains("FAILED   data           rank 1 (b): no such file; mount it\n"),
            "{table}"
        );
        assert!(table.ends_with("1 failed: a run would, too"), "{table}");
        let table = text(&merge(&[
            report("a", std::slice::from_ref(&good)),
            report("b", &[good]),
        ]));
        assert_eq!(table, "ok       data           20 rows\nall well");
    }

    #[test]
    fn what_must_be_the_same_and_is_not_has_failed_on_all() {
        let lines = merge(&[
            report("a", &[Check::agreed("version", "lidit 0.1.0")]),
            report("b", &[Check::agreed("version", "lidit 0.2.0")]),
        ]);
        assert!(lines.len() == 2 && lines.iter().all(|line| line.status == Status::Failed));
        assert_eq!(lines[1].advice, "give every rank the same version");
    }

    #[test]
    fn the_rank_with_the_least_speaks_for_all() {
        let disk = |rate: f64| Check::ok("disk", format!("{rate} MB/s")).of(rate);
        let lines = merge(&[
            report("a", &[disk(30.0)]),
            report("b", &[disk(10.0)]),
            report("c", &[disk(20.0)]),
        ]);
        assert_eq!(lines.len(), 1);
        assert_eq!((lines[0].found.as_str(), lines[0].ranks.len()), ("10 MB/s", 3));
    }
}
