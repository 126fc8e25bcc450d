//! What Kubernetes needs to know besides, and the file for `kubectl apply`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Rendered;
use super::launch_config::{LaunchConfig, check_name, with_index};
use super::manifest;
use super::yaml;

/// What Kubernetes needs to know besides.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesConfig {
    /// What runs the pods.
    pub kind: Kind,
    /// Where all of it lives.
    pub namespace: String,
    /// The image with the lidit binary.
    pub image: String,
    /// When the image is pulled.
    pub pull_policy: PullPolicy,
    /// The Secret with the registry's password.
    pub pull_secret: Option<String>,
    /// The Secret whose key `secret` lets ranks in; `kubectl` makes it, this config does not hold it.
    pub rendezvous_secret: String,
    /// Port of rank 0's rendezvous, and no other's.
    pub port: u16,
    /// Room for NCCL's shared memory, counted as the pod's memory, in GiB.
    pub shm_gib: u32,
    /// How this cluster names GPUs.
    pub gpu_resource: Option<String>,
    /// What else a pod needs, such as `rdma/hca = "1"`.
    #[serde(default)]
    pub resources: BTreeMap<String, String>,
    /// Shared volumes.
    #[serde(default)]
    pub volumes: Vec<VolumeConfig>,
    /// Labels of the Job or `JobSet`, such as a queue's.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Labels that nodes must have.
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that the pods tolerate, by key.
    #[serde(default)]
    pub tolerations: Vec<String>,
}

/// What runs the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An Indexed Job: every Kubernetes has it; lost pods are replaced one by one.
    Job,
    /// A `JobSet`, which the cluster must have installed: all pods are replaced together.
    JobSet,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Deserialize, serde::Serialize)]
pub enum PullPolicy {
    /// Each time a pod starts.
    Always,
    /// Once a node.
    IfNotPresent,
    /// Never: nodes bring it.
    Never,
}

/// A `PersistentVolumeClaim` and where pods see it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeConfig {
    /// The claim's name; the run directory's must be `ReadWriteMany` where there are several nodes.
    pub claim: String,
    /// The folder in the pod.
    pub mount: String,
    /// Whether pods may only read.
    pub read_only: bool,
}

/// The manifests, and what to do with them.
pub fn render(config: &LaunchConfig, path: &Path) -> Result<(Vec<Rendered>, String)> {
    let kubernetes = config
        .kubernetes
        .as_ref()
        .context("there is no [kubernetes] table: add one")?;
    kubernetes.validate(config)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let source = path.file_name().unwrap_or_default().to_string_lossy();
    let mut files = Vec::new();
    match &config.array {
        None => files.push(file(config, kubernetes, &format!("{stem}.yaml"), &source)),
        Some(array) => {
            for index in array.first..=array.last {
                let task = one_task(config, index);
                check_name("name with the task's number", &task.name)?;
                files.push(file(&task, kubernetes, &format!("{stem}-{index}.yaml"), &source));
            }
        }
    }
    let KubernetesConfig {
        namespace,
        rendezvous_secret: secret,
        ..
    } = kubernetes;
    let names: Vec<String> = files.iter().map(|file| format!("-f {}", file.name)).collect();
    let next = format!(
        "once: openssl rand -hex 32 | tr -d '\\n' | kubectl -n {namespace} create secret generic {secret} --from-file=secret=/dev/stdin\n\
         then: kubectl apply {}",
        names.join(" ")
    );
    Ok((files, next))
}

fn file(config: &LaunchConfig, kubernetes: &KubernetesConfig, name: &str, source: &str) -> Rendered {
    let mut text = format!("# Rendered by `lidit render kubernetes` from {source}: change that file, not this one.\n");
    for document in manifest::documents(config, kubernetes) {
        text += "---\n";
        text += &yaml::document(&document);
    }
    Rendered {
        name: name.to_owned(),
        text,
    }
}

