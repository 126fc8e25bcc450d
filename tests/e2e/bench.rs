//! What `lidit bench` answers and what it leaves behind; never how long it took.

use std::fs;
use std::process::Stdio;

use crate::lidit::{command, stderr};
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
