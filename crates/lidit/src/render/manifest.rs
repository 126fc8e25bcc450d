//! The objects of a run in Kubernetes: its pods, their names in DNS, and who may speak to them.
//!
//! A pod is a host. With one rank a pod, the pod's index is its rank; with more, `lidit launch` starts them in it, because
//! GPUs reach each other fast only within a pod.

use serde_json::{Map, Value, json};

use super::kubernetes::{Kind, KubernetesConfig};
use super::launch_config::{LaunchConfig, RankDevice};

/// The one replicated job of a `JobSet`.
const REPLICATED: &str = "ranks";
const ATTEMPT: &str = "jobset.sigs.k8s.io/restart-attempt";

/// All documents of one run, in the order in which they should be applied.
pub fn documents(config: &LaunchConfig, kubernetes: &KubernetesConfig) -> Vec<Value> {
    match kubernetes.kind {
        Kind::Job => vec![
            service(config, kubernetes),
            policy(config, kubernetes),
            job(config, kubernetes),
        ],
        Kind::JobSet => vec![policy(config, kubernetes), job_set(config, kubernetes)],
    }
}

fn metadata(config: &LaunchConfig, kubernetes: &KubernetesConfig) -> Value {
    json!({ "name": config.name, "namespace": kubernetes.namespace })
}

/// Labels are the workload's alone: a queue would take labelled pods for workloads of their own.
fn workload(config: &LaunchConfig, kubernetes: &KubernetesConfig) -> Value {
    let mut metadata = metadata(config, kubernetes);
    metadata["labels"] = json!(kubernetes.labels);
    metadata
}

/// The label by which a run's pods are found.
fn selector(config: &LaunchConfig, kubernetes: &KubernetesConfig) -> Value {
    match kubernetes.kind {
        Kind::Job => json!({ "batch.kubernetes.io/job-name": config.name }),
        Kind::JobSet => json!({ "jobset.sigs.k8s.io/jobset-name": config.name }),
    }
}

/// Names of pods in DNS; ranks look for rank 0 before it is ready.
fn service(config: &LaunchConfig, kubernetes: &KubernetesConfig) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(config, kubernetes),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": selector(config, kubernetes),
            "ports": [{ "name": "rendezvous", "port": kubernetes.port }],
        },
    })
}

/// What collectives say is neither encrypted nor authenticated: nobody but the run's pods may connect to them.
fn policy(config: &LaunchConfig, kubernetes: &KubernetesConfig) -> Value {
    let pods = json!({ "matchLabels": selector(config, kubernetes) });
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(config, kubernetes),
        "spec": {
            "podSelector": pods,
            "policyTypes": ["Ingress"],
            "ingress": [{ "from": [{ "podSelector": pods }] }],
        },
    })
}

fn job(config: &LaunchConfig, kubernetes: &KubernetesConfig) -> Value {
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": workload(config, kubernetes),
        // Every pod of a run that lost one fails, and each counts.
        "spec": job_spec(config, kubernetes, config.max_restarts * config.ranks.nodes),
    })
}

fn job_set(config: &LaunchConfig, kubernetes: &KubernetesConfig) -> Value {
    json!({
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": workload(config, kubernetes),
        "spec": {
            "network": {
                "enableDNSHostnames": true,
                "subdomain": config.name,
                "publishNotReadyAddresses": true,
            },
            "coordinator": { "replicatedJob": REPLICATED, "jobIndex": 0, "podIndex": 0 },
            "successPolicy": { "operator": "All", "targetReplicatedJobs": [REPLICATED] },
            "failurePolicy": {
                "maxRestarts": config.max_restarts,
                // The next attempt's rank 0 must not meet the last one's lock on the run directory.
                "restartStrategy": "BlockingRecreate",
                "rules": [{
                    "name": "error",
                    "action": "FailJobSet",
                    "onJobFailureReasons": ["PodFailurePolicy", "DeadlineExceeded"],
                }],
            },
            "replicatedJobs": [{
                "name": REPLICATED,
                "replicas": 1,
                // The first lost pod fails the Job, and the JobSet starts all again.
                "template": { "spec": job_spec(config, kubernetes, 0) },
            }],
        },
    })
}

