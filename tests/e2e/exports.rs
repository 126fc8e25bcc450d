//! Weights that leave a run and come back: nothing changes on the way, and every mistake is named.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use crate::lidit::{debug_config, digest, error, json, train, weights};

/// The path's text.
fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Trains the debug run for two steps and exports its raw weights.
fn exported(dir: &Path) -> (PathBuf, PathBuf) {
    let (run, export) = (dir.join("run"), dir.join("export"));
    train(&run, &["--set", "train.steps=2", "--set", "train.sample_every=0"], 0);
    let args = ["checkpoint", "export", text(&run), "--out", text(&export)];
    let report = json(&[&args[..], &["--weights", "raw"]].concat(), 0);
    assert_eq!(
        (report["step"].as_u64(), report["weights"].as_str()),
        (Some(2), Some("raw"))
    );
    (run, export)
}

/// Arguments that import `export` into `run` as the debug run with `sets`.
fn import<'a>(run: &'a Path, export: &'a Path, config: &'a Path, sets: &[&'a str]) -> Vec<&'a str> {
    let from = [
        "checkpoint",
        "import",
        text(run),
        "--from",
        text(export),
        "--config",
        text(config),
    ];
    [&from[..], sets].concat()
}

#[test]
fn an_export_is_imported_drawn_trained_on_and_exported_again_without_a_changed_bit() {
    let dir = tempfile::tempdir().unwrap();
    let (run, export) = exported(dir.path());
    let again = dir.path().join("again");
    let config = debug_config();
    let steps = ["--set", "train.steps=3", "--set", "train.sample_every=0"];
    let report = json(&import(&again, &export, &config, &steps), 0);
    assert_eq!(report["fresh"].as_array().unwrap().len(), 0);
    assert_eq!(weights(&again, 0), weights(&run, 2));
    json(&["checkpoint", "verify", text(&again)], 0);

    // Out again: raw and averaged weights are the same bytes, and the config differs by the step alone.
    for (weights, out) in [("raw", "raw"), ("ema:48", "averaged")] {
        let out = dir.path().join(out);
        json(
            &[
                "checkpoint",
                "export",
                text(&again),
                "--weights",
                weights,
                "--out",
                text(&out),
            ],
            0,
        );
        let bytes = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
        assert!(bytes(&out) == bytes(&export));
        let about = |folder: &Path| -> serde_json::Value {
            let mut config: serde_json::Value =
                serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
            let config = config.as_object_mut().unwrap();
            for key in ["step", "samples_seen", "weights"] {
                config.remove(key).unwrap();
            }
            config.clone().into()
        };
        assert_eq!(about(&out), about(&export));
        assert!(
            !fs::read_to_string(out.join("config.json"))
                .unwrap()
                .contains(text(dir.path()))
        );
    }

    let pictures = dir.path().join("pictures");
    let drawn = json(
        &[
            "sample",
            "--run",
            text(&again),
            "--out",
            text(&pictures),
            "--steps",
            "1",
            "--prompt",
            "a whale",
        ],
        0,
    );
    assert_eq!(drawn["step"], 0);
    assert_eq!(train(&again, &["--resume"], 0)["step"], 3);
    // The same run from `[start]` in its config.
    let started = dir.path().join("started");
    let start = format!(
        "start={{run={:?}, weights=\"raw\", optimizer=\"restart\", fresh=[]}}",
        text(&export)
    );
    train(&started, &[&steps[..], &["--set", &start]].concat(), 0);
    assert_eq!(digest(&started), digest(&again));
}

#[test]
fn every_other_network_is_refused_by_name_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_, export) = exported(dir.path());
    let config = debug_config();
    for (sets, named) in [
        (
            &["model.hidden_size=128"][..],
            "model.hidden_size is 64 there and 128 here",
        ),
        (&["model.depth=3"], "model.depth is 2 there and 3 here"),
        (&["model.patch_size=8"], "model.patch_size is 4 there and 8 here"),
        (&["encoders.llm.1.layer=-2"], "(layer is -3 there and -2 here)"),
        (&["encoders.instruction=Name it:"], "template.instruction is"),
        (
            &["encoders.pooling=all"],
            r#"encoders.pooling is "caption" there and "all" here"#,
        ),
    ] {
        let run = dir.path().join("refused");
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
        let message = error(&import(&run, &export, &config, &sets));
        assert!(
            message.contains(named) && message.contains("export/config.json"),
            "{sets:?}: {message}"
        );
        assert!(!run.exists(), "{sets:?}");
    }
    // Another objective needs a config of its own: its keys are others.
    let folder = format!("\"{}/../", text(config.parent().unwrap()));
    let other = fs::read_to_string(&config)
        .unwrap()
        .replace("rectified-flow.toml", "epsilon.toml");
    let epsilon = dir.path().join("epsilon.toml");
    fs::write(&epsilon, other.replace("\"../", &folder)).unwrap();
    let run = dir.path().join("refused");
    let message = error(&import(&run, &export, &epsilon, &[]));
    assert!(
        message.contains("objective.kind is \"rectified_flow\" there and \"epsilon\" here"),
        "{message}"
    );

    // What is said to be fresh may differ, and only that.
    let message = error(&import(&run, &export, &epsilon, &["--fresh", "final_layr"]));
    assert!(message.contains("`final_layr` names no parameter"), "{message}");
    let deeper = [
        "--set",
        "model.depth=3",
        "--fresh",
        "final_layer",
        "--fresh",
        "blocks.2",
    ];
    let report = json(&import(&run, &export, &epsilon, &deeper), 0);
    let fresh: Vec<&str> = report["fresh"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|name| name.as_str())
        .collect();
    assert!(
        fresh
            .iter()
            .all(|name| name.starts_with("final_layer.") || name.starts_with("blocks.2."))
    );
    assert!(fresh.contains(&"final_layer.linear.weight") && fresh.contains(&"blocks.2.mlp.linear_in.weight"));
}

