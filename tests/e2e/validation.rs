//! The validation loss in training: the same triples whatever the ranks, however often the run was broken.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::data_sets::write_set;
use crate::lidit::{debug_config, error, json, losses, metrics, root, spawn, train, train_args};
use crate::ranks::launch;
use crate::resume::{logged, wait_until};

/// The debug run on two of its shards, judged on the third.
fn settings(more: &[&str]) -> Vec<String> {
    let shards = root().join("datasets/fixtures/emoji");
    let mut sets = vec![
        format!("data.path={}", shards.join("shard-0000[01].parquet").display()),
        format!("validation.data={}", shards.join("shard-00002.parquet").display()),
    ];
    let own = [
        "samples=4",
        "levels=3",
        "seed=5",
        "every=5",
        "weights=raw",
        "prompt_gain=true",
    ];
    sets.extend(own.map(|set| format!("validation.{set}")));
    sets.extend(more.iter().map(|set| (*set).to_owned()));
    sets.into_iter().flat_map(|set| ["--set".to_owned(), set]).collect()
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Trains to the end; returns the records of its evaluated steps, in order.
fn evaluated(run: &Path, more: &[&str]) -> Vec<Value> {
    train(run, &strs(&settings(more)), 0);
    records(run)
}

fn records(run: &Path) -> Vec<Value> {
    let mut records: Vec<Value> = fs::read_dir(run.join("validation"))
        .unwrap()
        .map(|file| serde_json::from_slice(&fs::read(file.unwrap().path()).unwrap()).unwrap())
        .collect();
    records.sort_by_key(|record: &Value| record["step"].as_u64());
    records
}

fn result(run: &Path) -> Value {
    serde_json::from_slice(&fs::read(run.join("result.json")).unwrap()).unwrap()
}

fn flat(record: &Value, key: &str) -> Vec<f64> {
    let rows = record[key].as_array().unwrap().iter();
    rows.flat_map(|row| row.as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()))
        .collect()
}

fn assert_same_losses(a: &[Value], b: &[Value]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!(
            (&a["step"], &a["digest"], &a["ids"]),
            (&b["step"], &b["digest"], &b["ids"])
        );
        let gains = |record: &Value| flat(&record["prompt_gain"], "gains");
        let losses = flat(a, "losses").into_iter().zip(flat(b, "losses"));
        for ((a, b), (gain_a, gain_b)) in losses.zip(gains(a).into_iter().zip(gains(b))) {
            assert!((a - b).abs() <= 1e-5 * b, "{a} and {b}");
            assert!((gain_a - gain_b).abs() <= 2e-5 * b, "{gain_a} and {gain_b} of {b}");
        }
    }
}