fn job_spec(config: &LaunchConfig, kubernetes: &KubernetesConfig, backoff_limit: u32) -> Value {
    let nodes = config.ranks.nodes;
    json!({
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        "activeDeadlineSeconds": config.time_limit_minutes * 60,
        "backoffLimit": backoff_limit,
        // Rank 0 ends last of all that matters.
        "successPolicy": { "rules": [{ "succeededIndexes": "0" }] },
        "podFailurePolicy": {
            "rules": [
                // An error of a rank's own, or a program that can't run: it would end alike again.
                exit_codes("FailJob", &[1, 2, 126, 127, 128]),
                // Saved and left, because the pod was told to: it goes on in another one, and counts as no failure.
                exit_codes("Ignore", &[75]),
                { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
                // A lost peer. Crashes count too, being named by no rule.
                exit_codes("Count", &[76]),
            ],
        },
        "template": { "spec": pod(config, kubernetes) },
    })
}

fn exit_codes(action: &str, codes: &[u8]) -> Value {
    json!({ "action": action, "onExitCodes": { "containerName": "lidit", "operator": "In", "values": codes } })
}

fn pod(config: &LaunchConfig, kubernetes: &KubernetesConfig) -> Value {
    let mut volumes = vec![json!({
        "name": "shm",
        "emptyDir": { "medium": "Memory", "sizeLimit": format!("{}Gi", kubernetes.shm_gib) },
    })];
    let mut mounts = vec![json!({ "name": "shm", "mountPath": "/dev/shm" })];
    for volume in &kubernetes.volumes {
        let claim = json!({ "claimName": volume.claim, "readOnly": volume.read_only });
        volumes.push(json!({ "name": volume.claim, "persistentVolumeClaim": claim }));
        mounts.push(json!({ "name": volume.claim, "mountPath": volume.mount, "readOnly": volume.read_only }));
    }
    let mut pod = json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": config.grace_seconds,
        "automountServiceAccountToken": false,
        "containers": [{
            "name": "lidit",
            "image": kubernetes.image,
            "imagePullPolicy": kubernetes.pull_policy,
            "command": [config.program],
            "args": arguments(config),
            "env": environment(config, kubernetes),
            "resources": resources(config, kubernetes),
            "securityContext": { "allowPrivilegeEscalation": false },
            "volumeMounts": mounts,
        }],
        "volumes": volumes,
    });
    let mut add = |key: &str, value: Value| pod[key] = value;
    if kubernetes.kind == Kind::Job {
        // A JobSet fills in its own.
        add("subdomain", json!(config.name));
    }
    if let Some(secret) = &kubernetes.pull_secret {
        add("imagePullSecrets", json!([{ "name": secret }]));
    }
    if !kubernetes.node_selector.is_empty() {
        add("nodeSelector", json!(kubernetes.node_selector));
    }
    if !kubernetes.tolerations.is_empty() {
        let tolerate = |key: &String| json!({ "key": key, "operator": "Exists" });
        add("tolerations", kubernetes.tolerations.iter().map(tolerate).collect());
    }
    pod
}

/// With one rank a pod its index is the rank; a launcher in the pod counts on from it.
fn arguments(config: &LaunchConfig) -> Vec<String> {
    let ranks = &config.ranks;
    // Kubernetes reads `$(NAME)` in arguments as a variable, and `$$` as a dollar.
    let command = config.command().into_iter().map(|word| word.replace('$', "$$"));
    if ranks.per_node == 1 {
        return command.collect();
    }
    let mut words = vec!["launch".to_owned(), "--nproc".to_owned(), ranks.per_node.to_string()];
    if ranks.nodes > 1 {
        let nodes = ranks.nodes.to_string();
        words.extend(["--nodes", &nodes, "--node", "$(JOB_COMPLETION_INDEX)"].map(String::from));
    }
    // The pods' end must not come before the ranks'.
    words.extend([
        "--grace".to_owned(),
        (config.grace_seconds / 2).max(1).to_string(),
        "--".to_owned(),
    ]);
    words.extend(command);
    words
}

fn environment(config: &LaunchConfig, kubernetes: &KubernetesConfig) -> Vec<Value> {
    let variable = |name: &str, value: String| json!({ "name": name, "value": value.replace('$', "$$") });
    let name = &config.name;
    let first = match kubernetes.kind {
        Kind::Job => format!("{name}-0.{name}"),
        Kind::JobSet => format!("{name}-{REPLICATED}-0-0.{name}"),
    };
    let mut variables = vec![
        variable("MASTER_ADDR", first),
        variable("MASTER_PORT", kubernetes.port.to_string()),
        json!({
            "name": "LIDIT_RENDEZVOUS_SECRET",
            "valueFrom": { "secretKeyRef": { "name": kubernetes.rendezvous_secret, "key": "secret" } },
        }),
        variable("RAYON_NUM_THREADS", config.ranks.cpus.to_string()),
    ];
    if config.ranks.per_node == 1 {
        variables.push(variable("WORLD_SIZE", config.world_size().to_string()));
    }
    if kubernetes.kind == Kind::JobSet {
        // A pod left over from the last attempt is refused at the rendezvous.
        let field = format!("metadata.annotations['{ATTEMPT}']");
        variables.push(json!({ "name": "LIDIT_LAUNCH_ATTEMPT", "valueFrom": { "fieldRef": { "fieldPath": field } } }));
    }
    variables.extend(
        config
            .environment
            .iter()
            .map(|(name, value)| variable(name, value.clone())),
    );
    variables
}

