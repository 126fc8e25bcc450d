//! What a run would cost, against what it does cost.

use std::fs;

use lidit_data::FeatureFile;
use serde_json::Value;

use crate::lidit::{debug_config, error, json, root, train};

fn plan(extra: &[&str]) -> Value {
    let config = debug_config();
    json(&[&["plan", config.to_str().unwrap()], extra].concat(), 0)
}

#[test]
fn the_plan_counts_the_parameters_and_flops_that_training_has() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    // Without dropout, and two epochs: every caption is seen as often as the plan takes it to be.
    let sets = ["--set", "train.steps=4", "--set", "train.caption_dropout=0"];
    let plan = plan(&sets);
    train(&run, &sets, 0);
    let manifest = fs::read(run.join("checkpoints/step-4/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let count = |entry: &Value| -> u64 {
        let shape = entry["shape"].as_array().unwrap();
        shape.iter().map(|side| side.as_u64().unwrap()).product()
    };
    let params: u64 = manifest["layout"].as_array().unwrap().iter().map(count).sum();
    assert_eq!(plan["params"].as_u64(), Some(params));
    let parts = ["blocks", "frame", "refiners"].map(|part| plan["model"][part].as_u64().unwrap());
    assert_eq!(parts.iter().sum::<u64>(), params);

    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    let per_image = last["flops"].as_f64().unwrap() / last["samples_seen"].as_f64().unwrap();
    let planned = plan["flops_per_image"].as_f64().unwrap();
    assert!(
        (planned - per_image).abs() <= 1e-6 * per_image,
        "{planned} and {per_image}"
    );

    let memory = plan["memory"].as_object().unwrap();
    let total: u64 = memory.values().map(|part| part.as_u64().unwrap()).sum();
    assert_eq!(plan["memory_bytes"].as_u64(), Some(total));
    // Moments are two f32 a parameter; zero1 leaves each of four ranks a quarter.
    assert_eq!(memory["optimizer"].as_u64(), Some(8 * params));
    let sharded = self::plan(&["--world", "4", "--set", "train.sharding=\"zero1\""]);
    assert_eq!(sharded["memory"]["optimizer"].as_u64(), Some(8 * params.div_ceil(4)));
    // A CPU keeps activations in f32; the plan needs no GPU to say what one keeps.
    let activations = |device| {
        let plan = self::plan(&["--set", "train.precision=bf16", "--device", device]);
        plan["memory"]["activations"].as_u64().unwrap()
    };
    assert_eq!(activations("cpu"), 2 * activations("cuda"));
}

#[test]
fn the_price_of_a_cache_is_the_cache_s_size() {
    let dir = tempfile::tempdir().unwrap();
    let config = debug_config();
    for precision in ["f32", "bf16"] {
        let set = format!("encoders.cache.precision={precision}");
        let sets = ["--set", &set, "--set", "sample.prompts=[\"x\"]"];
        let out = dir.path().join(precision);
        let args = ["cache", config.to_str().unwrap(), "--out", out.to_str().unwrap()];
        json(&[&args[..], &sets].concat(), 0);
        let group = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path());
        let group = group
            .into_iter()
            .find(|path| path.to_str().unwrap().contains("group-"))
            .unwrap();
        let written = fs::metadata(&group).unwrap().len() as f64;
        let plan = plan(&sets);
        let planned = plan["encoders"]["cache_bytes"].as_f64().unwrap();
        // The plan takes the whole common prefix to be shared, and stores it once; what an encoder shares less is stored
        // with each caption.
        let rows = FeatureFile::open(&group, 2).unwrap().read().unwrap();
        let mut expected = written;
        for (i, llm) in plan["encoders"]["llm"].as_array().unwrap().iter().enumerate() {
            let prefix = llm["prefix_tokens"].as_f64().unwrap();
            let prompts = || rows.iter().map(|row| &row.prompts[i]);
            let token = prompts()
                .map(|prompt| prompt.states.len() / prompt.ids.len())
                .max()
                .unwrap() as f64
                + 4.0;
            let unshared: f64 = prompts().map(|prompt| prefix - f64::from(prompt.shared)).sum();
            expected += token * (prefix - unshared);
        }
        assert!(
            (planned - expected).abs() <= 0.03 * expected,
            "{precision}: {planned} planned, {expected} written"
        );
        assert_eq!(plan["encoders"]["captions"].as_f64(), Some(24.0));
    }
}

#[test]
fn what_is_recommended_follows_the_sweep() {
    let way = |extra: &[&str]| plan(extra)["encoders"]["recommended"].as_str().unwrap().to_owned();
    // A set that fits into memory and is seen often needs no folder.
    assert_eq!(way(&["--runs", "1"]), "remember");
    // Every rung would encode it again for a few steps only.
    assert_eq!(way(&["--runs", "100", "--set", "train.steps=3"]), "cache");
    // One step sees half of it: encoding all would cost more.
    assert_eq!(way(&["--runs", "1", "--set", "train.steps=1"]), "on_the_fly");
    let encoders = plan(&["--runs", "7"])["encoders"].clone();
    assert_eq!(encoders["runs"].as_u64(), Some(7));
    let of = |key: &str| encoders[key].as_f64().unwrap();
    assert!((of("remember_flops") - 7.0 * of("cache_flops")).abs() <= 1e-9 * of("remember_flops"));
    let llm = &encoders["llm"][0];
    assert!(
        llm["prefix_tokens"].as_u64().unwrap() > 20,
        "the instruction is shared: {llm}"
    );
}

#[test]
fn a_missing_model_is_named_and_people_get_a_line_a_topic() {
    let message = error(&[
        "plan",
        debug_config().to_str().unwrap(),
        "--set",
        "encoders.llm.0.model=smollm3",
    ]);
    assert!(message.contains("smollm3"), "{message}");
    let text = crate::lidit::run(&["plan", root().join("configs/run/debug.toml").to_str().unwrap()]);
    let text = String::from_utf8(text.stdout).unwrap();
    for line in ["parameters", "encoder ", "FLOPs", "memory", "encoding", "recommended"] {
        assert!(
            text.lines().any(|found| found.starts_with(line)),
            "{line} is missing in {text}"
        );
    }
}
