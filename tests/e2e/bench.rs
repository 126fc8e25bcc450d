//! What `lidit bench` answers and what it leaves behind; never how long it took.

use std::fs;
use std::process::Stdio;

use lidit_model::{Conditioning, ImageTokens, InputNorm, ModelConfig, Pooling, TextTokens, forward_flops};
use serde_json::Value;

use crate::lidit::{command, debug_config, error, json, root, run, stderr};
use crate::resume::wait_until;
use crate::signals::send;

#[test]
fn an_interrupted_bench_of_checkpoints_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let args = [
        "bench",
        "checkpoint",
        "--params",
        "1M",
        "--rounds",
        "100000",
        "--dir",
        path,
    ];
    let mut bench = command(&args);
    let bench = bench.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let folder = dir.path().join(format!("lidit-bench-{}", bench.id()));
    // In the middle: a checkpoint of a counted round is there.
    let is_counted = |name: &str| name.starts_with("step-") && name != "step-1";
    wait_until(|| {
        let mut entries = fs::read_dir(&folder).into_iter().flatten();
        entries.any(|entry| entry.is_ok_and(|entry| is_counted(&entry.file_name().to_string_lossy())))
    });
    send("INT", bench.id());
    let output = bench.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("stopped by a signal"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

const PHASES: [&str; 7] = ["data", "encode", "forward", "backward", "reduce", "optimizer", "other"];

/// Three steps of the debug run, with its own data.
fn step(extra: &[&str]) -> Value {
    let config = debug_config();
    let args = [
        "bench",
        "step",
        config.to_str().unwrap(),
        "--steps",
        "3",
        "--warmup",
        "1",
    ];
    json(&[&args, extra].concat(), 0)
}

fn number(answer: &Value, key: &str) -> f64 {
    answer[key]
        .as_f64()
        .unwrap_or_else(|| panic!("no number {key} in {answer}"))
}

/// Times fit together, whatever they are.
fn assert_adds_up(answer: &Value) {
    let [least, median, most] = ["min_ms", "median_ms", "max_ms"].map(|key| number(answer, key));
    assert!(0.0 < least && least <= median && median <= most, "{answer}");
    let images = number(answer, "global_batch") * 1e3 / median;
    assert!((number(answer, "images_per_s") / images - 1.0).abs() < 1e-9, "{answer}");
    let phases = &answer["phases_ms"];
    assert_eq!(phases.as_object().unwrap().len(), PHASES.len(), "{phases}");
    let sum: f64 = PHASES.iter().map(|phase| number(phases, phase)).sum();
    let watched = number(answer, "watched_step_ms");
    assert!(
        watched / 2.0 < sum && sum <= watched * (1.0 + 1e-9),
        "{phases} of {watched}"
    );
    let rate = number(answer, "flops_per_step") * 1e3 / median;
    assert!((number(answer, "flops_per_s") / rate - 1.0).abs() < 1e-9, "{answer}");
    let mfu = rate / number(&answer["gemm"], "flops_per_s");
    assert!((number(answer, "mfu") / mfu - 1.0).abs() < 1e-9, "{answer}");
    assert!(number(answer, "peak_rss_bytes") > 1e6 && answer["device_pool_bytes"].is_null());
}

#[test]
fn steps_of_a_run_are_timed_and_priced_as_plan_prices_them() {
    let dir = tempfile::tempdir().unwrap();
    // All 24 pictures in every step, none without its caption.
    let sets = ["--set", "train.global_batch=24", "--set", "train.caption_dropout=0.0"];
    let config = debug_config();
    let answer = command(&[
        "bench",
        "step",
        config.to_str().unwrap(),
        "--steps",
        "2",
        "--warmup",
        "0",
        "--json",
    ])
    .args(sets)
    .current_dir(dir.path())
    .output()
    .unwrap();
    assert!(answer.status.success(), "{}", stderr(&answer));
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_adds_up(&answer);
    let plan = json(&[&["plan", config.to_str().unwrap()], sets.as_slice()].concat(), 0);
    assert_eq!(answer["parameters"], plan["params"]);
    let off = number(&answer, "flops_per_step") / (24.0 * number(&plan, "flops_per_image")) - 1.0;
    assert!(off.abs() < 1e-9, "{off}");
    // They are remembered; else each step encodes its captions.
    assert!(number(&answer, "encode_flops_per_step").abs() < 1e-9);
    let forgetful = step(&[
        "--set",
        "encoders.remember=\"nothing\"",
        "--set",
        "train.caption_dropout=0.0",
    ]);
    let a_caption = plan["encoders"]["llm"].as_array().unwrap().iter();
    let a_caption: f64 = a_caption.map(|llm| number(llm, "flops_per_caption")).sum();
    let off = number(&forgetful, "encode_flops_per_step") / (12.0 * a_caption) - 1.0;
    assert!(off.abs() < 1e-6, "{off}");
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "a bench of steps writes nothing"
    );
}

