//! A run from start to result, and its golden losses.

use std::fs;

use crate::lidit::{draw_one, losses, root, train};

/// Results depend on the CPU's instruction set through the order of sums; twenty steps stay well within this.
const TOLERANCE: f64 = 2e-3;

#[test]
fn the_debug_run_leaves_everything_it_promises_and_its_losses_are_the_golden_ones() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let report = train(&run, &[], 0);
    assert_eq!(report["step"], 20);
    for file in [
        "config.toml",
        "history.jsonl",
        "metrics.jsonl",
        "result.json",
        "samples/step-10.png",
        "samples/step-20.png",
        "checkpoints/step-20/manifest.json",
        "checkpoints/step-20/model.safetensors",
        "checkpoints/step-20/ema-48.safetensors",
        "checkpoints/step-20/ema-120.safetensors",
        "checkpoints/step-20/optimizer-0000.safetensors",
    ] {
        assert!(run.join(file).is_file(), "{file} is missing");
    }
    assert!(fs::read_dir(run.join("tensorboard")).unwrap().next().is_some());

    let golden = fs::read_to_string(root().join("tests/losses/debug.txt")).unwrap();
    let golden: Vec<(u64, f64)> = golden
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (step, loss) = line.split_once(' ').unwrap();
            (step.parse().unwrap(), loss.parse().unwrap())
        })
        .collect();
    let losses = losses(&run);
    assert_eq!(losses.len(), golden.len());
    for ((step, loss), (golden_step, golden)) in losses.iter().zip(&golden) {
        assert_eq!(step, golden_step);
        assert!(
            (loss - golden).abs() <= TOLERANCE * golden,
            "step {step}: loss {loss}, golden {golden}"
        );
    }

    // The same directory draws pictures, alone.
    let pictures = dir.path().join("pictures");
    draw_one(&run, &pictures, 16);
    assert!(pictures.join("grid.png").is_file());
}

#[test]
fn bf16_trains_and_stays_near_f32() {
    let dir = tempfile::tempdir().unwrap();
    let (f32_run, bf16_run) = (dir.path().join("f32"), dir.path().join("bf16"));
    train(&f32_run, &["--set", "train.steps=6"], 0);
    train(
        &bf16_run,
        &["--set", "train.steps=6", "--set", "train.precision=\"bf16\""],
        0,
    );
    let (f32_losses, bf16_losses) = (losses(&f32_run), losses(&bf16_run));
    for ((step, f32_loss), (_, bf16_loss)) in f32_losses.iter().zip(&bf16_losses) {
        assert!(
            (f32_loss - bf16_loss).abs() <= 0.02 * f32_loss,
            "step {step}: {f32_loss} and {bf16_loss}"
        );
    }
    // The first step's output is zero in both: the final layer starts there.
    assert_ne!(f32_losses, bf16_losses, "bf16 computed in f32");
}

#[test]
fn recomputation_changes_no_loss_and_a_resume_may_turn_it_on() {
    let dir = tempfile::tempdir().unwrap();
    let [plain, again, resumed] = ["plain", "again", "resumed"].map(|name| dir.path().join(name));
    let steps = ["--set", "train.steps=8", "--set", "train.sample_every=0"];
    let recompute = ["--set", "train.recompute_blocks=1"];
    train(&plain, &steps, 0);
    train(&again, &[&steps[..], &recompute].concat(), 0);
    train(&resumed, &[&steps[..], &["--set", "train.stop_after=4"]].concat(), 75);
    train(&resumed, &[&["--resume"], &recompute[..]].concat(), 0);
    let expected = losses(&plain);
    for run in [again, resumed] {
        let losses = losses(&run);
        assert_eq!(losses.len(), expected.len());
        for ((step, loss), (_, expected)) in losses.iter().zip(&expected) {
            assert!(
                (loss - expected).abs() <= 1e-6 * expected,
                "{}, step {step}: loss {loss}, without recomputation {expected}",
                run.display()
            );
        }
    }
}
