//! The maximal update parametrization: what the coordinate check finds at small widths.

use crate::lidit::{debug_config, error, json, losses, train};

#[test]
fn activations_grow_with_the_width_without_mup_and_do_not_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("check.csv");
    let config = debug_config();
    let check = [
        "coordinate-check",
        config.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
        "--set",
        "train.lr=3e-4",
        "--set",
        "train.global_batch=4",
    ];
    let report = json(&[&check[..], &["--widths", "64,128,192", "--steps", "4"]].concat(), 0);
    let growth = |parametrization: &str, layer: &str| report["growth"][parametrization][layer].as_f64().unwrap();
    for layer in ["blocks.0", "blocks.1", "output"] {
        let (standard, mup) = (growth("standard", layer), growth("mup", layer));
        assert!(
            standard > 0.7,
            "{layer}: without muP its change grows as width^{standard}"
        );
        assert!(mup.abs() < 0.2, "{layer}: with muP its change grows as width^{mup}");
    }
    let csv = std::fs::read_to_string(&out).unwrap();
    // A line a parametrization, width, step and layer, and the head.
    assert_eq!(csv.lines().count(), 1 + 2 * 3 * 4 * 5);

    let message = error(&[&check[..], &["--widths", "64,100"]].concat());
    assert!(message.contains("width 100"), "{message}");
}

#[test]
fn at_the_base_width_mup_trains_the_standard_bits() {
    let dir = tempfile::tempdir().unwrap();
    let [standard, mup, refined] = ["standard", "mup", "refined"].map(|name| dir.path().join(name));
    let steps = ["--set", "train.steps=5", "--set", "train.sample_every=0"];
    let base = ["--set", "model.parametrization={mup={base_width=64}}"];
    let slower = ["--set", "train.refiner_lr_ratio=0.1"];
    train(&standard, &steps, 0);
    train(&mup, &[&steps[..], &base].concat(), 0);
    train(&refined, &[&steps[..], &slower].concat(), 0);
    assert_eq!(losses(&mup), losses(&standard));
    assert_ne!(losses(&refined), losses(&standard));
}
