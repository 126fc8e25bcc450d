//! Runs that are broken on purpose, and end as if nothing had happened.

use std::fs;

use crate::lidit::{debug_config, error, json, run, stderr};

#[test]
fn twenty_faults_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (config, out) = (debug_config(), dir.path().join("chaos"));
    let report = json(
        &[
            "chaos",
            config.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
            "--seed",
            "6",
            "--at-most",
            "20",
            // Far more than it takes, unless something hangs.
            "--minutes",
            "10",
            "--deadline",
            "4",
            "--set",
            "train.steps=60",
            "--set",
            "train.checkpoint_every=4",
            "--set",
            "train.sharding=\"zero1\"",
        ],
        0,
    );
    assert_eq!(report["faults"], 20);
    assert_eq!(report["lost"].as_array().unwrap().len(), 0);
    assert_eq!(report["steps"], 60);
    for kind in ["kill", "stop", "truncate", "nan", "disk-full"] {
        assert!(report["kinds"][kind].as_u64().unwrap() >= 3, "{}", report["kinds"]);
    }
    if report["kinds"]["cut"].is_null() {
        eprintln!("nothing was cut: that needs root and iproute2");
    }
}

#[test]
fn chaos_writes_over_nothing_and_says_what_it_can_not_do() {
    let dir = tempfile::tempdir().unwrap();
    let config = debug_config();
    let out = dir.path().to_str().unwrap();
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    let refused = error(&["chaos", config.to_str().unwrap(), "--out", out]);
    assert!(refused.contains("not empty") && refused.contains("--out"), "{refused}");
    let empty = dir.path().join("empty");
    let out = empty.to_str().unwrap();
    let refused = error(&["chaos", config.to_str().unwrap(), "--out", out, "--minutes", "0"]);
    assert!(refused.contains("--minutes"), "{refused}");
    let refused = error(&[
        "chaos",
        config.to_str().unwrap(),
        "--out",
        out,
        "--set",
        "train.stepz=4",
    ]);
    assert!(refused.contains("train.stepz"), "{refused}");
    assert!(!empty.exists());
    let usage = run(&["chaos", config.to_str().unwrap(), "--out", out, "--faults", "meteor"]);
    assert_eq!(usage.status.code(), Some(2));
    assert!(stderr(&usage).contains("disk-full"), "{}", stderr(&usage));
}
