//! Several processes train what one trains: invariant 3's bounds.

use std::fs;
use std::path::Path;

use crate::lidit::{
    average, debug_config, digest, json, losses, metrics, relative_l2, run as run_lidit, stderr, train, weights,
};

/// The bounds hold over this many steps.
const STEPS: &str = "train.steps=50";

/// Trains the debug run in `dir` with several ranks and `extra` arguments; the launcher must exit with `code`.
pub fn launch(dir: &Path, ranks: &str, extra: &[&str], code: i32) {
    let config = debug_config();
    let (config, dir) = (config.to_str().unwrap(), dir.to_str().unwrap());
    // `--json` comes before the `--` that separates the inner command.
    let mut args = vec![
        "--json",
        "launch",
        "--nproc",
        ranks,
        "--",
        "train",
        config,
        "--run-dir",
        dir,
    ];
    args.extend(extra);
    let output = run_lidit(&args);
    assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
}

fn assert_same_training(a: &Path, b: &Path) {
    for ((step, a), (_, b)) in losses(a).iter().zip(losses(b)) {
        assert!((a - b).abs() <= 1e-5 * b, "step {step}: losses {a} and {b}");
    }
    for (a, b) in metrics(a).iter().zip(metrics(b)) {
        assert_eq!(a["loss_bin_counts"], b["loss_bin_counts"]);
        for (a, b) in a["loss_bins"]
            .as_array()
            .unwrap()
            .iter()
            .zip(b["loss_bins"].as_array().unwrap())
        {
            let (a, b) = (a.as_f64().unwrap_or(0.0), b.as_f64().unwrap_or(0.0));
            assert!((a - b).abs() <= 1e-5 * b, "losses by time {a} and {b}");
        }
    }
    let difference = relative_l2(&weights(a, 50), &weights(b, 50));
    assert!(difference <= 1e-4, "weights differ by {difference}");
    for half_life in [48, 120] {
        let difference = relative_l2(&average(a, 50, half_life), &average(b, 50, half_life));
        assert!(
            difference <= 1e-4,
            "the averages of half-life {half_life} differ by {difference}"
        );
    }
}

#[test]
fn two_and_three_ranks_train_what_one_trains_sharded_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str| dir.path().join(name);
    let zero1 = ["--set", STEPS, "--set", "train.sharding=\"zero1\""];
    train(&run("one"), &["--set", STEPS], 0);
    launch(&run("two"), "2", &["--set", STEPS], 0);
    launch(&run("two-zero1"), "2", &zero1, 0);
    launch(
        &run("three-zero1"),
        "3",
        &[zero1.as_slice(), &["--set", "train.micro_batch=3"]].concat(),
        0,
    );
    for name in ["two", "two-zero1", "three-zero1"] {
        assert_same_training(&run(name), &run("one"));
    }
    assert!(
        run("three-zero1")
            .join("checkpoints/step-50/optimizer-0002.safetensors")
            .is_file()
    );
}

#[test]
fn what_four_ranks_wrote_goes_on_with_one_two_or_three() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str| dir.path().join(name);
    train(&run("one"), &["--set", STEPS], 0);
    let zero1 = [
        "--set",
        STEPS,
        "--set",
        "train.stop_after=20",
        "--set",
        "train.sharding=\"zero1\"",
    ];
    launch(&run("four"), "4", &zero1, 75);
    for ranks in ["1", "2", "3"] {
        let moved = run(ranks);
        copy_folder(&run("four"), &moved);
        launch(&moved, ranks, &["--resume"], 0);
        assert_same_training(&moved, &run("one"));
    }
}

#[test]
fn the_bits_of_a_run_depend_neither_on_sharding_nor_on_buckets() {
    let dir = tempfile::tempdir().unwrap();
    let digest_of = |name: &str, sets: &[&str]| {
        // More than one bucket of a megabyte.
        let mut all = vec!["train.steps=6", "train.precision=\"bf16\"", "model.depth=6"];
        all.extend(sets);
        let args: Vec<&str> = all.iter().flat_map(|set| ["--set", set]).collect();
        launch(&dir.path().join(name), "2", &args, 0);
        digest(&dir.path().join(name))
    };
    let (zero1, small, bf16) = (
        "train.sharding=\"zero1\"",
        "train.bucket_mb=1",
        "train.reduce_dtype=\"bf16\"",
    );
    let whole = digest_of("none", &[]);
    assert_eq!(digest_of("none-small", &[small]), whole);
    assert_eq!(digest_of("zero1", &[zero1]), whole);
    assert_eq!(digest_of("zero1-small", &[zero1, small]), whole);
    let rounded = digest_of("none-bf16", &[bf16]);
    assert_eq!(digest_of("zero1-bf16", &[zero1, small, bf16]), rounded);
    assert_ne!(rounded, whole, "rounded gradients train other bits");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy_folder(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

#[test]
fn the_same_ranks_train_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str| dir.path().join(name);
    for name in ["a", "b"] {
        launch(&run(name), "2", &[], 0);
    }
    assert_eq!(digest(&run("a")), digest(&run("b")));
    let report = json(&["checkpoint", "list", run("a").to_str().unwrap()], 0);
    assert_eq!(report["checkpoints"][0]["world_size"], 2);
}
