//! Launchers other than `lidit launch` on one host: torchrun's variables, and a launcher on each of several hosts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::lidit::{command, debug_config, digest, root, stderr};
use crate::ranks::launch;

/// Short runs.
const SETS: [&str; 4] = ["--set", "train.steps=4", "--set", "train.sample_every=0"];

/// Stands in for torchrun: the worker's variables as its agent sets them, on the port of a store that is the agent's own.
const TORCHRUN: &str = "#!/bin/bash\n\
    echo \"$*\" >\"$FAKE/arguments\"\n\
    while [[ $1 == --* ]]; do\n\
        case $1 in\n\
        --nproc-per-node) ranks=$2; shift ;;\n\
        --max-restarts) shift ;;\n\
        esac\n\
        shift\n\
    done\n\
    for ((rank = 0; rank < ranks; rank++)); do\n\
        RANK=$rank LOCAL_RANK=$rank ROLE_RANK=$rank GROUP_RANK=0 WORLD_SIZE=$ranks LOCAL_WORLD_SIZE=$ranks \\\n\
            ROLE_WORLD_SIZE=$ranks ROLE_NAME=default MASTER_ADDR=localhost MASTER_PORT=$FAKE_PORT OMP_NUM_THREADS=1 \\\n\
            TORCHELASTIC_RUN_ID=none TORCHELASTIC_RESTART_COUNT=0 TORCHELASTIC_MAX_RESTARTS=3 \\\n\
            TORCHELASTIC_USE_AGENT_STORE=True \"$@\" &\n\
    done\n\
    wait -n; code=$?; wait -n || code=$?; exit $code\n";

/// A port below those of outgoing connections, whose next one is free as well, with the agent's listener on it.
fn agent() -> std::net::TcpListener {
    let start = 12_000 + (std::process::id() % 5_000) as u16;
    (start..start + 5_000)
        .find_map(|port| {
            let agent = std::net::TcpListener::bind(("127.0.0.1", port)).ok()?;
            std::net::TcpListener::bind(("127.0.0.1", port + 1)).ok()?;
            Some(agent)
        })
        .unwrap()
}

#[test]
fn workers_of_torchrun_train_what_ranks_of_launch_train() {
    let dir = tempfile::tempdir().unwrap();
    let torchrun = dir.path().join("torchrun");
    fs::write(&torchrun, TORCHRUN).unwrap();
    fs::set_permissions(&torchrun, fs::Permissions::from_mode(0o755)).unwrap();
    let agent = agent();
    let run_dir = dir.path().join("torchrun-run");
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .arg(root().join("launch/torchrun.sh"))
        .args([debug_config().as_path(), &run_dir])
        .args(SETS)
        .envs([
            ("PATH", path.as_str()),
            ("RANKS", "2"),
            ("LIDIT", env!("CARGO_BIN_EXE_lidit")),
        ])
        .env("FAKE", dir.path())
        .env("FAKE_PORT", agent.local_addr().unwrap().port().to_string())
        .env("RAYON_NUM_THREADS", "1")
        .env_remove("LIDIT_RENDEZVOUS_SECRET")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let arguments = fs::read_to_string(dir.path().join("arguments")).unwrap();
    assert!(
        arguments.starts_with("--no-python --standalone --nproc-per-node 2 --max-restarts 3 "),
        "{arguments}"
    );
    assert!(arguments.contains(" --resume "), "{arguments}");
    let other = dir.path().join("launch-run");
    launch(&other, "2", &SETS, 0);
    assert_eq!(digest(&run_dir), digest(&other));
}

#[test]
fn a_launcher_on_each_host_makes_one_world() {
    let dir = tempfile::tempdir().unwrap();
    let port = agent().local_addr().unwrap().port().to_string();
    let run_dir = dir.path().join("hosts");
    let host = |node: &str, port: &str, run_dir: &Path| {
        let config = debug_config();
        let launch = ["launch", "--nproc", "2", "--nodes", "2", "--node", node, "--", "train"];
        let train = [config.to_str().unwrap(), "--run-dir", run_dir.to_str().unwrap()];
        let mut command = command(&[launch.as_slice(), &train, &SETS].concat());
        command
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port)
            .env("LIDIT_RENDEZVOUS_SECRET", "s");
        // What a pod of Kubernetes has as well: its index counts pods, not ranks.
        command.env("JOB_COMPLETION_INDEX", node).env("RAYON_NUM_THREADS", "1");
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let hosts = ["0", "1"].map(|node| host(node, &port, &run_dir));
    for output in hosts.map(|host| host.wait_with_output().unwrap()) {
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let other = dir.path().join("one");
    launch(&other, "4", &SETS, 0);
    assert_eq!(digest(&run_dir), digest(&other));
    let refused = crate::lidit::error(&[
        "launch",
        "--nproc",
        "1",
        "--nodes",
        "2",
        "--max-restarts",
        "1",
        "--",
        "train",
        "x",
    ]);
    assert!(refused.contains("--max-restarts 1 with --nodes 2"), "{refused}");
}
