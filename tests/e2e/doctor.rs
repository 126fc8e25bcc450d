//! `lidit doctor`: what would fail is a line of its table, and nothing is left behind.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::lidit::{command, debug_config, error, json, run, stderr};

/// Runs the doctor over the debug run, to be kept in `run_dir`, with `extra` arguments; it must exit with `code`.
fn examine(run_dir: &Path, extra: &[&str], code: i32) -> Vec<Value> {
    let config = debug_config();
    let args = [
        "doctor",
        config.to_str().unwrap(),
        "--run-dir",
        run_dir.to_str().unwrap(),
    ];
    let report = json(&[args.as_slice(), extra].concat(), code);
    report["checks"].as_array().unwrap().clone()
}

fn status<'a>(checks: &'a [Value], name: &str) -> &'a str {
    check(checks, name)["status"].as_str().unwrap()
}

fn check<'a>(checks: &'a [Value], name: &str) -> &'a Value {
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {checks:#?}"))
}

/// The one check that failed.
fn failed(checks: &[Value]) -> &Value {
    let failed: Vec<&Value> = checks.iter().filter(|check| check["status"] == "failed").collect();
    assert_eq!(failed.len(), 1, "{failed:#?}");
    assert!(!failed[0]["advice"].as_str().unwrap().is_empty(), "{:#}", failed[0]);
    failed[0]
}

#[test]
fn a_healthy_config_is_well_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("runs/mine");
    let checks = examine(&run_dir, &[], 0);
    for name in ["version", "config", "data", "encoders", "disk space"] {
        assert_eq!(status(&checks, name), "ok", "{:#}", check(&checks, name));
    }
    // How fast this machine is says nothing about the program.
    for name in ["memory", "disk write", "open files", "cores"] {
        assert_ne!(status(&checks, name), "failed", "{:#}", check(&checks, name));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let bare = json(&["doctor", "--run-dir", run_dir.to_str().unwrap()], 0);
    assert!(
        bare["checks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|check| check["name"] != "data")
    );
}

#[test]
fn what_would_fail_is_one_line_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    // (key, name of the check, words)
    let features = dir.path().join("absent-features");
    let features = format!("encoders.features={:?}", features.display().to_string());
    for (set, name, words) in [
        ("data.path=\"/nowhere/at/all\"", "data", "/nowhere/at/all"),
        ("data.image_column=\"picture\"", "data", "picture"),
        (features.as_str(), "features", "absent-features"),
        (
            "encoders.llm.0.model=\"/nowhere/model.gguf\"",
            "encoders",
            "/nowhere/model.gguf",
        ),
        (
            "vae={ kl = { model = \"/nowhere/vae\", precision = \"f32\", tile = 64 } }",
            "vae",
            "/nowhere/vae",
        ),
        ("train.keep_last=1000000000", "disk space", "free"),
        ("train.stesp=1", "config", "stesp"),
    ] {
        let checks = examine(&dir.path().join("run"), &["--set", set], 1);
        let check = failed(&checks);
        assert_eq!(check["name"], name, "{set}: {check:#}");
        assert!(check["found"].as_str().unwrap().contains(words), "{set}: {check:#}");
    }
    let config = debug_config();
    let output = run(&[
        "doctor",
        config.to_str().unwrap(),
        "--set",
        "data.path=\"/nowhere/at/all\"",
    ]);
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    let lines: Vec<&str> = table
        .lines()
        .filter(|line| line.starts_with("FAILED   data "))
        .collect();
    assert_eq!(lines.len(), 1, "{table}");
    assert!(table.ends_with("1 failed: a run would, too\n"), "{table}");
    assert!(!stderr(&output).contains("error"), "{}", stderr(&output));
}

#[test]
fn features_of_another_config_are_refused_before_training() {
    let dir = tempfile::tempdir().unwrap();
    let config = debug_config();
    let features = dir.path().join("features");
    json(
        &["cache", config.to_str().unwrap(), "--out", features.to_str().unwrap()],
        0,
    );
    let set = format!("encoders.features={:?}", features.display().to_string());
    let run_dir = dir.path().join("run");
    let checks = examine(&run_dir, &["--set", &set], 0);
    assert_eq!(status(&checks, "features"), "ok", "{checks:#?}");
    let checks = examine(&run_dir, &["--set", &set, "--set", "encoders.llm.0.layer=-2"], 1);
    let check = failed(&checks);
    assert_eq!(check["name"], "features");
    assert!(check["found"].as_str().unwrap().contains("layer"), "{check:#}");
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    if cfg!(feature = "cuda") || Path::new("/dev/nvidia0").exists() {
        println!("skipped: there may be a GPU");
        return;
    }
    let checks = examine(dir.path(), &["--device", "cuda"], 1);
    for name in ["device", "driver"] {
        assert_eq!(status(&checks, name), "failed", "{checks:#?}");
    }
}

