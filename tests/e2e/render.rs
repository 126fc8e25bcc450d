//! Job scripts and manifests: what is checked in is what is rendered, and it does what it says.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::lidit::{error, json, root};

/// The launch configs in `launch/`, each with the file that is rendered from it.
const EXAMPLES: [(&str, &str, &str); 5] = [
    ("slurm", "slurm.toml", "slurm.sbatch"),
    ("slurm", "slurm-array.toml", "slurm-array.sbatch"),
    ("kubernetes", "kubernetes.toml", "kubernetes.yaml"),
    ("kubernetes", "kubernetes-cpu.toml", "kubernetes-cpu.yaml"),
    ("kubernetes", "jobset.toml", "jobset.yaml"),
];

#[test]
fn the_examples_are_what_lidit_renders() {
    let dir = tempfile::tempdir().unwrap();
    for (target, config, file) in EXAMPLES {
        let config = root().join("launch").join(config);
        let report = json(
            &[
                "render",
                target,
                config.to_str().unwrap(),
                "--out",
                dir.path().to_str().unwrap(),
            ],
            0,
        );
        let written = dir.path().join(file);
        assert_eq!(report["files"], serde_json::json!([written]));
        let (written, kept) = (
            fs::read_to_string(written).unwrap(),
            fs::read_to_string(root().join("launch").join(file)),
        );
        assert_eq!(kept.unwrap_or_default(), written, "render launch/{file} again");
    }
}

#[test]
fn a_launch_config_that_is_wrong_is_named_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    let text = fs::read_to_string(root().join("launch/slurm.toml")).unwrap();
    fs::write(&path, text.replace("max_restarts", "max_restart")).unwrap();
    let message = error(&["render", "slurm", path.to_str().unwrap()]);
    assert!(
        message.contains("mine.toml") && message.contains("max_restart"),
        "{message}"
    );
    fs::write(&path, text).unwrap();
    let message = error(&["render", "kubernetes", path.to_str().unwrap()]);
    assert!(
        message.contains("mine.toml") && message.contains("[kubernetes]"),
        "{message}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was rendered");
}

#[test]
fn scripts_are_sound_for_bash_and_shellcheck() {
    for (_, _, file) in EXAMPLES.iter().filter(|(target, ..)| *target == "slurm") {
        let script = root().join("launch").join(file);
        assert!(Command::new("bash").arg("-n").arg(&script).status().unwrap().success());
        match Command::new("shellcheck").arg(&script).output() {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
            Err(_) => println!("skipped: there is no shellcheck"),
        }
    }
}

/// The tests' Python, or a printed line.
fn python() -> Option<Command> {
    let python = std::env::var_os("LIDIT_TESTS_PYTHON");
    if python.is_none() {
        println!("skipped: LIDIT_TESTS_PYTHON is not set");
    }
    python.map(Command::new)
}

