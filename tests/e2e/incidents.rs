//! Steps that can't be trusted: skipped or recorded, and the run goes on as if nothing else had happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::lidit::{command, debug_config, digest, json, metrics, stderr, train};

/// A debug run in `dir`, with a fault armed. Not started.
fn faulty(dir: &Path, fault: &str, extra: &[&str]) -> Command {
    let config = debug_config();
    let args = [
        &["train", config.to_str().unwrap(), "--run-dir", dir.to_str().unwrap()],
        extra,
    ]
    .concat();
    let mut command = command(&args);
    command.env("LIDIT_FAULT", fault);
    command
}

fn exits(mut command: Command, code: i32) -> String {
    let output: Output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    stderr(&output)
}

fn incident(dir: &Path, name: &str) -> Value {
    serde_json::from_slice(&fs::read(dir.join("incidents").join(name)).unwrap()).unwrap()
}

/// The steps of a run's lineage that have an incident.
fn incidents(dir: &Path) -> BTreeSet<u64> {
    let Ok(entries) = fs::read_dir(dir.join("incidents")) else {
        return BTreeSet::new();
    };
    entries
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
            name.strip_prefix("step-")?.strip_suffix(".json")?.parse().ok()
        })
        .collect()
}

/// Tensors and metadata of a file by name.
type Tensors = (BTreeMap<String, Vec<u8>>, BTreeMap<String, String>);

/// What a checkpoint's file holds; the order of its metadata is random.
fn tensors(dir: &Path, step: u64, name: &str) -> Tensors {
    let bytes = fs::read(dir.join(format!("checkpoints/step-{step}/{name}"))).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap_or_default();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let named = tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, view.data().to_vec()))
        .collect();
    (named, metadata.into_iter().collect())
}

/// What the lines of two runs must agree in: all but times.
fn lines(dir: &Path) -> Vec<Value> {
    let mut lines = metrics(dir);
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        line.retain(|key, _| key != "goodput" && !key.ends_with("seconds") && !key.ends_with("_s"));
    }
    lines
}

const EVERY_STEP: [&str; 4] = ["--set", "train.checkpoint_every=1", "--set", "train.keep_last=99"];

#[test]
fn a_skipped_step_moves_on_in_the_stream_and_touches_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let said = exits(faulty(&run, "nan@7", &EVERY_STEP), 0);
    assert!(said.contains("WARNING: LIDIT_FAULT is armed: rank 0"), "{said}");
    assert!(said.contains("step 7 is skipped"), "{said}");
    let file = |step: u64, name: &str| tensors(&run, step, name);
    for name in [
        "model.safetensors",
        "ema-48.safetensors",
        "ema-120.safetensors",
        "optimizer-0000.safetensors",
    ] {
        assert!(file(6, name) == file(7, name), "{name} changed in the skipped step");
        assert!(file(7, name) != file(8, name), "{name} did not change in the next step");
    }
    let position = |step| {
        let path = run.join(format!("checkpoints/step-{step}/manifest.json"));
        let manifest: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        manifest["data"]["position"].as_u64().unwrap()
    };
    assert_eq!(position(7), position(6) + 12);
    json(&["data", "audit", run.to_str().unwrap()], 0);

    let lines = metrics(&run);
    assert_eq!(lines.len(), 20);
    for line in &lines {
        let is_seventh = line["step"] == 7;
        assert_eq!(line["skipped"], is_seventh);
        assert_eq!(line["grad_norm"].is_null(), is_seventh);
    }
    let incident = incident(&run, "step-7.json");
    assert_eq!(incident["kind"], "non_finite");
    assert_eq!(incident["checkpoint"], 6);
    let micro_batches = incident["ranks"][0]["micro_batches"].as_array().unwrap();
    let ids: Vec<&Value> = micro_batches
        .iter()
        .flat_map(|batch| batch["ids"].as_array().unwrap())
        .collect();
    let config = debug_config();
    let order = json(&["data", "order", config.to_str().unwrap(), "--steps", "7"], 0);
    let wanted: Vec<&Value> = order["steps"][6]["ids"].as_array().unwrap().iter().collect();
    assert_eq!(ids, wanted);
    assert_eq!(incidents(&run), BTreeSet::from([7]));
}

#[test]
fn a_resume_at_or_across_a_skipped_step_ends_as_the_uninterrupted_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    exits(faulty(&path("whole"), "nan@7", &[]), 0);
    for stop in ["6", "7", "12"] {
        let run = path(stop);
        let stop = format!("train.stop_after={stop}");
        exits(faulty(&run, "nan@7", &["--set", &stop]), 75);
        exits(faulty(&run, "nan@7", &["--resume"]), 0);
        assert_eq!(digest(&run), digest(&path("whole")), "{stop}");
        assert_eq!(lines(&run), lines(&path("whole")), "{stop}");
        assert_eq!(incidents(&run), BTreeSet::from([7]), "{stop}");
    }
}

