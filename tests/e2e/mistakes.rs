//! Wrong input: one clear error that names it, exit code 1, nothing lost.

use std::fs;
use std::path::Path;

use crate::lidit::{debug_config, digest, error, json, root, run, train, train_args};

/// Trains the debug run with one `--set` in a fresh folder; it must be refused.
fn refused(set: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let config = debug_config();
    error(&train_args(
        dir.path().join("run").to_str().unwrap(),
        config.to_str().unwrap(),
        &["--set", set],
    ))
}

#[test]
fn misspelt_keys_wrong_types_and_impossible_values_are_named() {
    for (set, named) in [
        ("train.stesp=3", "stesp"),
        ("modle.depth=3", "modle"),
        ("train.steps=\"many\"", "train.steps"),
        ("train.lr=-1.0", "train.lr"),
        ("train.betas=[0.9]", "train.betas"),
        ("train.precision=\"fp8\"", "train.precision"),
        ("train.global_batch=0", "train.global_batch"),
        ("train.caption_dropout=1.5", "train.caption_dropout"),
        ("train.keep_every=15", "train.keep_every"),
        ("train.max_nonfinite=0", "train.max_nonfinite"),
        ("train.spike_zscore=-1.0", "train.spike_zscore"),
        ("model.num_heads=5", "model.num_heads"),
        ("model.patch_size=5", "model.patch_size"),
        ("model.refiner.blocks=4", "model.refiner.blocks"),
        ("model.in_channels=16", "model.in_channels"),
        ("objective.kind=\"epsilonn\"", "objective"),
        (
            "objective.weighting={ min_snr = { gamma = 5.0 } }",
            "objective.weighting",
        ),
        ("objective.shift={ constant = { factor = 0.0 } }", "objective.shift"),
        ("objective.shift=\"resolution\"", "objective"),
        ("sample.sampler.kind=\"ddim\"", "sampler.kind"),
        ("sample.sampler.guidance_rescale=2.0", "sampler.guidance_rescale"),
        ("encoders.llm=[]", "encoders.llm"),
        ("encoders.llm.0.model=\"gpt5\"", "gpt5"),
        ("encoders.llm.0.layer=-99", "layer"),
        ("data.path=\"/nowhere/at/all\"", "/nowhere/at/all"),
        ("data.caption_column=\"captoin\"", "captoin"),
        ("data.max_samples=100000", "data.max_samples"),
        ("format_version=7", "format_version"),
        ("train", "--set train"),
    ] {
        let message = refused(set);
        assert!(message.contains(named), "--set {set} said: {message}");
    }
}

#[test]
fn one_encoder_cannot_collaborate() {
    let path = root().join("datasets/fixtures/llm/tiny-llama.gguf");
    let message = refused(&format!("encoders.llm=[{{model={path:?},layer=-3}}]"));
    assert!(message.contains("model.fusion"), "{message}");
}

#[test]
fn a_circle_of_includes_and_a_missing_file_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let circle = dir.path().join("circle.toml");
    fs::write(&circle, "include = [\"circle.toml\"]\n").unwrap();
    let message = error(&["train", circle.to_str().unwrap()]);
    assert!(message.contains("circle.toml"), "{message}");
    let message = error(&["train", dir.path().join("absent.toml").to_str().unwrap()]);
    assert!(message.contains("absent.toml"), "{message}");
    assert!(
        !Path::new("runs/absent").exists(),
        "a config that can't be read leaves a run directory"
    );
}

#[test]
fn a_run_directory_is_never_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    train(&path, &["--set", "train.steps=2"], 0);
    let before = digest(&path);
    let config = debug_config();
    let args = train_args(path.to_str().unwrap(), config.to_str().unwrap(), &[]);
    let message = error(&args);
    assert!(message.contains("--resume"), "{message}");
    for (set, named) in [
        ("train.lr=0.5", "train.lr"),
        ("train.steps=1", "train.steps"),
        ("data.image_size=8", "data.image_size"),
    ] {
        let message = error(&[args.as_slice(), &["--resume", "--set", set]].concat());
        assert!(message.contains(named), "--set {set} said: {message}");
    }
    assert_eq!(digest(&path), before);
    // What only changes records, or makes the run longer, is allowed.
    let report = train(
        &path,
        &["--resume", "--set", "train.steps=3", "--set", "train.log_every=2"],
        0,
    );
    assert_eq!(report["step"], 3);
}

#[test]
fn a_damaged_checkpoint_is_named_by_verify_and_sample() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    train(&path, &["--set", "train.steps=2"], 0);
    let run_dir = path.to_str().unwrap();
    json(&["checkpoint", "verify", run_dir], 0);
    let victim = path.join("checkpoints/step-2/ema-120.safetensors");
    fs::write(&victim, &fs::read(&victim).unwrap()[..100]).unwrap();
    let message = error(&["checkpoint", "verify", run_dir]);
    assert!(message.contains("ema-120.safetensors"), "{message}");
    let out = dir.path().join("out");
    error(&["sample", "--run", run_dir, "--out", out.to_str().unwrap()]);
    assert!(!out.exists());
}

#[test]
fn another_encoder_than_the_trained_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    train(&path, &["--set", "train.steps=2"], 0);
    let config = path.join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("layer = -3", "layer = -2")).unwrap();
    let out = dir.path().join("out");
    let message = error(&[
        "sample",
        "--run",
        path.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ]);
    assert!(
        message.contains("encoders.llm.0") && message.contains("fingerprint"),
        "{message}"
    );
}

#[test]
fn usage_is_exit_code_2() {
    assert_eq!(run(&["train"]).status.code(), Some(2));
    assert_eq!(run(&["trian", "x.toml"]).status.code(), Some(2));
    assert_eq!(run(&["train", "x.toml", "--device", "tpu"]).status.code(), Some(2));
}
