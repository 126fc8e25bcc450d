//! Runs that differ in their seed only.

use super::run::{HeldOutLosses, ReportRun, Score};

/// How intervals of means come about.
pub const MEAN_NOTE: &str = "Bars are 95 % intervals: of three seeds or more by Student's t over the seeds, of fewer by the \
                             judged facts or the measured loss alone, without what another seed would change.";
/// Seeds whose spread says something: of two, Student's t has the factor 12.7.
const ENOUGH_SEEDS: usize = 3;

/// The axis that a group's runs may differ on.
const SEED: &str = "seed";

/// Runs that differ in their seed only.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Their values on the axes that vary over the sweep, as `nano, 20000`.
    pub label: String,
    /// Their places in the report.
    pub runs: Vec<usize>,
}

/// A mean over a group's runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Ends of its 95 % interval, where known.
    pub ends: Option<(f64, f64)>,
    /// Runs that have the number.
    pub runs: usize,
}

impl Group {
    /// The groups of a sweep, in the order of their first runs.
    pub fn of(runs: &[ReportRun]) -> Vec<Self> {
        let varying = varying_axes(runs);
        let mut groups: Vec<Self> = Vec::new();
        for (i, run) in runs.iter().enumerate() {
            let values: Vec<&str> = varying
                .iter()
                .filter(|axis| *axis != SEED)
                .filter_map(|axis| run.axes.get(axis).map(String::as_str))
                .collect();
            let label = if run.axes.is_empty() {
                run.name.clone()
            } else if values.is_empty() {
                "all".to_owned()
            } else {
                values.join(", ")
            };
            match groups.iter_mut().find(|group| group.label == label) {
                Some(group) => group.runs.push(i),
                None => groups.push(Self { label, runs: vec![i] }),
            }
        }
        groups
    }

    /// The mean loss.
    pub fn loss(&self, runs: &[ReportRun]) -> Option<Mean> {
        let losses = self
            .runs
            .iter()
            .filter_map(|run| Some((runs[*run].loss?, runs[*run].se.map(|se| 1.96 * se))));
        mean_of(&losses.collect::<Vec<_>>())
    }

    /// The mean of what prompts gain.
    pub fn prompt_gain(&self, runs: &[ReportRun]) -> Option<Mean> {
        let gains = self.runs.iter().filter_map(|run| {
            let half = runs[*run].prompt_gain_se.map(|se| 1.96 * se);
            Some((runs[*run].prompt_gain?, half))
        });
        mean_of(&gains.collect::<Vec<_>>())
    }

    /// By how much what `of` has of held-out samples is above that of `base`, run by run of the same seed and sample by sample, in
    /// the mean.
    pub fn above(
        &self,
        base: &Self,
        runs: &[ReportRun],
        of: impl Fn(&ReportRun) -> Option<&HeldOutLosses>,
    ) -> Option<Mean> {
        let of_seed = |seed: Option<&String>| base.runs.iter().find(|run| runs[**run].axes.get(SEED) == seed);
        let differences = self.runs.iter().filter_map(|run| {
            let base = &runs[*of_seed(runs[*run].axes.get(SEED))?];
            let (difference, se) = of(&runs[*run])?.above(of(base)?)?;
            Some((difference, Some(1.96 * se)))
        });
        mean_of(&differences.collect::<Vec<_>>())
    }

    /// The mean score in a category, of all its facts.
    pub fn score(&self, runs: &[ReportRun], category: &str) -> Option<Mean> {
        let scores: Vec<&Score> = self
            .runs
            .iter()
            .filter_map(|run| runs[*run].scores.get(category))
            .collect();
        mean_score(&scores)
    }

    /// The mean score at a quarter of the positions.
    pub fn quartile(&self, runs: &[ReportRun], quartile: usize) -> Option<Mean> {
        let scores: Vec<&Score> = self
            .runs
            .iter()
            .filter_map(|run| runs[*run].quartiles.get(quartile))
            .collect();
        mean_score(&scores)
    }
}

/// Axes on which the runs differ, by name.
pub fn varying_axes(runs: &[ReportRun]) -> Vec<String> {
    let mut axes: Vec<&String> = runs.iter().flat_map(|run| run.axes.keys()).collect();
    axes.sort();
    axes.dedup();
    axes.into_iter()
        .filter(|axis| runs.iter().any(|run| run.axes.get(*axis) != runs[0].axes.get(*axis)))
        .cloned()
        .collect()
}

