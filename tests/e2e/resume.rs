//! Stopping and going on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::lidit::{debug_config, digest, losses, spawn, train, train_args};

#[test]
fn twenty_steps_are_ten_and_a_resume_and_ten_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    train(&whole, &[], 0);
    train(&parts, &["--set", "train.stop_after=10"], 75);
    train(&parts, &["--resume"], 0);
    assert_eq!(digest(&whole), digest(&parts));
    assert_eq!(losses(&whole), losses(&parts));
}

#[test]
fn a_signal_saves_and_the_resumed_run_ends_as_if_nothing_had_happened() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    train(&whole, &["--set", "train.steps=30"], 0);
    for signal in ["TERM", "INT"] {
        let config = debug_config();
        let args = train_args(
            parts.to_str().unwrap(),
            config.to_str().unwrap(),
            &[
                "--resume",
                "--set",
                "train.steps=30",
                "--set",
                "train.checkpoint_every=1000",
            ],
        );
        let before = logged(&parts);
        let mut child = spawn(&args);
        wait_until(|| logged(&parts) > before + 2);
        Command::new("kill")
            .args([&format!("-{signal}"), &child.id().to_string()])
            .status()
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(75));
    }
    train(&parts, &["--resume"], 0);
    assert_eq!(digest(&whole), digest(&parts));
    assert_eq!(losses(&whole), losses(&parts));
}

#[test]
fn a_killed_run_goes_on_from_its_last_checkpoint_with_one_clean_lineage() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    train(&whole, &[], 0);
    let config = debug_config();
    let mut child = spawn(&train_args(parts.to_str().unwrap(), config.to_str().unwrap(), &[]));
    wait_until(|| logged(&parts) >= 13);
    child.kill().unwrap();
    child.wait().unwrap();
    train(&parts, &["--resume"], 0);
    assert_eq!(digest(&whole), digest(&parts));
    assert_eq!(losses(&whole), losses(&parts));
}

#[test]
fn a_damaged_checkpoint_is_skipped_and_the_one_before_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    train(&whole, &[], 0);
    train(&parts, &["--set", "train.keep_last=3"], 0);
    let victim = parts.join("checkpoints/step-20/model.safetensors");
    let mut bytes = fs::read(&victim).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&victim, bytes).unwrap();
    let report = train(&parts, &["--resume"], 0);
    assert_eq!(report["step"], 20);
    assert_eq!(digest(&whole), digest(&parts));
}

/// Lines of `metrics.jsonl` so far.
pub fn logged(run: &Path) -> usize {
    fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

/// Looks again and again, for two minutes.
pub fn wait_until(holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_mins(2), "waited two minutes in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}