/// Rewrites the weights' file without `left_out` and with `extra`, and signs it.
fn rewrite(export: &Path, left_out: &str, extra: Option<&str>) {
    let path = export.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = stored.iter().filter(|(name, _)| *name != left_out).collect();
    if let Some(extra) = extra {
        tensors.push((extra, stored.tensor("patchify.linear.bias").unwrap()));
    }
    let written = safetensors::serialize(tensors, None).unwrap();
    sign(export, &written);
    fs::write(&path, written).unwrap();
}

/// Makes the config say the digest of `bytes`.
fn sign(export: &Path, bytes: &[u8]) {
    let path = export.join("config.json");
    let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let digits = Sha256::digest(bytes);
    let digits: Vec<String> = digits.iter().map(|byte| format!("{byte:02x}")).collect();
    config["sha256"] = digits.concat().into();
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn a_damaged_export_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (_, export) = exported(dir.path());
    let (run, config) = (dir.path().join("refused"), debug_config());
    let refused = || {
        let message = error(&import(&run, &export, &config, &[]));
        assert!(!run.exists());
        message
    };
    let path = export.join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    let message = refused();
    assert!(message.contains("model.safetensors has digest"), "{message}");
    sign(&export, &whole[..whole.len() - 9]);
    let message = refused();
    assert!(
        message.contains("parsing") && message.contains("model.safetensors"),
        "{message}"
    );
    fs::write(&path, &whole).unwrap();
    rewrite(&export, "res_block.conv_in.bias", None);
    let message = refused();
    assert!(message.contains("lacks `res_block.conv_in.bias`"), "{message}");
    fs::write(&path, &whole).unwrap();
    rewrite(&export, "", Some("register.tokens"));
    let message = refused();
    assert!(message.contains("holds `register.tokens`"), "{message}");
}

#[test]
fn what_can_not_be_exported_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (run, export) = exported(dir.path());
    let out = dir.path().join("out");
    let args = |extra: &[&'static str]| -> Vec<String> {
        let args = ["checkpoint", "export", text(&run), "--out", text(&out)];
        args.iter().chain(extra).map(ToString::to_string).collect()
    };
    for (extra, named) in [
        (&["--weights", "ema:77"][..], "half-life 77"),
        (&["--step", "9"], "step-9"),
    ] {
        let args = args(extra);
        let message = error(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(message.contains(named), "{message}");
        assert!(!out.exists());
    }
    fs::create_dir(&out).unwrap();
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let args = args(&[]);
    let message = error(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(message.contains("notes.txt"), "{message}");
    // An earlier export is replaced; with an example it has every gradient.
    json(
        &["checkpoint", "export", text(&run), "--out", text(&export), "--example"],
        0,
    );
    let config = fs::read_to_string(export.join("config.json")).unwrap();
    assert!(config.contains("\"ema:120\""), "{config}");
    let model = fs::read(export.join("model.safetensors")).unwrap();
    let example = fs::read(export.join("example.safetensors")).unwrap();
    let example = SafeTensors::deserialize(&example).unwrap();
    for (name, tensor) in SafeTensors::deserialize(&model).unwrap().iter() {
        assert_eq!(example.tensor(&format!("grad.{name}")).unwrap().shape(), tensor.shape());
    }
}
