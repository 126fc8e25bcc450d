//! Sweeps: the grid's price, its runs, and that nothing is done twice.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::lidit::{digest, error, json, losses, root, run, spawn, stderr, train};
use crate::resume::wait_until;
use crate::signals::send;

/// The debug sweep's text with some of it replaced, in a file of its own.
pub fn sweep(dir: &Path, changes: &[(&str, &str)]) -> PathBuf {
    let path = root().join("configs/sweep/debug.toml");
    let mut text = fs::read_to_string(path).unwrap();
    let folder = root().join("configs");
    let folder = format!("{}/", folder.display());
    let fixtures = format!("{}/datasets/", root().display());
    let paths = [("../../datasets/", fixtures.as_str()), ("../", folder.as_str())];
    let changes = [&paths, changes].concat();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let path = dir.join("sweep.toml");
    fs::write(&path, text).unwrap();
    path
}

/// `lidit sweep NAME` on a sweep kept in `dir`.
pub fn command<'a>(name: &'a str, sweep: &'a Path, dir: &'a Path, extra: &[&'a str]) -> Vec<&'a str> {
    [
        &["sweep", name, sweep.to_str().unwrap(), "--dir", dir.to_str().unwrap()],
        extra,
    ]
    .concat()
}

/// Attempts at every run of the sweep in `dir`, by the runs' histories.
fn attempts(dir: &Path) -> Vec<(String, usize)> {
    let mut attempts: Vec<_> = fs::read_dir(dir.join("runs"))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let history = fs::read_to_string(entry.path().join("history.jsonl")).unwrap();
            let count = history.lines().filter(|line| line.contains("\"started\"")).count();
            (entry.file_name().into_string().unwrap(), count)
        })
        .collect();
    attempts.sort();
    attempts
}

#[test]
fn the_plan_prices_every_run_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let sweep = sweep(dir.path(), &[]);
    let out = dir.path().join("out");
    let plan = json(
        &command("plan", &sweep, &out, &["--flops-per-s", "1e9", "--price", "36"]),
        0,
    );
    let runs = plan["runs"].as_array().unwrap();
    let names: Vec<_> = runs.iter().map(|run| run["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["small-samples8", "small-samples16", "large-samples8", "large-samples16"]
    );
    for run in runs {
        let seconds = run["c_model"].as_f64().unwrap() / 1e9;
        assert!((run["time"]["seconds"].as_f64().unwrap() - seconds).abs() < 1e-9 * seconds);
        assert!((run["time"]["cost"].as_f64().unwrap() - seconds / 100.0).abs() < 1e-9 * seconds);
    }
    assert_eq!(runs[3]["unique_samples"], 16);
    assert!(runs[3]["params"].as_u64() > runs[0]["params"].as_u64());
    assert!(!out.exists());

    let refusal = error(&command("plan", &sweep, &out, &["--memory-gib", "0.036"]));
    assert!(refusal.contains("memory"), "{refusal}");
    let text = stderr(&run(&command("plan", &sweep, &out, &["--memory-gib", "0.036"])));
    assert!(
        text.contains("\n  large-samples16: about") && !text.contains("\n  small-samples8"),
        "{text}"
    );
}