#[test]
fn a_run_is_judged_on_its_way_and_at_its_end_and_trains_as_if_it_were_not() {
    let dir = tempfile::tempdir().unwrap();
    let (run, without) = (dir.path().join("run"), dir.path().join("without"));
    let records = evaluated(&run, &["train.steps=12", "train.log_every=12"]);
    let steps: Vec<_> = records.iter().map(|record| record["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [5, 10, 12]);
    for record in &records {
        let losses = flat(record, "losses");
        assert_eq!((losses.len(), record["weights"].as_str()), (12, Some("raw")));
        let mean = losses.iter().sum::<f64>() / 12.0;
        assert!((record["val_loss"].as_f64().unwrap() - mean).abs() <= 1e-6 * mean);
        let levels = record["levels"].as_array().unwrap();
        let times: Vec<_> = levels.iter().map(|level| level["time"].as_f64().unwrap()).collect();
        assert_eq!(times, [0.5 / 3.0, 0.5, 2.5 / 3.0]);
        for (number, level) in levels.iter().enumerate() {
            let mean = losses.iter().skip(number).step_by(3).sum::<f64>() / 4.0;
            assert!((level["mean"].as_f64().unwrap() - mean).abs() <= 1e-6 * mean);
        }
    }
    // Evaluated steps are logged, whatever log_every is; checkpoints are at 10 and 12.
    let lines = metrics(&run);
    let logged: Vec<_> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(logged, [5, 10, 12]);
    for (line, record) in lines.iter().zip(&records) {
        assert_eq!(
            (&line["val_loss"], &line["val_loss_se"]),
            (&record["val_loss"], &record["se"])
        );
    }
    let (result, last) = (result(&run), &records[2]);
    assert_eq!(
        (
            &result["val_loss"],
            &result["val_loss_se"],
            &result["validation_digest"]
        ),
        (&last["val_loss"], &last["se"], &last["digest"])
    );
    let gain = &last["prompt_gain"];
    assert_eq!(
        (&result["prompt_gain"], &result["prompt_gain_se"]),
        (&gain["mean"], &gain["se"])
    );
    let gains = flat(gain, "gains");
    let mean = gains.iter().sum::<f64>() / 12.0;
    assert!((gain["mean"].as_f64().unwrap() - mean).abs() <= 1e-9, "{gain}");
    // The first step knows of no prompt yet, the last one does.
    assert!(gains.iter().any(|gain| gain.abs() > 0.0), "{gain}");

    let shards = format!(
        "data.path={}",
        root().join("datasets/fixtures/emoji/shard-0000[01].parquet").display()
    );
    train(&without, &["--set", &shards, "--set", "train.steps=12"], 0);
    let (judged, alone) = (losses(&run), losses(&without));
    assert!(
        judged.iter().all(|line| alone.contains(line)),
        "{judged:?} and {alone:?}"
    );
    assert!(metrics(&without).iter().all(|line| line["val_loss"].is_null()));
    assert!(!without.join("validation").exists());
}

#[test]
fn ranks_and_micro_batches_change_no_triple_and_an_average_is_another_network() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let steps = "train.steps=5";
    let one = evaluated(&path("one"), &[steps]);
    for (ranks, more) in [("2", "train.sharding=\"zero1\""), ("3", "train.micro_batch=1")] {
        launch(&path(ranks), ranks, &strs(&settings(&[steps, more])), 0);
        assert_same_losses(&records(&path(ranks)), &one);
    }
    let average = ["validation.weights=ema:48", "train.sharding=\"zero1\"", steps];
    let average_of_one = evaluated(&path("average"), &average);
    launch(&path("average-2"), "2", &strs(&settings(&average)), 0);
    assert_same_losses(&records(&path("average-2")), &average_of_one);
    assert_eq!(average_of_one[0]["weights"], "ema:48");
    assert_eq!(average_of_one[0]["digest"], one[0]["digest"]);
    assert_ne!(flat(&average_of_one[0], "losses"), flat(&one[0], "losses"));

    // Two networks on the same triples.
    let [a, b] = ["average", "one"].map(|name| path(name).to_str().unwrap().to_owned());
    let compared = json(&["eval", "compare", &a, &b], 0);
    let differences: Vec<f64> = flat(&average_of_one[0], "losses")
        .iter()
        .zip(flat(&one[0], "losses"))
        .map(|(a, b)| a - b)
        .collect();
    let mean = differences.iter().sum::<f64>() / 12.0;
    assert!((compared["difference"].as_f64().unwrap() - mean).abs() <= 1e-5 * mean.abs());
    let se = one[0]["se"].as_f64().unwrap();
    assert!(compared["se"].as_f64().unwrap() < se, "{compared} and {se}");
    let other = path("other");
    evaluated(&other, &[steps, "validation.seed=6"]);
    let message = error(&["eval", "compare", &a, other.to_str().unwrap()]);
    for part in [
        "other triples",
        "seed is 5 there and 6 here",
        one[0]["digest"].as_str().unwrap(),
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_killed_run_evaluates_lost_steps_again_and_says_what_time_was_useful() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let sets = settings(&["validation.every=4", "train.steps=30", "train.checkpoint_every=10"]);
    train(&whole, &strs(&sets), 0);
    let config = debug_config();
    let mut child = spawn(&train_args(
        parts.to_str().unwrap(),
        config.to_str().unwrap(),
        &strs(&sets),
    ));
    wait_until(|| logged(&parts) >= 17);
    child.kill().unwrap();
    child.wait().unwrap();
    let before = metrics(&parts);
    train(&parts, &["--resume"], 0);
    assert_eq!(records(&whole), records(&parts));

    for run in [&whole, &parts] {
        let (lines, result) = (metrics(run), result(run));
        assert_eq!(lines.len(), 30);
        let (mut useful, mut wall) = (0.0, 0.0);
        for line in &lines {
            let number = |key: &str| line[key].as_f64().unwrap();
            useful += number("step_s") - number("data_wait_s");
            assert!((number("useful_seconds") - useful).abs() <= 1e-6 * useful, "{line}");
            assert!(
                number("wall_seconds") > wall && number("wall_seconds") > number("seconds"),
                "{line}"
            );
            assert!((number("goodput") - useful / number("wall_seconds")).abs() <= 1e-6);
            wall = number("wall_seconds");
        }
        let end = result["wall_seconds"].as_f64().unwrap();
        assert!(end >= wall, "{result}");
        assert!(
            (result["goodput"].as_f64().unwrap() - useful / end).abs() <= 1e-6,
            "{result}"
        );
    }
    // The lost steps took their time, once useful at most: what came after the kill is on top of all before it.
    let number = |line: &Value, key: &str| line[key].as_f64().unwrap();
    let killed_at = number(&before[before.len() - 1], "wall_seconds");
    let after = metrics(&parts);
    let first_again = after
        .iter()
        .find(|line| number(line, "wall_seconds") > killed_at)
        .unwrap();
    let step = first_again["step"].as_u64().unwrap();
    assert!(
        step == 11 || step == 1,
        "the lineage goes on after a checkpoint, not at {step}"
    );
    assert!(number(first_again, "wall_seconds") > killed_at + number(first_again, "step_s"));
}

#[test]
fn features_and_live_models_agree_and_a_sweep_on_features_needs_the_set_s_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let live = evaluated(&path("live"), &["train.steps=3"]);
    let encoded_each_time = evaluated(&path("each-time"), &["train.steps=3", "encoders.remember=nothing"]);
    assert_same_losses(&encoded_each_time, &live);

    let config = debug_config();
    let cache = |out: &Path, flag: &[&str]| {
        let words = ["cache", config.to_str().unwrap(), "--out", out.to_str().unwrap()];
        json(&[&words, flag, &strs(&settings(&[]))].concat(), 0)
    };
    assert_eq!(cache(&path("features"), &["--validation"])["rows"], 4);
    cache(&path("training"), &[]);
    let on = |key: &str, name: &str| format!("{key}.features={}", path(name).display());
    let (validation, training) = (on("validation", "features"), on("encoders", "training"));
    let featured = evaluated(&path("featured"), &["train.steps=3", &validation, &training]);
    assert_same_losses(&featured, &live);

    let refused = |sets: &[&str]| {
        let run = path("refused");
        error(&train_args(
            run.to_str().unwrap(),
            config.to_str().unwrap(),
            &strs(&settings(sets)),
        ))
    };
    let message = refused(&[&training]);
    assert!(
        message.contains("validation.features") && message.contains("--validation"),
        "{message}"
    );
    let message = refused(&[&on("validation", "training")]);
    assert!(
        message.contains("validation.features") && message.contains("data.digest"),
        "{message}"
    );
}

#[test]
fn what_a_run_sees_and_what_can_not_be_used_validates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = debug_config();
    let message = |data: &Path, held_out: &Path, samples: u32| {
        let run = dir.path().join("run");
        let sets = [
            format!("data.path={}", data.display()),
            format!("validation.data={}", held_out.display()),
            format!("validation.samples={samples}"),
        ];
        let sets = settings(&sets.iter().map(String::as_str).collect::<Vec<_>>());
        let message = error(&train_args(
            run.to_str().unwrap(),
            config.to_str().unwrap(),
            &strs(&sets),
        ));
        fs::remove_dir_all(run).unwrap();
        message
    };
    let fixture = root().join("datasets/fixtures/emoji");
    let copy: PathBuf = dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for file in fs::read_dir(&fixture).unwrap() {
        let file = file.unwrap().path();
        fs::copy(&file, copy.join(file.file_name().unwrap())).unwrap();
    }
    for (data, held_out, named) in [
        (&fixture, &fixture, "is the training set itself"),
        (&fixture, &copy, "is the training set itself"),
        (&fixture, &fixture.join("shard-00001.parquet"), "shares its shard"),
    ] {
        let said = message(data, held_out, 4);
        assert!(said.contains("validation.data") && said.contains(named), "{said}");
    }
    let said = message(
        &fixture.join("shard-0000[01].parquet"),
        &fixture.join("shard-00002.parquet"),
        5,
    );
    assert!(said.contains("[validation]") && said.contains("4 rows"), "{said}");

    let bad = dir.path().join("bad");
    write_set(&bad, 20, 20);
    let said = message(&fixture, &bad, 20);
    assert!(said.contains("shard-00001.parquet: row 3 can't be used"), "{said}");
}