fn mean_score(scores: &[&Score]) -> Option<Mean> {
    let values: Vec<_> = scores
        .iter()
        .map(|score| (score.mean, Some((score.high - score.low) / 2.0)))
        .collect();
    let mut mean = mean_of(&values)?;
    if let [single] = scores {
        // An interval of a share need not be symmetric.
        mean.ends = Some((single.low, single.high));
    }
    mean.ends = mean.ends.map(|(low, high)| (low.max(0.0), high.min(1.0)));
    Some(mean)
}

/// The mean of values with half their own intervals.
fn mean_of(values: &[(f64, Option<f64>)]) -> Option<Mean> {
    let count = values.len();
    if count == 0 {
        return None;
    }
    let mean = values.iter().map(|value| value.0).sum::<f64>() / count as f64;
    let half = if count >= ENOUGH_SEEDS {
        let squares: f64 = values.iter().map(|value| (value.0 - mean).powi(2)).sum();
        Some(student(count - 1) * (squares / (count - 1) as f64 / count as f64).sqrt())
    } else {
        let squares: Option<f64> = values.iter().map(|value| value.1.map(|half| half * half)).sum();
        squares.map(|squares| squares.sqrt() / count as f64)
    };
    Some(Mean {
        value: mean,
        ends: half.map(|half| (mean - half, mean + half)),
        runs: count,
    })
}

/// Student's t, two-sided 95 %, which with three seeds is more than twice the normal's 1.96.
fn student(freedom: usize) -> f64 {
    const TABLE: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    TABLE.get(freedom.saturating_sub(1)).copied().unwrap_or(2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(model: &str, seed: &str, loss: f64) -> ReportRun {
        ReportRun {
            axes: [("model", model), ("seed", seed), ("lr", "1e-3")]
                .map(|(axis, value)| (axis.to_owned(), value.to_owned()))
                .into(),
            loss: Some(loss),
            ..ReportRun::default()
        }
    }

    #[test]
    fn seeds_are_one_group_named_by_what_varies() {
        let runs = [
            run("pico", "0", 1.0),
            run("nano", "0", 0.5),
            run("pico", "1", 3.0),
            run("pico", "2", 2.0),
        ];
        let groups = Group::of(&runs);
        let labels: Vec<_> = groups.iter().map(|group| group.label.as_str()).collect();
        assert_eq!(labels, ["pico", "nano"]);
        let mean = groups[0].loss(&runs).unwrap();
        assert_eq!(mean.runs, 3);
        let half = 4.303 / 3f64.sqrt();
        assert!((mean.value - 2.0).abs() < 1e-12 && (mean.ends.unwrap().1 - 2.0 - half).abs() < 1e-9);
        assert_eq!(groups[1].loss(&runs).unwrap().ends, None);
    }

    #[test]
    fn losses_are_compared_by_seed_and_sample() {
        let run = |model: &str, seed: &str, losses: &[f64]| ReportRun {
            held_out: Some(HeldOutLosses {
                digest: "same".to_owned(),
                losses: losses.to_vec(),
            }),
            ..run(model, seed, losses.iter().sum::<f64>() / losses.len() as f64)
        };
        let mut runs = vec![
            run("base", "0", &[1.0, 5.0]),
            run("base", "1", &[2.0, 8.0]),
            run("other", "1", &[1.5, 7.0]),
            run("other", "0", &[0.5, 4.5]),
        ];
        let groups = Group::of(&runs);
        let above = |runs: &[ReportRun]| groups[1].above(&groups[0], runs, |run| run.held_out.as_ref());
        let paired = above(&runs).unwrap();
        // -0.5 and -0.75, the first exactly and the second with half an interval of 1.96 x 0.25.
        assert_eq!((paired.value, paired.runs), (-0.625, 2));
        let (low, high) = paired.ends.unwrap();
        assert!((high - low - 1.96 * 0.25).abs() < 1e-12);
        runs[0].held_out.as_mut().unwrap().digest = "others".to_owned();
        assert_eq!(above(&runs).unwrap().runs, 1);
        runs[2].axes.insert("seed".to_owned(), "7".to_owned());
        assert_eq!(above(&runs), None);
    }

    #[test]
    fn two_seeds_have_the_interval_of_their_measurements() {
        let mut runs = [run("pico", "0", 1.0), run("pico", "1", 3.0)];
        for run in &mut runs {
            run.se = Some(1.0);
        }
        let mean = Group::of(&runs)[0].loss(&runs).unwrap();
        let (low, high) = mean.ends.unwrap();
        assert!((mean.value - 2.0).abs() < 1e-12 && (high - low - 2.0 * 1.96 / 2f64.sqrt()).abs() < 1e-9);
    }
}
