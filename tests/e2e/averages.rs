//! Weight averages: several half-lives at once, in samples, split over ranks, chosen when drawing.

use std::path::Path;

use crate::lidit::{average, error, json, train, weights};
use crate::ranks::launch;

/// The debug run's.
const HALF_LIVES: [u64; 2] = [48, 120];
const GLOBAL_BATCH: f64 = 12.0;

#[test]
fn every_half_life_follows_its_formula_also_split_over_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let sets = [
        "--set",
        "train.steps=3",
        "--set",
        "train.checkpoint_every=1",
        "--set",
        "train.keep_last=3",
        "--set",
        "train.sample_every=0",
        "--set",
        "train.sharding=\"zero1\"",
    ];
    launch(&run, "2", &sets, 0);
    for half_life in HALF_LIVES {
        let keep = 0.5_f64.powf(GLOBAL_BATCH / half_life as f64);
        for step in [2, 3] {
            let (before, now) = (average(&run, step - 1, half_life), average(&run, step, half_life));
            for ((before, now), master) in before.iter().zip(&now).zip(weights(&run, step)) {
                let expected = keep * f64::from(*before) + (1.0 - keep) * f64::from(master);
                assert!(
                    (f64::from(*now) - expected).abs() <= 1e-6 * (1.0 + expected.abs()),
                    "half-life {half_life}, step {step}: {now}, not {expected}"
                );
            }
        }
    }
    let [short, long] = HALF_LIVES.map(|half_life| average(&run, 3, half_life));
    assert_ne!(short, long);
}

/// Draws one picture with `weights`; its pixels.
fn draw(run: &Path, weights: &str) -> Vec<u8> {
    let out = run.join(format!("drawn-{}", weights.replace(':', "-")));
    let report = json(
        &[
            "sample",
            "--run",
            run.to_str().unwrap(),
            "--weights",
            weights,
            "--prompt",
            "a beetle",
            "--out",
            out.to_str().unwrap(),
        ],
        0,
    );
    let image = report["images"][0].as_str().unwrap();
    image::open(image).unwrap().to_rgb8().into_raw()
}

#[test]
fn a_half_life_is_chosen_by_name_and_an_unknown_one_names_those_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train(&run, &["--set", "train.steps=12", "--set", "train.sample_every=0"], 0);
    let [raw, short, long, longest] = ["raw", "ema:48", "ema:120", "ema"].map(|weights| draw(&run, weights));
    assert_ne!(raw, short);
    assert_ne!(short, long);
    assert_eq!(long, longest);

    let (run, out) = (run.to_str().unwrap(), dir.path().join("never"));
    let args = [
        "sample",
        "--run",
        run,
        "--weights",
        "ema:7",
        "--prompt",
        "a beetle",
        "--out",
    ];
    let message = error(&[&args[..], &[out.to_str().unwrap()]].concat());
    assert!(message.contains('7') && message.contains("[48, 120]"), "{message}");
    assert!(!out.exists(), "nothing is drawn");
}