/// A file system of its own, taken down when this value is gone.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let option = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &option, "tmpfs"])
            .arg(dir.path())
            .output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: this account may not mount");
        }
        mounted.then_some(Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_found_and_left_as_full_as_it_was() {
    let Some(disk) = Tmpfs::new("60m") else { return };
    let run_dir = disk.0.path().join("run");
    let checks = examine(&run_dir, &[], 1);
    let check = failed(&checks);
    assert_eq!(check["name"], "disk write");
    assert!(
        check["found"].as_str().unwrap().contains("64 MiB don't fit"),
        "{check:#}"
    );
    assert_eq!(fs::read_dir(disk.0.path()).unwrap().count(), 0);
    let checks = examine(&run_dir, &["--set", "train.keep_last=100000"], 1);
    assert_eq!(status(&checks, "disk space"), "failed", "{checks:#?}");
}

#[test]
fn ranks_are_examined_together_and_answer_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = debug_config();
    let run_dir = dir.path().join("run");
    let launch = ["--json", "launch", "--nproc", "2", "--", "doctor"];
    let args = [config.to_str().unwrap(), "--run-dir", run_dir.to_str().unwrap()];
    let output = run(&[launch.as_slice(), &args].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let table: Vec<&str> = stdout
        .lines()
        .filter(|line| line.starts_with("ok  ") || line.starts_with("warning"))
        .collect();
    for name in ["ranks", "bandwidth", "clock", "shared folder", "data", "memory"] {
        let lines: Vec<&&str> = table
            .iter()
            .filter(|line| line[9..].starts_with(&format!("{name} ")))
            .collect();
        assert_eq!(lines.len(), 1, "{name}: {stdout}");
    }
    assert!(stdout.contains("2 on 1 host, over gloo"), "{stdout}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn ranks_with_other_configs_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = debug_config();
    let rank = |rank: &str, lr: &str| {
        let run_dir = dir.path().join("run");
        let args = [
            "--json",
            "doctor",
            config.to_str().unwrap(),
            "--set",
            lr,
            "--run-dir",
            run_dir.to_str().unwrap(),
        ];
        let mut command = command(&args);
        command
            .env("RANK", rank)
            .env("WORLD_SIZE", "2")
            .env("MASTER_ADDR", "127.0.0.1");
        command
            .env("MASTER_PORT", port.to_string())
            .env("LIDIT_RENDEZVOUS_SECRET", "s");
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let ranks = [rank("0", "train.lr=1e-3"), rank("1", "train.lr=2e-3")];
    let [first, second] = ranks.map(|rank| rank.wait_with_output().unwrap());
    assert_eq!(
        (first.status.code(), second.status.code()),
        (Some(1), Some(1)),
        "{}",
        stderr(&first)
    );
    let report: Value = serde_json::from_slice(&first.stdout).unwrap();
    let lines: Vec<&Value> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["status"] == "failed")
        .collect();
    assert_eq!(lines.len(), 2, "{report:#}");
    for (line, rank) in lines.iter().zip(0..) {
        assert_eq!(line["name"], "config");
        assert_eq!(line["ranks"], serde_json::json!([rank]));
        assert!(line["advice"].as_str().unwrap().contains("the same config"), "{line:#}");
    }
}

#[test]
fn a_rank_that_does_not_come_is_a_line_too() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    let mut alone = command(&[
        "--json",
        "doctor",
        "--run-dir",
        run_dir.to_str().unwrap(),
        "--deadline",
        "1",
    ]);
    alone
        .env("RANK", "0")
        .env("WORLD_SIZE", "2")
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", "23917");
    let output = alone.env("LIDIT_RENDEZVOUS_SECRET", "s").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    assert!(
        failed(checks)["found"].as_str().unwrap().contains("rank 1 "),
        "{checks:#?}"
    );
    assert_ne!(status(checks, "disk write"), "failed", "it looked at the rest");
}

#[test]
fn every_operation_is_tried_beside_its_reference() {
    let dir = tempfile::tempdir().unwrap();
    let report = json(&["doctor", "--kernels", "--run-dir", dir.path().to_str().unwrap()], 0);
    let checks = report["checks"].as_array().unwrap();
    let kernels: Vec<&Value> = checks
        .iter()
        .filter(|check| check["name"].as_str().unwrap().starts_with("kernel "))
        .collect();
    assert!(kernels.len() >= 12, "{kernels:#?}");
    for kernel in &kernels {
        assert_eq!(kernel["status"], "ok", "{kernel:#}");
        assert!(kernel["found"].as_str().unwrap().contains("f32 off by"), "{kernel:#}");
    }
    let without = json(&["doctor", "--run-dir", dir.path().to_str().unwrap()], 0);
    let names = without["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["name"].as_str().unwrap());
    assert!(
        names.clone().all(|name| !name.starts_with("kernel ")),
        "{:?}",
        names.collect::<Vec<_>>()
    );
}

#[test]
fn a_gpu_without_cuda_in_the_binary_is_one_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (config, run_dir) = (debug_config(), dir.path().join("run"));
    let args = [
        "train",
        config.to_str().unwrap(),
        "--device",
        "cuda",
        "--run-dir",
        run_dir.to_str().unwrap(),
    ];
    let error = error(&args);
    assert!(
        error.contains("built without CUDA") && error.contains("build-cuda.sh"),
        "{error}"
    );
    assert!(!error.contains("panicked") && !run_dir.exists(), "{error}");
    let failed = json(
        &[
            "doctor",
            "--kernels",
            "--device",
            "cuda",
            "--run-dir",
            run_dir.to_str().unwrap(),
        ],
        1,
    );
    let checks = failed["checks"].as_array().unwrap();
    assert!(
        check(checks, "kernels")["found"]
            .as_str()
            .unwrap()
            .contains("built without CUDA")
    );
}
