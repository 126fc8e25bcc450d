//! How configs differ.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::run::ReportRun;

/// The sweep's most common values, and what each run has instead.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfigDiff {
    /// By key; a key that most runs lack is not in it.
    pub common: BTreeMap<String, String>,
    /// For each run the keys in which it differs; null for a key that it lacks.
    pub differences: Vec<BTreeMap<String, Option<String>>>,
}

impl ConfigDiff {
    /// Compares the configs of the runs that have one.
    pub fn of(runs: &[ReportRun]) -> Self {
        let keys: BTreeSet<&String> = runs.iter().flat_map(|run| run.config.keys()).collect();
        let common: BTreeMap<String, String> = keys
            .iter()
            .filter_map(|key| Some(((*key).clone(), most_common(runs, key)?)))
            .collect();
        let differences = runs
            .iter()
            .map(|run| {
                // A run without a config has no differences.
                keys.iter()
                    .filter(|_| !run.config.is_empty())
                    .filter(|key| run.config.get(**key) != common.get(**key))
                    .map(|key| ((*key).clone(), run.config.get(*key).cloned()))
                    .collect()
            })
            .collect();
        Self { common, differences }
    }
}

/// The value that most runs with a config have, the smallest of equally common ones; none when most have none.
fn most_common(runs: &[ReportRun], key: &str) -> Option<String> {
    let mut counts: BTreeMap<Option<&String>, usize> = BTreeMap::new();
    for run in runs.iter().filter(|run| !run.config.is_empty()) {
        *counts.entry(run.config.get(key)).or_default() += 1;
    }
    let most = counts.values().copied().max()?;
    counts.into_iter().find(|(_, count)| *count == most)?.0.cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(values: &[(&str, &str)]) -> ReportRun {
        ReportRun {
            config: values
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..ReportRun::default()
        }
    }

    #[test]
    fn runs_differ_from_what_most_have() {
        let runs = [
            run(&[("train.lr", "1e-3"), ("seed", "0")]),
            run(&[("train.lr", "1e-3"), ("seed", "0"), ("extra", "1")]),
            run(&[("train.lr", "3e-4")]),
            run(&[]),
        ];
        let diff = ConfigDiff::of(&runs);
        assert_eq!(diff.common["train.lr"], "1e-3");
        assert_eq!(diff.common.get("extra"), None);
        assert!(diff.differences[0].is_empty() && diff.differences[3].is_empty());
        assert_eq!(diff.differences[1]["extra"], Some("1".to_owned()));
        let last: Vec<_> = diff.differences[2]
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_deref()))
            .collect();
        assert_eq!(last, [("seed", None), ("train.lr", Some("3e-4"))]);
    }
}