#[test]
fn made_up_inputs_need_neither_data_nor_encoders() {
    let nowhere = [
        "--set",
        "data.path=\"/nowhere\"",
        "--set",
        "encoders.llm.0.model=\"/nowhere\"",
    ];
    let shapes = ["--synthetic", "--context-dims", "24,40", "--text-tokens", "7,5"];
    let answer = step(&[nowhere.as_slice(), &shapes].concat());
    assert_adds_up(&answer);
    assert!(answer["encode_flops_per_step"].is_null());
    assert_eq!(
        answer["network"]["conditioning"]["context_dims"],
        serde_json::json!([24, 40])
    );
    // The same numbers in every process, whatever the micro-batch and with recomputation.
    let loss = number(&answer, "loss");
    let more = ["--set", "train.micro_batch=4", "--set", "train.recompute_blocks=1"];
    let again = step(&[nowhere.as_slice(), &shapes, &more].concat());
    assert!(
        (number(&again, "loss") / loss - 1.0).abs() < 1e-5,
        "{loss} and {}",
        again["loss"]
    );
    let larger = step(&[shapes.as_slice(), &["--size", "32", "--precision", "bf16"]].concat());
    assert_eq!(larger["precision"], "bf16");
    let model: ModelConfig = serde_json::from_value(larger["network"]["model"].clone()).unwrap();
    let conditioning = Conditioning {
        context_dims: vec![24, 40],
        input_norm: InputNorm::RmsClipped,
        pooling: Pooling::Caption,
    };
    let text = [7, 5].map(|tokens| TextTokens {
        prompt: tokens,
        caption: tokens,
    });
    let price = |side| {
        let image = ImageTokens {
            rows: side,
            columns: side,
        };
        3.0 * 12.0 * forward_flops(&model, &conditioning, image, &text) as f64
    };
    for (answer, side) in [(&answer, 4), (&larger, 8)] {
        let off = number(answer, "flops_per_step") / price(side) - 1.0;
        assert!(off.abs() < 1e-9, "{side}: {off}");
    }
    // A VAE's latents, of a run whose VAE and data are elsewhere.
    let config = root().join("configs/run/bench-small.toml");
    let tiny = [
        "model.depth=1",
        "model.hidden_size=24",
        "train.global_batch=2",
        "train.precision=\"f32\"",
    ];
    let mut args = vec!["bench", "step", config.to_str().unwrap(), "--steps", "1", "--size", "4"];
    args.extend(shapes);
    args.extend(tiny.iter().flat_map(|set| ["--set", set]));
    assert_adds_up(&json(&args, 0));
}

#[test]
fn steps_that_cannot_be_timed_are_named() {
    let config = debug_config();
    let fails = |extra: &[&str]| error(&[&["bench", "step", config.to_str().unwrap()], extra].concat());
    let shapes = ["--synthetic", "--context-dims", "24,40", "--text-tokens"];
    for (extra, named) in [
        (vec!["--steps", "0"], "--steps"),
        (vec!["--set", "data.path=\"/nowhere\""], "/nowhere"),
        ([shapes.as_slice(), &["7,5,3"]].concat(), "--text-tokens"),
        ([shapes.as_slice(), &["0"]].concat(), "--text-tokens"),
        ([shapes.as_slice(), &["7", "--size", "18"]].concat(), "--size 18"),
        (
            vec!["--synthetic", "--context-dims", "24", "--text-tokens", "7"],
            "model.fusion",
        ),
    ] {
        let message = fails(&extra);
        assert!(message.contains(named), "{extra:?} said: {message}");
    }
    let small = root().join("configs/run/bench-small.toml");
    let message = error(&[&["bench", "step", small.to_str().unwrap()], &shapes[..], &["7"]].concat());
    assert!(message.contains("--size"), "{message}");
    for usage in [["--synthetic", "--size", "32"], ["--size", "32", "--json"]] {
        let args = [&["bench", "step", config.to_str().unwrap()], usage.as_slice()].concat();
        assert_eq!(run(&args).status.code(), Some(2), "{usage:?}");
    }
}