/// The array's task `index` as a launch of its own.
fn one_task(config: &LaunchConfig, index: u32) -> LaunchConfig {
    let mut task = config.clone();
    let number = index.to_string();
    task.array = None;
    task.name = format!("{}-{index}", config.name);
    task.train.run_dir = with_index(&config.train.run_dir, &number);
    for text in task.train.sets.iter_mut().chain(task.environment.values_mut()) {
        *text = with_index(text, &number);
    }
    task
}

impl KubernetesConfig {
    fn validate(&self, config: &LaunchConfig) -> Result<()> {
        check_name("kubernetes.namespace", &self.namespace)?;
        check_name("kubernetes.rendezvous_secret", &self.rendezvous_secret)?;
        ensure!(!self.image.is_empty(), "kubernetes.image is empty");
        ensure!(
            self.port > 1023,
            "kubernetes.port is {}: choose 1024 to 65535",
            self.port
        );
        for volume in &self.volumes {
            check_name("kubernetes.volumes.claim", &volume.claim)?;
            ensure!(
                volume.mount.starts_with('/'),
                "kubernetes.volumes.mount is {:?}: write it from the root, as /shared",
                volume.mount
            );
        }
        ensure!(
            !config.environment.contains_key("MASTER_PORT"),
            "environment.MASTER_PORT: say it as kubernetes.port"
        );
        let run_dir = &config.train.run_dir;
        ensure!(
            self.volumes
                .iter()
                .any(|volume| !volume.read_only && Path::new(run_dir).starts_with(&volume.mount)),
            "train.run_dir is {run_dir}, on no volume of kubernetes.volumes that can be written: checkpoints would go with the pods"
        );
        let at_once = config.array.as_ref().and_then(|array| array.at_once);
        ensure!(
            at_once.is_none(),
            "array.at_once: a Job can't wait for another; take it out and queue the Jobs (labels of a queue go into kubernetes.labels)"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::super::launch_config::tests::example;
    use super::*;

    #[test]
    fn mistakes_are_named_by_key() {
        for (from, to, words) in [
            ("kind = \"job\"", "kind = \"cronjob\"", "key `kubernetes.kind`"),
            (
                "pull_policy = \"IfNotPresent\"",
                "pull_policy = \"Sometimes\"",
                "kubernetes.pull_policy",
            ),
            ("port = 29400", "port = 80", "kubernetes.port is 80"),
            ("mount = \"/shared\"", "mount = \"shared\"", "kubernetes.volumes.mount"),
            (
                "mount = \"/shared\"",
                "mount = \"/share\"",
                "train.run_dir is /shared/runs",
            ),
            ("read_only = false", "read_only = true", "train.run_dir is /shared/runs"),
            ("[environment]", "[environment]\nMASTER_PORT = \"1\"", "kubernetes.port"),
            (
                "[environment]",
                "[array]\nfirst = 0\nlast = 1\nat_once = 1\n[environment]",
                "train.run_dir",
            ),
        ] {
            let result = example("kubernetes.toml", &[(from, to)])
                .and_then(|config| render(&config, Path::new("kubernetes.toml")).map(|_| ()));
            let message = format!("{:#}", result.expect_err(to));
            assert!(message.contains(words), "{to}: {message}");
        }
    }

    #[test]
    fn an_array_is_a_job_a_task() {
        let config = example(
            "kubernetes.toml",
            &[
                ("/shared/runs/li-dit-1b", "/shared/runs/seed-{index}"),
                ("sets = [", "sets = [\"train.seed={index}\", "),
                ("[environment]", "[array]\nfirst = 3\nlast = 4\n[environment]"),
            ],
        )
        .unwrap();
        let (files, next) = render(&config, Path::new("seeds.toml")).unwrap();
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["seeds-3.yaml", "seeds-4.yaml"]);
        assert!(files[1].text.contains("/shared/runs/seed-4") && files[1].text.contains("train.seed=4"));
        assert!(files.iter().all(|file| !file.text.contains("{index}")));
        assert!(next.contains("-f seeds-3.yaml -f seeds-4.yaml"), "{next}");
    }
}
