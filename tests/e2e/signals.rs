//! Being asked to stop, and being stopped: all ranks save the same step, and nothing is ever torn.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::lidit::{command, debug_config, digest, json, losses, spawn, train, train_args};
use crate::resume::{logged, wait_until};

/// Saves in every step, so that a kill meets a save.
const BUSY: [&str; 6] = [
    "--set",
    "train.steps=100",
    "--set",
    "train.checkpoint_every=1",
    "--set",
    "train.sample_every=0",
];

/// The process of a rank, a direct child of its launcher.
pub fn rank(launcher: u32, rank: usize) -> u32 {
    let name = format!("RANK={rank}");
    let is_it = |pid: u32| {
        let parent = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        parent.lines().any(|line| line == format!("PPid:\t{launcher}"))
            && environment
                .split(|&byte| byte == 0)
                .any(|entry| entry == name.as_bytes())
    };
    let processes = fs::read_dir("/proc").unwrap();
    let mut pids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.find(|&pid| is_it(pid)).expect("no such rank")
}

pub fn send(signal: &str, pid: u32) {
    let sent = Command::new("kill")
        .args([&format!("-{signal}"), &pid.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Starts or resumes the debug run in `dir` with two ranks.
fn two_ranks(dir: &Path, extra: &[&str]) -> Child {
    let config = debug_config();
    let args = train_args(
        dir.to_str().unwrap(),
        config.to_str().unwrap(),
        &[&["--resume"], extra].concat(),
    );
    command(&[&["launch", "--nproc", "2", "--"], args.as_slice()].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn each_signal_to_all_ranks_or_to_one_saves_one_step_and_exits_75() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let extra = [
        "--set",
        "train.steps=30",
        "--set",
        "train.checkpoint_every=1000",
        "--set",
        "train.sharding=\"zero1\"",
    ];
    assert!(two_ranks(&whole, &extra).wait().unwrap().success());
    // As Slurm's --signal, which may reach the steps' processes or one of them.
    for (signal, only) in [
        ("TERM", None),
        ("USR1", Some(1)),
        ("INT", None),
        ("TERM", Some(1)),
        ("USR1", None),
        ("INT", Some(0)),
    ] {
        let before = logged(&parts);
        let mut launcher = two_ranks(&parts, &extra);
        wait_until(|| logged(&parts) > before + 1);
        send(signal, only.map_or(launcher.id(), |number| rank(launcher.id(), number)));
        assert_eq!(launcher.wait().unwrap().code(), Some(75), "{signal} to {only:?}");
        let saved = json(&["checkpoint", "verify", parts.to_str().unwrap()], 0);
        assert_eq!(saved["step"], logged(&parts), "{signal} to {only:?}");
    }
    assert!(two_ranks(&parts, &extra).wait().unwrap().success());
    assert_eq!(digest(&whole), digest(&parts));
    assert_eq!(losses(&whole), losses(&parts));
}

/// Numbers that look random and are the same in every run of a test.
struct Dice(u64);

impl Dice {
    fn millis(&mut self, below: u64) -> Duration {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis((self.0 >> 33) % below)
    }
}

/// No checkpoint of the run is torn, and there is one.
fn all_whole(dir: &Path) {
    let report = json(&["checkpoint", "verify", dir.to_str().unwrap()], 0);
    assert!(report["step"].as_u64().unwrap() >= 1);
}

#[test]
fn a_run_killed_again_and_again_while_it_saves_has_whole_checkpoints_and_ends_alike() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    train(&whole, &BUSY, 0);
    let mut dice = Dice(6);
    for kill in 0..8 {
        let before = logged(&parts);
        let config = debug_config();
        let mut child = spawn(&train_args(
            parts.to_str().unwrap(),
            config.to_str().unwrap(),
            &[&["--resume"], &BUSY[..]].concat(),
        ));
        // Who has logged a third step has waited for the first save.
        wait_until(|| logged(&parts) > before + 2);
        std::thread::sleep(dice.millis(250));
        // A killed process, or a person who presses Ctrl-C twice.
        if kill % 2 == 0 {
            send("KILL", child.id());
            child.wait().unwrap();
        } else {
            send("INT", child.id());
            std::thread::sleep(dice.millis(60));
            let _ = Command::new("kill")
                .args(["-INT", &child.id().to_string()])
                .stderr(Stdio::null())
                .status();
            let end = child.wait().unwrap();
            assert!(
                matches!(end.code(), Some(0 | 75 | 130)),
                "code {:?}, signal {:?}",
                end.code(),
                end.signal()
            );
        }
        all_whole(&parts);
    }
    train(&parts, &["--resume"], 0);
    assert_eq!(digest(&whole), digest(&parts));
    assert_eq!(losses(&whole), losses(&parts));
}

#[test]
fn killed_ranks_leave_whole_checkpoints_and_end_alike() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let extra = [
        &BUSY[..],
        &["--set", "train.sharding=\"zero1\"", "--set", "train.steps=30"],
    ]
    .concat();
    assert!(two_ranks(&whole, &extra).wait().unwrap().success());
    let mut dice = Dice(7);
    for victim in [0, 1, 0, 1] {
        let before = logged(&parts);
        let mut launcher = two_ranks(&parts, &extra);
        // Who has logged a third step has waited for the first save.
        wait_until(|| logged(&parts) > before + 2);
        std::thread::sleep(dice.millis(300));
        send("KILL", rank(launcher.id(), victim));
        assert_eq!(launcher.wait().unwrap().code(), Some(76));
        all_whole(&parts);
    }
    assert!(two_ranks(&parts, &extra).wait().unwrap().success());
    assert_eq!(digest(&whole), digest(&parts));
    assert_eq!(losses(&whole), losses(&parts));
}
