//! `lidit replay`: the same bits again, and who broke a step.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use lidit_data::FeatureFile;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::lidit::{command, debug_config, error, json, metrics, stderr, train, train_args};
use crate::ranks::launch;

fn replay(run: &Path, step: u64) -> Value {
    let step = step.to_string();
    json(&["replay", run.to_str().unwrap(), "--step", &step], 0)
}

/// Every file below a folder with its bytes.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// Features of the debug run in `out`; those of every caption of sample `id` from language model `encoder` have a NaN.
fn broken_features(out: &Path, id: u64, encoder: usize) {
    let config = debug_config();
    json(&["cache", config.to_str().unwrap(), "--out", out.to_str().unwrap()], 0);
    let manifest_path = out.join("manifest.json");
    let text = fs::read_to_string(&manifest_path).unwrap();
    let mut manifest: Value = serde_json::from_str(&text).unwrap();
    let mut broken = 0;
    for entry in manifest["files"].as_array_mut().unwrap() {
        let path = out.join(entry["file"].as_str().unwrap());
        let mut rows = FeatureFile::open(&path, 2).unwrap().read().unwrap();
        for row in rows.iter_mut().filter(|row| row.id == id) {
            row.prompts[encoder].states[..4].copy_from_slice(&f32::NAN.to_le_bytes());
            broken += 1;
        }
        FeatureFile::write(&path, &rows, 2).unwrap();
        let bytes = fs::read(&path).unwrap();
        let digest = Sha256::digest(&bytes);
        let hex = digest
            .iter()
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        entry["sha256"] = hex.into();
    }
    assert!(broken > 0, "no row of sample {id}");
    fs::write(&manifest_path, manifest.to_string()).unwrap();
}

#[test]
fn an_ordinary_step_is_the_same_to_the_bit_over_worlds_shardings_and_precisions() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    // Four steps by one rank, four by two with the optimizer split and other micro-batches, five by three that recompute.
    let mixed = path("mixed");
    train(&mixed, &["--set", "train.stop_after=4"], 75);
    let sharded = ["--set", "train.sharding=\"zero1\"", "--set", "train.micro_batch=4"];
    launch(
        &mixed,
        "2",
        &[&["--resume", "--set", "train.stop_after=8"], &sharded[..]].concat(),
        75,
    );
    launch(
        &mixed,
        "3",
        &[
            "--resume",
            "--set",
            "train.stop_after=13",
            "--set",
            "train.keep_last=9",
            "--set",
            "train.recompute_blocks=1",
        ],
        75,
    );
    // Only the oldest checkpoint is left: the way to step 12 leads over two worlds.
    for step in [10, 13] {
        fs::remove_dir_all(mixed.join(format!("checkpoints/step-{step}"))).unwrap();
    }
    fs::remove_dir_all(mixed.join("checkpoints/step-8")).unwrap();
    let before = content(&mixed);
    for (step, from, world) in [(4, 0, 1), (6, 4, 2), (12, 4, 3)] {
        let found = replay(&mixed, step);
        assert_eq!(found["equal"], true, "{found}");
        assert_eq!((&found["from"], &found["world_size"]), (&from.into(), &world.into()));
        let logged = &metrics(&mixed)[step as usize - 1];
        assert_eq!(
            (&found["loss"], &found["grad_norm"]),
            (&logged["loss"], &logged["grad_norm"])
        );
        let sizes: Vec<usize> = found["micro_batches"]
            .as_array()
            .unwrap()
            .iter()
            .map(|batch| batch["ids"].as_array().unwrap().len())
            .collect();
        let wanted: &[usize] = match world {
            1 => &[6, 6],
            2 => &[4, 2, 4, 2],
            _ => &[4, 4, 4],
        };
        assert_eq!(sizes, wanted);
        assert!(found["sample"].is_null() && found["layer"].is_null());
    }
    assert!(content(&mixed) == before, "a replay changed the run");

    let bf16 = path("bf16");
    let sets = [
        "--set",
        "train.precision=\"bf16\"",
        "--set",
        "train.reduce_dtype=\"bf16\"",
        "--set",
        "train.steps=6",
    ];
    launch(
        &bf16,
        "2",
        &[&sets[..], &["--set", "train.sharding=\"zero1\""]].concat(),
        0,
    );
    assert_eq!(replay(&bf16, 5)["equal"], true);

    let message = error(&["replay", mixed.to_str().unwrap(), "--step", "14"]);
    assert!(message.contains("step 14 is not among the steps 1 to 13"), "{message}");
}