fn resources(config: &LaunchConfig, kubernetes: &KubernetesConfig) -> Value {
    let ranks = &config.ranks;
    let memory = format!("{}Gi", ranks.memory_gib);
    let mut limits = Map::new();
    limits.insert("memory".into(), json!(memory));
    if ranks.device == RankDevice::Cuda {
        let gpus = kubernetes.gpu_resource.as_deref().unwrap_or("nvidia.com/gpu");
        limits.insert(gpus.into(), json!(ranks.per_node.to_string()));
    }
    for (name, amount) in &kubernetes.resources {
        limits.insert(name.clone(), json!(amount));
    }
    let cpu = (ranks.cpus * ranks.per_node).to_string();
    json!({ "requests": { "cpu": cpu, "memory": memory }, "limits": limits })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::super::launch_config::tests::example;
    use super::*;

    fn last_document(file: &str, changes: &[(&str, &str)]) -> Value {
        let config = example(file, changes).unwrap();
        documents(&config, config.kubernetes.as_ref().unwrap()).pop().unwrap()
    }

    fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
        value
            .pointer(pointer)
            .unwrap_or_else(|| panic!("no {pointer} in {value:#}"))
    }

    #[test]
    fn a_pod_of_one_rank_takes_its_index_for_its_rank() {
        let job = last_document("kubernetes.toml", &[("per_node = 8", "per_node = 1")]);
        let container = at(&job, "/spec/template/spec/containers/0");
        assert_eq!(container["args"][0], "train");
        let world = json!({ "name": "WORLD_SIZE", "value": "2" });
        assert!(container["env"].as_array().unwrap().contains(&world), "{container:#}");
        assert_eq!(at(container, "/resources/limits/nvidia.com~1gpu"), "1");
    }

    #[test]
    fn a_pod_of_several_ranks_launches_them() {
        let job = last_document("kubernetes.toml", &[]);
        let container = at(&job, "/spec/template/spec/containers/0");
        let args: Vec<&str> = container["args"]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().unwrap())
            .collect();
        let launch = [
            "launch",
            "--nproc",
            "8",
            "--nodes",
            "2",
            "--node",
            "$(JOB_COMPLETION_INDEX)",
            "--grace",
        ];
        assert_eq!(args[..8], launch);
        assert_eq!(args[9..11], ["--", "train"]);
        let names: Vec<&str> = container["env"]
            .as_array()
            .unwrap()
            .iter()
            .map(|env| env["name"].as_str().unwrap())
            .collect();
        assert!(!names.contains(&"WORLD_SIZE"), "the launcher says it: {names:?}");
        assert_eq!(at(&job, "/spec/backoffLimit"), 6, "3 restarts of 2 pods");
    }

    #[test]
    fn a_job_set_restarts_all_and_ends_at_an_error() {
        let set = last_document("jobset.toml", &[]);
        assert_eq!(set["apiVersion"], "jobset.x-k8s.io/v1alpha2");
        assert_eq!(at(&set, "/spec/failurePolicy/maxRestarts"), 3);
        assert_eq!(at(&set, "/spec/failurePolicy/rules/0/action"), "FailJobSet");
        assert_eq!(at(&set, "/spec/network/enableDNSHostnames"), true);
        let job = at(&set, "/spec/replicatedJobs/0/template/spec");
        assert_eq!(job["backoffLimit"], 0);
        let environment = at(job, "/template/spec/containers/0/env").to_string();
        let first = "\"value\":\"li-dit-1b-ranks-0-0.li-dit-1b\"";
        assert!(
            environment.contains(first) && environment.contains(ATTEMPT),
            "{environment}"
        );
    }

    #[test]
    fn a_dollar_stays_a_dollar() {
        let job = last_document(
            "kubernetes.toml",
            &[("sets = [", "sets = [\"sample.prompts=[\\\"$(HOME)\\\"]\", ")],
        );
        let args = at(&job, "/spec/template/spec/containers/0/args").to_string();
        assert!(args.contains("$$(HOME)"), "{args}");
    }
}