#[test]
fn a_budget_decides_how_long_each_size_trains() {
    let dir = tempfile::tempdir().unwrap();
    let changes = [
        (
            "key = \"data.max_samples\"\nvalues = [8, 16]",
            "key = \"train.seed\"\nvalues = [0]",
        ),
        (
            "[change.train]",
            "[isoflop]\nbudgets = [2e9, 4e9]\n[rules]\nlength = \"budget\"\nwarmup_share = 0.5\n[change.train]",
        ),
        ("features = \"shared\"", "features = \"own\""),
        ("steps = 4", "global_batch = 4\nmicro_batch = 4"),
    ];
    let sweep = sweep(dir.path(), &changes);
    let plan = json(&command("plan", &sweep, dir.path(), &[]), 0);
    let runs = plan["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 4);
    for run in runs {
        let budget = if run["name"].as_str().unwrap().ends_with("2e9") {
            2e9
        } else {
            4e9
        };
        let step = run["flops_per_image"].as_f64().unwrap() * 4.0;
        // Steps are whole; the price per image is of these samples.
        assert!((run["c_model"].as_f64().unwrap() - budget).abs() < 0.6 * step, "{run}");
        assert_eq!(run["samples_seen"], run["unique_samples"]);
    }
}

#[test]
fn a_killed_sweep_goes_on_and_does_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let sweep = sweep(dir.path(), &[("steps = 4", "steps = 60")]);
    let out = dir.path().join("out");
    let mut child = spawn(&command("run", &sweep, &out, &[]));
    let second = out.join("runs/small-samples16/checkpoints/step-2/manifest.json");
    wait_until(|| second.exists());
    send("KILL", child.id());
    child.wait().unwrap();

    let status = json(&command("status", &sweep, &out, &[]), 0);
    let stages: Vec<_> = status["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["stage"].as_str().unwrap())
        .collect();
    assert_eq!(stages, ["done", "training", "waiting", "waiting"]);

    let mut child = spawn(&command("run", &sweep, &out, &[]));
    let third = out.join("runs/large-samples8/checkpoints/step-2/manifest.json");
    wait_until(|| third.exists());
    send("TERM", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(75));

    let done = json(&command("run", &sweep, &out, &["--jobs", "2"]), 0);
    assert_eq!(done["done"], 4);
    let expected = [
        ("large-samples16", 1),
        ("large-samples8", 2),
        ("small-samples16", 2),
        ("small-samples8", 1),
    ];
    assert_eq!(attempts(&out), expected.map(|(name, count)| (name.to_owned(), count)));
    // Features are written once and read by all: the captions' and the validation set's.
    assert_eq!(fs::read_dir(out.join("features")).unwrap().count(), 2);

    // What was torn apart ends where an undisturbed run does.
    let whole = dir.path().join("whole");
    let config = out.join("configs/small-samples16.toml");
    json(
        &["train", config.to_str().unwrap(), "--run-dir", whole.to_str().unwrap()],
        0,
    );
    let torn = out.join("runs/small-samples16");
    assert_eq!(losses(&torn), losses(&whole));
    assert_eq!(digest(&torn), digest(&whole));

    assert_eq!(json(&command("run", &sweep, &out, &[]), 0)["done"], 4);
    assert_eq!(attempts(&out).iter().map(|(_, count)| count).sum::<usize>(), 6);
}

#[test]
fn an_evaluation_that_was_stopped_or_changed_is_done_anew() {
    let dir = tempfile::tempdir().unwrap();
    let evaluation = dir.path().join("scenes.toml");
    let evaluate_in = |steps: u64| {
        let base = root().join("configs/eval/scenes-32.toml");
        let text = format!(
            "include = [\"{}\"]\nweights = \"raw\"\n[scenes]\nprompts = 1\nimages = 1\n[sampler]\nsteps = {steps}\n",
            base.display()
        );
        fs::write(&evaluation, text).unwrap();
    };
    let changes = [
        ("values = [8, 16]", "values = [8]"),
        ("steps = 4", "steps = 2"),
        ("[change.data]", "[change.data]\nimage_size = 32"),
        (
            "features = \"shared\"",
            "features = \"shared\"\nevaluate = \"scenes.toml\"",
        ),
    ];
    let sweep = sweep(dir.path(), &changes);
    let out = dir.path().join("out");
    let run = out.join("runs/small-samples8");
    evaluate_in(1000);
    let mut child = spawn(&command("run", &sweep, &out, &["--index", "0"]));
    wait_until(|| run.join("eval/scenes/pictures").exists());
    send("TERM", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert_eq!(
        json(&command("status", &sweep, &out, &[]), 0)["runs"][0]["stage"],
        "trained"
    );
    for steps in [2, 3] {
        evaluate_in(steps);
        assert_eq!(json(&command("run", &sweep, &out, &["--index", "0"]), 0)["done"], 1);
        let done: Value = serde_json::from_slice(&fs::read(run.join("eval/scenes/eval.json")).unwrap()).unwrap();
        assert_eq!(done["config"]["sampler"]["steps"], steps);
        assert_eq!(done["encoded_by"], "features", "the sweep encodes the prompts once");
    }
    assert_eq!(attempts(&out), [("small-samples8".to_owned(), 1)]);

    // Prompts that nobody encoded beforehand, and features that are gone, take the language models.
    let words = ["eval", evaluation.to_str().unwrap(), "--run", run.to_str().unwrap()];
    let read = || -> Value { serde_json::from_slice(&fs::read(run.join("eval/scenes/eval.json")).unwrap()).unwrap() };
    let by_features = read();
    json(&[&words[..], &["--set", "scenes.seed=2"]].concat(), 0);
    assert_eq!(read()["encoded_by"], "models");
    fs::rename(out.join("features"), out.join("moved")).unwrap();
    json(&words, 0);
    let by_models = read();
    assert_eq!(by_models["encoded_by"], "models");
    let prompts = |done: &Value| done["scenes"]["pictures"].clone();
    assert_eq!(prompts(&by_models), prompts(&by_features), "states are the same");
}

#[test]
fn an_index_runs_one_and_two_processes_share_a_sweep() {
    let dir = tempfile::tempdir().unwrap();
    let sweep = sweep(dir.path(), &[]);
    let out = dir.path().join("out");
    let planned = json(&command("run", &sweep, &out, &["--dry-run", "--index", "2"]), 0);
    let commands: Vec<&Value> = planned["commands"]
        .as_array()
        .unwrap()
        .iter()
        .map(|words| &words[0])
        .collect();
    assert_eq!(commands, ["cache", "cache", "train"]);
    assert_eq!(fs::read_dir(out.join("runs")).unwrap().count(), 0);
    // The commands do what the sweep itself would.
    for words in planned["commands"].as_array().unwrap() {
        let words: Vec<&str> = words
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().unwrap())
            .collect();
        json(&words, 0);
    }

    assert_eq!(json(&command("run", &sweep, &out, &["--index", "2"]), 0)["done"], 1);
    assert_eq!(attempts(&out), [("large-samples8".to_owned(), 1)]);
    let refusal = error(&command("run", &sweep, &out, &["--index", "4"]));
    assert!(refusal.contains("4 runs"), "{refusal}");

    let mut others = [
        spawn(&command("run", &sweep, &out, &[])),
        spawn(&command("run", &sweep, &out, &[])),
    ];
    for other in &mut others {
        assert!(other.wait().unwrap().success());
    }
    assert!(attempts(&out).iter().all(|(_, count)| *count == 1));
    let status = json(&command("status", &sweep, &out, &["--watch", "1"]), 0);
    assert_eq!(status["done"], 4);
}

#[test]
fn of_several_at_once_the_dearest_begin_first() {
    let dir = tempfile::tempdir().unwrap();
    let sweep = sweep(dir.path(), &[]);
    let out = dir.path().join("out");
    let said = stderr(&run(&command("run", &sweep, &out, &["--jobs", "2"])));
    let begun: Vec<&str> = said
        .lines()
        .filter(|line| line.contains(": training to step"))
        .collect();
    let is_large = |line: &&str| line.contains("large-");
    assert_eq!(begun.len(), 4, "{said}");
    assert!(
        begun[..2].iter().all(is_large) && !begun[2..].iter().any(is_large),
        "{said}"
    );
}

#[test]
fn several_ranks_train_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let sweep = sweep(dir.path(), &[]);
    let out = dir.path().join("out");
    assert_eq!(
        json(&command("run", &sweep, &out, &["--index", "0", "--nproc", "2"]), 0)["done"],
        1
    );
    let history = fs::read_to_string(out.join("runs/small-samples8/history.jsonl")).unwrap();
    assert!(history.contains("\"world_size\":2"), "{history}");
}