#[test]
fn a_sample_with_broken_features_is_named_with_its_row_and_what_it_broke() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (id, encoder) = (17, 1);
    broken_features(&path("features"), id, encoder);
    let on = format!("encoders.features={}", path("features").display());
    let sets = ["--set", &on, "--set", "train.steps=6", "--set", "train.sample_every=0"];
    for (name, ranks) in [("one", 1), ("two", 2)] {
        let run = path(name);
        if ranks == 1 {
            train(&run, &sets, 0);
        } else {
            launch(
                &run,
                "2",
                &[&sets[..], &["--set", "train.sharding=\"zero1\""]].concat(),
                0,
            );
        }
        let skipped: Vec<u64> = metrics(&run)
            .iter()
            .filter(|line| line["skipped"] == true)
            .map(|line| line["step"].as_u64().unwrap())
            .collect();
        // Two steps are an epoch; now and then dropout hides the caption.
        assert!(!skipped.is_empty() && skipped.len() <= 3, "{skipped:?}");
        for &step in [skipped.first(), skipped.last()].into_iter().flatten() {
            let found = replay(&run, step);
            assert_eq!(found["kind"], "non_finite");
            assert_eq!(found["equal"], true, "{found}");
            assert_eq!(found["world_size"], ranks);
            assert!(found["loss"].is_null() && found["grad_norm"].is_null());
            let batches = found["micro_batches"].as_array().unwrap();
            assert!(
                batches
                    .iter()
                    .all(|batch| batch["equal"] == true && batch["recorded"].is_object())
            );
            let broken: Vec<&Value> = batches.iter().filter(|batch| batch["loss"].is_null()).collect();
            assert_eq!(broken.len(), 1);
            assert!(broken[0]["ids"].as_array().unwrap().contains(&id.into()));
            let sample = &found["sample"];
            assert_eq!(sample["id"], id);
            assert_eq!(found["samples"], serde_json::json!([id]));
            // The fixture's shards have 10, 10 and 4 rows.
            assert!(
                sample["shard"].as_str().unwrap().ends_with("shard-00001.parquet"),
                "{sample}"
            );
            assert_eq!(sample["row"], 7);
            assert_eq!(found["layer"], "encoders.1.states");
            assert_eq!(found["pass"], "forward");
        }
    }
}

#[test]
fn a_rate_that_is_far_too_large_is_found_in_the_layer_that_overflows() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    train(&path("before"), &["--set", "train.steps=6"], 0);
    // Weights that are trained, so that every part takes part; then one step with a rate that throws them far away.
    let config = path("run.toml");
    let debug = debug_config();
    let start = format!(
        "include = [{debug:?}]\n[start]\nrun = {:?}\nweights = \"raw\"\noptimizer = \"restart\"\nfresh = []\n",
        path("before")
    );
    fs::write(&config, start).unwrap();
    // The refiners learn at a share of the rate, so that the backbone may overflow before them.
    for (lr, refiners, layer, pass) in [
        ("2e2", "1.0", "blocks.1", "backward"),
        ("1e12", "1.0", "encoders.0.refiner.blocks.0", "forward"),
        ("1e5", "1e-12", "blocks.0", "forward"),
    ] {
        let far = path(lr);
        let (lr, refiners) = (format!("train.lr={lr}"), format!("train.refiner_lr_ratio={refiners}"));
        let sets = ["--set", &lr, "--set", &refiners, "--set", "train.warmup_steps=1"];
        let sets = [&sets[..], &["--set", "train.max_nonfinite=2"]].concat();
        let message = error(&train_args(far.to_str().unwrap(), config.to_str().unwrap(), &sets));
        assert!(
            message.contains("in steps 2 to 3") && message.contains("--step 2"),
            "{message}"
        );
        let found = replay(&far, 2);
        assert_eq!(found["from"], 0);
        assert_eq!(found["equal"], true, "{found}");
        assert_eq!((&found["layer"], &found["pass"]), (&layer.into(), &pass.into()), "{lr}");
        // It is no sample's fault.
        assert_eq!(found["samples"].as_array().unwrap().len(), 12);
        assert!(
            found["notes"][0]
                .as_str()
                .unwrap()
                .contains("the network, not its data")
        );
    }
}

#[test]
fn a_fault_outside_of_the_network_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let config = debug_config();
    let args = train_args(
        run.to_str().unwrap(),
        config.to_str().unwrap(),
        &["--set", "train.steps=8"],
    );
    let output = command(&args).env("LIDIT_FAULT", "nan@3").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let found = replay(&run, 3);
    assert_eq!(found["kind"], "non_finite");
    // What was recorded of the step is not what its samples give, though each micro-batch is.
    assert_eq!(found["equal"], false);
    assert!(
        found["micro_batches"]
            .as_array()
            .unwrap()
            .iter()
            .all(|batch| batch["equal"] == true)
    );
    assert!(found["sample"].is_null() && found["layer"].is_null());
    assert!(
        found["notes"][0]
            .as_str()
            .unwrap()
            .contains("between the ranks' gradients and their sum"),
        "{found}"
    );
    // The way to a later step leads over the skipped one.
    fs::remove_dir_all(run.join("checkpoints/step-8")).unwrap();
    let later = replay(&run, 5);
    assert_eq!(later["from"], 0);
    assert_eq!(
        later["equal"], true,
        "the update that the run skipped was made: {later}"
    );
}

#[test]
fn a_spike_is_repeated_and_its_largest_sample_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let sets = [
        "--set",
        "train.steps=30",
        "--set",
        "train.lr=1e-6",
        "--set",
        "train.spike_zscore=0.7",
        "--set",
        "train.sample_every=0",
    ];
    train(&run, &sets, 0);
    let mut names = fs::read_dir(run.join("incidents")).unwrap();
    let name = names.next().unwrap().unwrap().file_name().to_str().unwrap().to_owned();
    let step = name
        .strip_prefix("step-")
        .unwrap()
        .strip_suffix(".json")
        .unwrap()
        .parse()
        .unwrap();
    let found = replay(&run, step);
    assert_eq!((&found["kind"], &found["equal"]), (&"spike".into(), &true.into()));
    let sample = found["sample"]["id"].as_u64().unwrap();
    let ids: Vec<u64> = found["micro_batches"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|batch| batch["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()))
        .collect();
    assert!(ids.contains(&sample));
    assert!(found["layer"].is_null());
}