#[test]
fn too_many_in_a_row_end_the_run_without_a_checkpoint_and_the_count_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let sets = ["--set", "train.checkpoint_every=7", "--set", "train.max_nonfinite=1"];
    train(&path("undisturbed"), &sets, 0);
    let run = path("run");
    // Step 14 is also due to be saved: a run that fails saves nothing.
    let said = exits(faulty(&run, "nan@14", &sets), 1);
    let error = said.lines().find(|line| line.starts_with("error: ")).unwrap();
    for part in [
        "in step 14,",
        "train.max_nonfinite = 1",
        "incidents/step-14.json",
        "lidit replay",
        "--step 14",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!run.join("checkpoints/step-14").exists());
    assert_eq!(
        json(&["checkpoint", "list", run.to_str().unwrap()], 0)["checkpoints"][0]["step"],
        7
    );
    // Without the fault it is as if nothing had happened; the incident is kept, outside of the lineage.
    train(&run, &["--resume"], 0);
    assert_eq!(digest(&run), digest(&path("undisturbed")));
    assert_eq!(lines(&run), lines(&path("undisturbed")));
    assert_eq!(incidents(&run), BTreeSet::new());
    assert_eq!(incident(&run, "attempt-1/step-14.json")["step"], 14);

    let twice = path("twice");
    let sets = ["--set", "train.max_nonfinite=2", "--set", "train.stop_after=7"];
    exits(faulty(&twice, "nan@7", &sets), 75);
    let said = exits(faulty(&twice, "nan@8", &["--resume"]), 1);
    assert!(said.contains("in steps 7 to 8"), "{said}");
    // The same count, allowed to go past it.
    exits(
        faulty(&twice, "nan@8", &["--resume", "--set", "train.max_nonfinite=3"]),
        0,
    );
    assert_eq!(incidents(&twice), BTreeSet::from([7, 8]));
}

#[test]
fn one_broken_rank_makes_both_skip_and_both_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    for sharding in ["none", "zero1"] {
        let run = dir.path().join(sharding);
        let sharding = format!("train.sharding=\"{sharding}\"");
        let sets = [&EVERY_STEP[..], &["--set", &sharding, "--set", "train.steps=9"]].concat();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ranks: Vec<_> = ["0", "1"]
            .into_iter()
            .map(|rank| {
                let mut command = faulty(&run, "nan@7", &sets);
                if rank == "0" {
                    command.env_remove("LIDIT_FAULT");
                }
                command
                    .envs([("RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_RANK", rank)])
                    .envs([("MASTER_ADDR", "127.0.0.1"), ("LIDIT_RENDEZVOUS_SECRET", "for a test")])
                    .env("MASTER_PORT", port.to_string())
                    .stdout(std::process::Stdio::null())
                    .stderr(std::process::Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for mut rank in ranks {
            assert_eq!(rank.wait().unwrap().code(), Some(0));
        }
        for name in ["model", "ema-48", "optimizer-0000"] {
            let file = |step: u64| tensors(&run, step, &format!("{name}.safetensors"));
            assert!(file(6) == file(7), "{name} changed in the skipped step");
            assert!(file(7) != file(8), "{name} did not change in the next step");
        }
        let incident = incident(&run, "step-7.json");
        assert_eq!(incident["world_size"], 2);
        let ranks = incident["ranks"].as_array().unwrap();
        let sizes: Vec<usize> = ranks
            .iter()
            .map(|rank| {
                let batches = rank["micro_batches"].as_array().unwrap();
                batches.iter().map(|batch| batch["ids"].as_array().unwrap().len()).sum()
            })
            .collect();
        assert_eq!(sizes, [6, 6]);
        json(&["data", "audit", run.to_str().unwrap()], 0);
    }
}

#[test]
fn spikes_are_recorded_change_nothing_and_are_the_same_after_a_resume() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    // Nearly without learning losses neither rise nor fall: only the batches differ.
    let steps = ["--set", "train.steps=40", "--set", "train.lr=1e-6"];
    let spiky = [&steps[..], &["--set", "train.spike_zscore=1.0"]].concat();
    train(
        &path("without"),
        &[&steps[..], &["--set", "train.spike_zscore=0.0"]].concat(),
        0,
    );
    train(&path("with"), &spiky, 0);
    train(
        &path("parts"),
        &[&spiky[..], &["--set", "train.stop_after=25"]].concat(),
        75,
    );
    train(&path("parts"), &["--resume"], 0);
    assert_eq!(digest(&path("with")), digest(&path("without")));
    assert_eq!(incidents(&path("without")), BTreeSet::new());

    // By the definition, from the metrics alone.
    let lines_with = metrics(&path("with"));
    let spikes: BTreeSet<u64> = lines_with
        .windows(2)
        .filter_map(|pair| {
            let before = |key: &str| pair[0]["watch"][key].as_f64().unwrap();
            let loss = pair[1]["loss"].as_f64().unwrap();
            let is_spike = before("losses") >= 16.0 && (loss - before("mean")) / before("variance").sqrt() > 1.0;
            is_spike.then(|| pair[1]["step"].as_u64().unwrap())
        })
        .collect();
    assert!(!spikes.is_empty(), "no loss is a spike at one deviation");
    assert!(spikes.len() < 20, "{spikes:?}");
    assert_eq!(incidents(&path("with")), spikes);
    let first = incident(&path("with"), &format!("step-{}.json", spikes.first().unwrap()));
    assert_eq!(first["kind"], "spike");
    assert!(first["zscore"].as_f64().unwrap() > 1.0);
    let batch = &first["ranks"][0]["micro_batches"][0];
    assert!(batch["loss"].as_f64().unwrap() > 0.0 && batch["grad_norm"].as_f64().unwrap() > 0.0);
    assert_eq!(incidents(&path("parts")), spikes);
    assert_eq!(lines(&path("parts")), lines(&path("with")));
}

#[test]
fn an_unknown_fault_is_refused_before_the_first_step() {
    let dir = tempfile::tempdir().unwrap();
    let said = exits(faulty(&dir.path().join("run"), "nan@x", &[]), 1);
    assert!(said.contains("LIDIT_FAULT is `nan@x`"), "{said}");
}
