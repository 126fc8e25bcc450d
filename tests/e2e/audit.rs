//! The proof that no sample was lost or repeated, and that it can fail.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::lidit::{error, json, train};
use crate::ranks::launch;

fn stream(run: &Path) -> Vec<String> {
    let text = fs::read_to_string(run.join("stream.jsonl")).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Writes the record anew and returns what the audit says of it.
fn refused(run: &Path, lines: &[String]) -> String {
    fs::write(run.join("stream.jsonl"), lines.join("\n") + "\n").unwrap();
    error(&["data", "audit", run.to_str().unwrap()])
}

#[test]
fn a_run_over_several_world_sizes_and_restarts_has_met_every_sample_once_an_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train(&run, &["--set", "train.stop_after=3"], 75);
    launch(&run, "2", &["--resume", "--set", "train.stop_after=11"], 75);
    launch(&run, "3", &["--resume", "--set", "train.stop_after=13"], 75);
    train(&run, &["--resume"], 0);
    let path = run.to_str().unwrap();
    let found = json(&["data", "audit", path], 0);
    assert_eq!(found["steps"], 20);
    assert_eq!(found["samples"], 240);
    assert_eq!(found["whole_epochs"], 10);
    assert_eq!(found["attempts"], 4);
    let span = |first: u64, last: u64, world: u64| json!({"first_step": first, "last_step": last, "world_size": world});
    assert_eq!(
        found["worlds"],
        json!([span(1, 3, 1), span(4, 11, 2), span(12, 13, 3), span(14, 20, 1)])
    );
    assert!(found["checkpoints"].as_array().unwrap().contains(&json!(20)));

    let good = stream(&run);
    let mut lost = good.clone();
    lost.remove(6);
    assert!(refused(&run, &lost).contains("steps are missing"));
    let mut twice = good.clone();
    twice.insert(6, good[5].clone());
    assert!(refused(&run, &twice).contains("a step was trained twice"));
    let mut exchanged = good.clone();
    exchanged.swap(6, 7);
    for (line, step) in [(6, 7), (7, 8)] {
        let mut value: serde_json::Value = serde_json::from_str(&exchanged[line]).unwrap();
        value["step"] = step.into();
        exchanged[line] = value.to_string();
    }
    assert!(refused(&run, &exchanged).contains("step 7: its 12 samples are not the 12 of the stream"));
    assert!(refused(&run, &good[..19]).contains("there is a checkpoint of step 20"));
    fs::remove_file(run.join("stream.jsonl")).unwrap();
    assert!(error(&["data", "audit", path]).contains("holds no step"));
}