/// The documents of a manifest, as a YAML reader other than ours understands them.
pub fn documents(path: &Path) -> Option<Vec<Value>> {
    let read = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let output = python()?.args(["-c", read]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Checks one object against Kubernetes' own schemas, the oldest and the newest that have all of its fields.
fn validate(path: &Path) {
    for version in ["1.31", "1.37"] {
        let Some(mut python) = python() else { return };
        let check = ["-m", "kubernetes_validate", "--strict", "-k", version];
        let output = python.args(check).arg(path).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{version}: {}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn manifests_are_valid_kubernetes() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["kubernetes.yaml", "kubernetes-cpu.yaml"] {
        validate(&root().join("launch").join(file));
    }
    // A JobSet has no schema in Kubernetes itself, but the Job inside it has.
    let Some(documents) = documents(&root().join("launch/jobset.yaml")) else {
        return;
    };
    let set = &documents[1];
    let job = serde_json::json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": { "name": "inside" },
        "spec": set["spec"]["replicatedJobs"][0]["template"]["spec"],
    });
    let path = dir.path().join("job.json");
    fs::write(&path, job.to_string()).unwrap();
    validate(&path);
    fs::write(&path, job.to_string().replace("backoffLimit", "backofLimit")).unwrap();
    let mut broken = python().unwrap();
    let output = broken
        .args(["-m", "kubernetes_validate", "--strict"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(!output.status.success(), "the check finds nothing");
}

#[test]
fn a_job_requeues_75_counts_76_and_ends_at_errors() {
    let Some(documents) = documents(&root().join("launch/kubernetes-cpu.yaml")) else {
        return;
    };
    let kinds: Vec<&str> = documents
        .iter()
        .map(|document| document["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["Service", "NetworkPolicy", "Job"]);
    let spec = &documents[2]["spec"];
    assert_eq!(
        (&spec["completionMode"], &spec["completions"], &spec["parallelism"]),
        (&"Indexed".into(), &4.into(), &4.into())
    );
    let action = |code: u64| {
        let rules = spec["podFailurePolicy"]["rules"].as_array().unwrap();
        let rule = rules.iter().find(|rule| {
            let codes = rule["onExitCodes"]["values"].as_array();
            codes.is_some_and(|codes| codes.contains(&code.into()))
        });
        rule.map_or("Count", |rule| rule["action"].as_str().unwrap()).to_owned()
    };
    let actions: Vec<String> = [1, 2, 75, 76, 101, 137].map(action).to_vec();
    assert_eq!(actions, ["FailJob", "FailJob", "Ignore", "Count", "Count", "Count"]);
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["terminationGracePeriodSeconds"], 60);
    assert_eq!(pod["restartPolicy"], "Never");
    let service = &documents[0];
    assert_eq!(pod["subdomain"], service["metadata"]["name"]);
    let environment = pod["containers"][0]["env"].as_array().unwrap();
    let variable = |name: &str| environment.iter().find(|entry| entry["name"] == name).unwrap();
    assert_eq!(variable("MASTER_ADDR")["value"], "quickstart-0.quickstart");
    assert_eq!(variable("WORLD_SIZE")["value"], "4");
    let secret = variable("LIDIT_RENDEZVOUS_SECRET");
    assert!(
        secret["value"].is_null() && secret["valueFrom"]["secretKeyRef"]["key"] == "secret",
        "{secret}"
    );
}

#[test]
fn a_job_set_starts_all_ranks_again_and_ends_at_errors() {
    let Some(documents) = documents(&root().join("launch/jobset.yaml")) else {
        return;
    };
    let set = &documents[1];
    assert_eq!(
        (&set["apiVersion"], &set["kind"]),
        (&"jobset.x-k8s.io/v1alpha2".into(), &"JobSet".into())
    );
    let spec = &set["spec"];
    let failure = &spec["failurePolicy"];
    assert_eq!(
        (&failure["maxRestarts"], &failure["restartStrategy"]),
        (&3.into(), &"BlockingRecreate".into())
    );
    let rule = &failure["rules"][0];
    assert_eq!(rule["action"], "FailJobSet");
    assert!(
        rule["onJobFailureReasons"]
            .as_array()
            .unwrap()
            .contains(&"PodFailurePolicy".into())
    );
    let network =
        serde_json::json!({ "enableDNSHostnames": true, "subdomain": "li-dit-1b", "publishNotReadyAddresses": true });
    assert_eq!(spec["network"], network);
    let coordinator = serde_json::json!({ "replicatedJob": "ranks", "jobIndex": 0, "podIndex": 0 });
    assert_eq!(spec["coordinator"], coordinator);
    assert_eq!(
        spec["successPolicy"]["targetReplicatedJobs"],
        serde_json::json!(["ranks"])
    );
    let job = &spec["replicatedJobs"][0]["template"]["spec"];
    assert_eq!((&job["backoffLimit"], &job["completions"]), (&0.into(), &2.into()));
    // The first failing pod fails the Job, so that the JobSet starts all again.
    let rules = job["podFailurePolicy"]["rules"].as_array().unwrap();
    assert_eq!(rules[0]["action"], "FailJob");
}
