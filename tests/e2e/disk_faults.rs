//! Disks that are full, read-only or gone: one clear error, earlier checkpoints whole, and the run goes on afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::lidit::{command, debug_config, digest, error, json, losses, root, stderr, train, train_args};
use crate::resume::{logged, wait_until};

/// Long enough to meet a fault before its end.
const LONG: [&str; 4] = ["--set", "train.steps=40", "--set", "train.sample_every=0"];

/// A file system of a test's own, unmounted with it.
struct Mount(PathBuf);

impl Mount {
    /// Mounts a tmpfs of `size` on a new folder `at`; `None`, and a printed line, where that is not allowed.
    fn new(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mount = Self(at.to_owned());
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(at)
            .stderr(Stdio::null())
            .status();
        if done.is_ok_and(|status| status.success()) {
            return Some(mount);
        }
        std::mem::forget(mount);
        println!("skipped: mounting a file system needs root and mount(8)");
        None
    }

    fn remount(&self, option: &str) {
        let done = Command::new("mount")
            .args(["-o", &format!("remount,{option}")])
            .arg(&self.0)
            .status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Resumes the debug run in `dir` with `extra`, in the background.
fn resume(dir: &Path, extra: &[&str]) -> Child {
    let config = debug_config();
    let args = train_args(
        dir.to_str().unwrap(),
        config.to_str().unwrap(),
        &[&["--resume"], extra].concat(),
    );
    command(&args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The error of a run that must fail by one.
fn failed(output: &Output) -> String {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let mut errors = said.lines().filter(|line| line.starts_with("error: "));
    let message = errors.next().unwrap_or_else(|| panic!("no error in {said}")).to_owned();
    assert_eq!(errors.next(), None, "{said}");
    message
}

/// The run must go on from a whole checkpoint and end as if nothing had happened.
fn goes_on(dir: &Path, whole: &Path) {
    json(&["checkpoint", "verify", dir.to_str().unwrap()], 0);
    train(dir, &["--resume"], 0);
    assert_eq!(digest(dir), digest(whole));
    assert_eq!(losses(dir), losses(whole));
    let hidden = fs::read_dir(dir.join("checkpoints"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'))
        .count();
    assert_eq!(hidden, 0, "something half-written is left");
}

/// Trains an undisturbed run, and another one up to its first checkpoint.
fn whole_and_begun(dir: &Path) -> (PathBuf, PathBuf) {
    let (whole, parts) = (dir.join("whole"), dir.join("parts"));
    train(&whole, &LONG, 0);
    train(&parts, &[&LONG[..], &["--set", "train.stop_after=10"]].concat(), 75);
    (whole, parts)
}

#[test]
fn a_checkpoint_that_may_not_be_written_is_one_error_and_the_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = whole_and_begun(dir.path());
    let model = fs::metadata(parts.join("checkpoints/step-10/model.safetensors"))
        .unwrap()
        .len();
    let config = debug_config();
    let args = train_args(parts.to_str().unwrap(), config.to_str().unwrap(), &["--resume"]);
    let limited = Command::new("prlimit")
        .arg(format!("--fsize={}", model / 2))
        .arg(command(&args).get_program())
        .args(&args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let message = failed(&limited);
    for part in ["rank 0", "step 20", "model.safetensors", "ulimit -f", "--resume"] {
        assert!(message.contains(part), "{message}");
    }
    let history = fs::read_to_string(parts.join("history.jsonl")).unwrap();
    assert!(
        history.lines().last().unwrap().contains("model.safetensors"),
        "{history}"
    );
    goes_on(&parts, &whole);
}

#[test]
fn a_record_that_may_not_grow_is_one_error_and_keeps_whole_lines() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    train(&whole, &LONG, 0);
    let small = ["--set", "train.keep_last=9", "--set", "train.stop_after=30"];
    train(&parts, &[&LONG[..], &small].concat(), 75);
    let records = parts.join("metrics.jsonl");
    let room = fs::metadata(&records).unwrap().len() + 200;
    let child = resume(&parts, &[]);
    // From here on; what it writes while it loads may be larger.
    wait_until(|| logged(&parts) > 30);
    let limit = Command::new("prlimit")
        .args(["--pid", &child.id().to_string(), &format!("--fsize={room}")])
        .status();
    assert!(limit.unwrap().success());
    let message = failed(&child.wait_with_output().unwrap());
    assert!(
        message.contains("ulimit -f") && message.contains(parts.to_str().unwrap()),
        "{message}"
    );
    let text = fs::read_to_string(&records).unwrap();
    assert!(text.ends_with('\n'), "a torn line is left: {text:?}");
    goes_on(&parts, &whole);
}

#[test]
fn a_full_disk_is_one_error_and_the_run_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    train(&whole, &LONG, 0);
    let size: u64 = fs::read_dir(whole.join("checkpoints/step-40"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    let parts = dir.path().join("parts");
    // A checkpoint and a half.
    let Some(mount) = Mount::new(&parts.join("checkpoints"), &(size * 3 / 2).to_string()) else {
        return;
    };
    let message = failed(&resume(&parts, &LONG).wait_with_output().unwrap());
    for part in ["step 20", "disk is full", "checkpoints", "--resume"] {
        assert!(message.contains(part), "{message}");
    }
    mount.remount("size=64m");
    goes_on(&parts, &whole);
}

#[test]
fn a_disk_that_turns_read_only_is_one_error_at_the_next_save_and_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    train(&whole, &LONG, 0);
    let parts = dir.path().join("parts");
    let Some(mount) = Mount::new(&parts.join("checkpoints"), "64m") else {
        return;
    };
    let child = resume(&parts, &LONG);
    wait_until(|| parts.join("checkpoints/step-10").exists() && logged(&parts) > 11);
    mount.remount("ro");
    let message = failed(&child.wait_with_output().unwrap());
    assert!(
        message.contains("read-only") && message.contains("checkpoints"),
        "{message}"
    );
    let message = failed(&resume(&parts, &LONG).wait_with_output().unwrap());
    assert!(
        message.contains("read-only") && message.contains("checkpoints"),
        "{message}"
    );
    mount.remount("rw");
    goes_on(&parts, &whole);
}

#[test]
fn a_folder_that_vanishes_is_one_error_and_no_run_begins_anew_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = whole_and_begun(dir.path());
    let (checkpoints, away) = (parts.join("checkpoints"), dir.path().join("away"));
    let child = resume(&parts, &[]);
    wait_until(|| logged(&parts) > 11);
    fs::rename(&checkpoints, &away).unwrap();
    // What is left where a file system was unmounted.
    fs::create_dir(&checkpoints).unwrap();
    let message = failed(&child.wait_with_output().unwrap());
    assert!(
        message.contains("checkpoints") && message.contains("unmounted"),
        "{message}"
    );
    assert_eq!(fs::read_dir(&checkpoints).unwrap().count(), 0);
    let config = debug_config();
    let message = error(&train_args(
        parts.to_str().unwrap(),
        config.to_str().unwrap(),
        &["--resume"],
    ));
    assert!(
        message.contains("holds none") && message.contains("--run-dir"),
        "{message}"
    );
    fs::remove_dir(&checkpoints).unwrap();
    fs::rename(&away, &checkpoints).unwrap();
    goes_on(&parts, &whole);
}

#[test]
fn every_rank_names_the_one_that_could_not_write() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, config) = (dir.path().join("run"), root().join("configs/run/debug.toml"));
    let (dir, config) = (dir.to_str().unwrap(), config.to_str().unwrap());
    let args = ["launch", "--nproc", "2", "--", "train", config, "--run-dir", dir];
    let zero1 = ["--set", "train.sharding=\"zero1\""];
    let child = command(&[&args[..], &LONG, &zero1].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until(|| Path::new(dir).join("checkpoints/step-10").exists());
    let second = crate::signals::rank(child.id(), 1);
    let limit = Command::new("prlimit")
        .args(["--pid", &second.to_string(), "--fsize=100"])
        .status();
    assert!(limit.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let named = |line: &&str| line.contains("rank 1 could not save the checkpoint of step");
    let errors: Vec<_> = said.lines().filter(|line| line.contains("error: ")).collect();
    assert_eq!(errors.len(), 2, "{said}");
    assert!(
        errors.iter().all(|line| named(line) && line.contains("optimizer-0001")),
        "{said}"
    );
    json(&["checkpoint", "verify", dir], 0);
}
