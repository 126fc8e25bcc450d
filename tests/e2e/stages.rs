//! Runs in stages: each goes on from the one before it, at another size.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::lidit::{command, debug_config, draw_one, error, json, root, stderr};

fn config() -> String {
    root()
        .join("configs/run/debug-stages.toml")
        .to_str()
        .unwrap()
        .to_owned()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn digest(run: &Path) -> String {
    json(&["checkpoint", "digest", run.to_str().unwrap()], 0)["digest"].to_string()
}

#[test]
fn stages_follow_each_other_and_a_stopped_one_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let [whole_dir, parts_dir] = [&whole, &parts].map(|path| path.to_str().unwrap());
    let config = config();
    let done = json(&["train", &config, "--run-dir", whole_dir], 0);
    assert_eq!(done["step"], 10);
    assert_eq!(done["run_dir"], whole_dir);
    let first = lines(&whole.join("16/metrics.jsonl"));
    let second = lines(&whole.join("24/metrics.jsonl"));
    assert_eq!((first.len(), second.len()), (20, 10));
    // 12 pictures of 4 x 4 tokens, then 6 of 6 x 6.
    assert_eq!(
        (first[0]["tokens_seen"].clone(), second[0]["tokens_seen"].clone()),
        (192.into(), 216.into())
    );
    // The same batch for a network that has learnt nothing.
    let untrained = dir.path().join("untrained");
    let sets = [
        "data.image_size=24",
        "train.seed=1",
        "train.global_batch=6",
        "train.steps=1",
        "train.warmup_steps=1",
    ];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
    let debug = debug_config();
    let args = [
        "train",
        debug.to_str().unwrap(),
        "--run-dir",
        untrained.to_str().unwrap(),
    ];
    let untrained = json(&[&args[..], &sets].concat(), 0)["loss"].as_f64().unwrap();
    let loss = second[0]["loss"].as_f64().unwrap();
    assert!(loss < 0.97 * untrained, "{loss} against {untrained} untrained");

    // Stopped in each stage and continued: the same bytes.
    let train = |stop_after: &str, code| {
        let args = [
            "train",
            &config,
            "--run-dir",
            parts_dir,
            "--resume",
            "--set",
            stop_after,
        ];
        json(&args, code)
    };
    assert_eq!(train("train.stop_after=7", 75)["step"], 7);
    assert!(!parts.join("24").exists());
    assert_eq!(train("stages.1.train.stop_after=4", 75)["step"], 4);
    assert_eq!(train("train.stop_after=100", 0)["step"], 10);
    assert_eq!(digest(&parts), digest(&whole));

    // Readers take the newest stage.
    let out = dir.path().join("out");
    assert_eq!(draw_one(&parts, &out, 24)["step"], 10);
    assert_eq!(json(&["data", "audit", parts_dir], 0)["steps"], 10);
}

#[test]
fn a_stage_by_itself_needs_the_run_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = config();
    let run = dir.path().join("run");
    let args = [
        "train",
        &config,
        "--run-dir",
        run.to_str().unwrap(),
        "--set",
        "stage=24",
    ];
    let message = error(&args);
    assert!(message.contains("start.run is missing"), "{message}");

    let first = dir.path().join("first");
    let short = [
        "--set",
        "train.steps=4",
        "--set",
        "train.warmup_steps=1",
        "--set",
        "train.sample_every=0",
    ];
    json(
        &[
            &[
                "train",
                &config,
                "--run-dir",
                first.to_str().unwrap(),
                "--set",
                "stage=16",
            ],
            &short[..],
        ]
        .concat(),
        0,
    );
    let start = format!("start.run={}", first.display());
    let other = dir.path().join("other");
    let args = [
        "train",
        &config,
        "--run-dir",
        other.to_str().unwrap(),
        "--set",
        "stage=24",
        "--set",
        &start,
    ];
    assert_eq!(json(&[&args[..], &short[..]].concat(), 0)["step"], 4);
    let moments = ["--set", "start.optimizer=carry", "--set", "start.weights=ema"];
    let bad = dir.path().join("bad");
    let args = [
        "train",
        &config,
        "--run-dir",
        bad.to_str().unwrap(),
        "--set",
        "stage=24",
        "--set",
        &start,
    ];
    let message = error(&[&args[..], &moments[..]].concat());
    assert!(message.contains("start.optimizer must be `restart`"), "{message}");
}

#[test]
fn commands_about_one_run_ask_for_a_stage() {
    let message = error(&["plan", &config()]);
    assert!(message.contains("--set stage=NAME: 16, 24"), "{message}");
    let output = command(&["plan", &config(), "--set", "stage=24"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}