#[test]
fn a_run_that_fails_is_named_and_the_others_are_done() {
    let dir = tempfile::tempdir().unwrap();
    let sweep = sweep(dir.path(), &[]);
    let out = dir.path().join("out");
    // A foreign run lies where the second one belongs.
    train(&out.join("runs/small-samples16"), &["--set", "train.steps=1"], 0);
    let refusal = error(&command("run", &sweep, &out, &[]));
    assert!(
        refusal.contains("small-samples16") && refusal.contains("another"),
        "{refusal}"
    );
    fs::remove_dir_all(out.join("runs/small-samples16")).unwrap();

    // Its folder can't be made.
    fs::write(out.join("runs/small-samples16"), "").unwrap();
    let failed = json(&command("run", &sweep, &out, &[]), 1);
    assert_eq!(failed["done"], 3);
    let run = &failed["runs"][1];
    assert!(run["error"].as_str().unwrap().contains("train ended with 1"), "{run}");
}

#[test]
fn mistakes_in_a_sweep_are_named() {
    let evaluation = root().join("configs/eval/scenes-64.toml");
    let evaluated = format!("features = \"shared\"\nevaluate = {evaluation:?}");
    for (change, named) in [
        (("samples", "size"), "axes.1.name"),
        (("depth = 1", "depht = 1"), "model.depht"),
        (("values = [8, 16]", "values = [8, 1000]"), "data.max_samples"),
        (("include = [", "include = [\"nowhere.toml\", "), "nowhere.toml"),
        (("run/debug.toml", "run/debug-stages.toml"), "stages"),
        (
            (
                "features = \"shared\"",
                "features = \"shared\"\nevaluate = \"nowhere.toml\"",
            ),
            "evaluate",
        ),
        (("features = \"shared\"", &evaluated), "scenes.size"),
        (("features = \"shared\"", ""), "features"),
        (("format_version = 1", "format_version = 1 2"), "sweep.toml"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let sweep = sweep(dir.path(), &[change]);
        let error = error(&command("run", &sweep, &dir.path().join("out"), &[]));
        assert!(error.contains(named), "{change:?}: {error}");
        assert!(!dir.path().join("out").exists(), "{change:?}");
    }
    let error = error(&["sweep", "status", "nowhere.toml", "--dir", "/nowhere"]);
    assert!(error.contains("points.json"), "{error}");
}
