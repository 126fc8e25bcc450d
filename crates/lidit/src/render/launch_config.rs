//! What is launched, where, and how patiently: one typed config for every scheduler.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;

use super::kubernetes::KubernetesConfig;
use super::slurm::SlurmConfig;

/// Version of the launch config's format, `format_version`.
const FORMAT_VERSION: u32 = 1;
/// Stands for the task's number in an array's run directory, sets and environment.
const INDEX: &str = "{index}";
/// Said by the scheduler to each rank, or secret: never by the launch config.
const RESERVED: [&str; 7] = [
    "LIDIT_RENDEZVOUS_SECRET",
    "LIDIT_LAUNCH_ATTEMPT",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "JOB_COMPLETION_INDEX",
];
/// What Kubernetes appends to a name must still fit into a host name.
const MAX_NAME: usize = 40;

/// A launch config, such as `launch/slurm.toml`. Nothing in it changes what a run computes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchConfig {
    /// Always `FORMAT_VERSION` of this file.
    pub format_version: u32,
    /// The job's name: lower-case letters, digits and dashes.
    pub name: String,
    /// The lidit binary there: a path, or a bare name to be found in PATH.
    pub program: String,
    /// The job may run this long; under Kubernetes all its restarts together.
    pub time_limit_minutes: u64,
    /// What ranks get to save and leave in, and, once one has ended, what the others get to end in.
    pub grace_seconds: u64,
    /// How often all ranks are started again after one crashed or lost a peer.
    pub max_restarts: u32,
    /// The command that every rank runs.
    pub train: TrainCommand,
    /// How many processes, and what each needs.
    pub ranks: RanksConfig,
    /// Variables of every rank, such as `NCCL_SOCKET_IFNAME` or `LIDIT_CACHE`.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Many runs from one config, one a task.
    pub array: Option<ArrayConfig>,
    /// What Slurm needs to know besides.
    pub slurm: Option<SlurmConfig>,
    /// What Kubernetes needs to know besides.
    pub kubernetes: Option<KubernetesConfig>,
}

/// `lidit train`, always with `--resume`: that starts a run which has no checkpoint yet.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainCommand {
    /// The run's config, as a path of the cluster.
    pub config: String,
    /// The run directory, on a file system that every rank shares.
    pub run_dir: String,
    /// `--set`, each `key=value`.
    #[serde(default)]
    pub sets: Vec<String>,
    /// Longest wait for another rank, in seconds: `--deadline`.
    pub deadline_seconds: u64,
}

/// The processes of a run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RanksConfig {
    /// Hosts.
    pub nodes: u32,
    /// Processes a host, each with a GPU of its own where there are GPUs.
    pub per_node: u32,
    /// What they compute on.
    pub device: RankDevice,
    /// CPU cores a rank.
    pub cpus: u32,
    /// Memory a host, in GiB.
    pub memory_gib: u32,
}

/// What a rank computes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RankDevice {
    /// Its CPU cores.
    Cpu,
    /// A GPU of its own.
    Cuda,
}

/// A run a task, for `first..=last`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrayConfig {
    /// The first task's number.
    pub first: u32,
    /// The last task's number.
    pub last: u32,
    /// Most tasks that run at once; all, if it is not said.
    pub at_once: Option<u32>,
}

impl LaunchConfig {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// Names the file and the key.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading launch config {}", path.display()))?;
        let folder = std::path::absolute(path)?.parent().unwrap_or(Path::new("/")).to_owned();
        Self::parse(&text, &folder).with_context(|| format!("in launch config {}", path.display()))
    }

    /// Reads a launch config's text; relative paths are those of `folder`.
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        let table: toml::Table = text.parse()?;
        let mut config: Self = serde_path_to_error::deserialize(table)
            .map_err(|error| anyhow!("key `{}`: {}", error.path(), error.inner().message()))?;
        config.validate()?;
        let program = config.program.contains('/').then_some(&mut config.program);
        for path in [&mut config.train.config, &mut config.train.run_dir]
            .into_iter()
            .chain(program)
        {
            if !Path::new(path.as_str()).is_absolute() {
                *path = folder.join(path.as_str()).to_string_lossy().into_owned();
            }
        }
        Ok(config)
    }

    /// All ranks.
    pub fn world_size(&self) -> u32 {
        self.ranks.nodes * self.ranks.per_node
    }

    /// The command line of every rank, with [`INDEX`] in it where it is an array's.
    pub fn command(&self) -> Vec<String> {
        let train = &self.train;
        let device = match self.ranks.device {
            RankDevice::Cpu => "cpu",
            RankDevice::Cuda => "cuda",
        };
        let mut words: Vec<String> = [
            "train",
            &train.config,
            "--run-dir",
            &train.run_dir,
            "--resume",
            "--device",
            device,
            "--deadline",
            &train.deadline_seconds.to_string(),
        ]
        .map(String::from)
        .to_vec();
        for set in &train.sets {
            words.extend(["--set".to_owned(), set.clone()]);
        }
        words
    }

    fn validate(&self) -> Result<()> {
        ensure!(
            self.format_version == FORMAT_VERSION,
            "format_version is {}, this lidit reads {FORMAT_VERSION}",
            self.format_version
        );
        check_name("name", &self.name)?;
        for (key, text) in [
            ("program", &self.program),
            ("train.config", &self.train.config),
            ("train.run_dir", &self.train.run_dir),
        ] {
            ensure!(!text.is_empty(), "{key} is empty");
            ensure!(!text.contains('\n'), "{key} has a line break in it");
        }
        for (key, number) in [
            ("grace_seconds", self.grace_seconds),
            ("train.deadline_seconds", self.train.deadline_seconds),
            ("ranks.nodes", self.ranks.nodes.into()),
            ("ranks.per_node", self.ranks.per_node.into()),
            ("ranks.cpus", self.ranks.cpus.into()),
            ("ranks.memory_gib", self.ranks.memory_gib.into()),
        ] {
            ensure!(number > 0, "{key} is 0: it must be at least 1");
        }
        ensure!(
            self.ranks
                .nodes
                .checked_mul(self.ranks.per_node)
                .is_some_and(|ranks| ranks <= 100_000),
            "ranks.nodes times ranks.per_node is more than 100000"
        );
        ensure!(
            self.time_limit_minutes * 60 > self.grace_seconds,
            "grace_seconds is {}: it must be less than time_limit_minutes, or the job ends before it trains",
            self.grace_seconds
        );
        for set in &self.train.sets {
            ensure!(
                set.contains('=') && !set.contains('\n'),
                "train.sets has {set:?}: write it as key.path=value"
            );
        }
        self.validate_environment()?;
        self.validate_array()
    }

    fn validate_environment(&self) -> Result<()> {
        for (name, value) in &self.environment {
            let begins = name.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_');
            let goes_on = name
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
            ensure!(
                begins && goes_on,
                "environment.{name}: a variable's name has letters, digits and underscores only"
            );
            ensure!(!value.contains('\n'), "environment.{name} has a line break in it");
            if name == RESERVED[0] {
                bail!("environment.{name}: a secret does not belong into a file; the rendered job brings its own");
            }
            ensure!(
                !RESERVED.contains(&name.as_str()),
                "environment.{name}: the scheduler tells each rank its own; take it out"
            );
        }
        Ok(())
    }

    fn validate_array(&self) -> Result<()> {
        let Some(array) = &self.array else {
            let texts = [&self.train.run_dir]
                .into_iter()
                .chain(&self.train.sets)
                .chain(self.environment.values());
            for text in texts {
                ensure!(
                    !text.contains(INDEX),
                    "{text:?} has {INDEX} in it, but there is no [array] to count"
                );
            }
            return Ok(());
        };
        ensure!(
            array.first <= array.last,
            "array.first is {}, above array.last, {}",
            array.first,
            array.last
        );
        ensure!(array.at_once != Some(0), "array.at_once is 0: no task would ever run");
        ensure!(
            self.train.run_dir.contains(INDEX),
            "train.run_dir is {:?}: with [array] it needs {INDEX} in it, or all tasks write into one run",
            self.train.run_dir
        );
        Ok(())
    }
}

/// `text` with `number` in place of [`INDEX`].
pub fn with_index(text: &str, number: &str) -> String {
    text.replace(INDEX, number)
}

/// Refuses what is no host name's first part, which both schedulers take for a name.
pub fn check_name(key: &str, name: &str) -> Result<()> {
    let good = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    ensure!(
        name.starts_with(|letter: char| letter.is_ascii_lowercase()) && !name.ends_with('-') && name.chars().all(good),
        "{key} is {name:?}: begin with a lower-case letter, go on with those, digits and dashes"
    );
    ensure!(
        name.len() <= MAX_NAME,
        "{key} is {name:?}: at most {MAX_NAME} letters, or the hosts' names become too long"
    );
    Ok(())
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    /// `launch/FILE` with every `(from, to)` replaced; each must be in it.
    pub fn example(file: &str, changes: &[(&str, &str)]) -> Result<LaunchConfig> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../launch");
        let mut text = std::fs::read_to_string(folder.join(file)).unwrap();
        for (from, to) in changes {
            assert!(text.contains(from), "{file} has no {from}");
            text = text.replacen(from, to, 1);
        }
        LaunchConfig::parse(&text, Path::new("/home/me"))
    }

    #[test]
    fn mistakes_are_named_by_key() {
        for (from, to, words) in [
            ("format_version = 1", "format_version = 2", "format_version is 2"),
            ("max_restarts", "max_restart", "max_restart"),
            ("max_restarts = 3", "max_restarts = -1", "key `max_restarts`"),
            ("grace_seconds = 120", "", "grace_seconds"),
            ("grace_seconds = 120", "grace_seconds = 0", "grace_seconds is 0"),
            (
                "grace_seconds = 120",
                "grace_seconds = 999999",
                "less than time_limit_minutes",
            ),
            ("name = \"li-dit-1b\"", "name = \"LI DiT\"", "name is \"LI DiT\""),
            ("nodes = 4", "nodes = 0", "ranks.nodes is 0"),
            ("nodes = 4", "nodes = 4_000_000_000", "more than 100000"),
            ("device = \"cuda\"", "device = \"tpu\"", "key `ranks.device`"),
            (
                "sets = [",
                "sets = [\"train.steps\", ",
                "train.sets has \"train.steps\"",
            ),
            ("sets = [", "sets = [\"train.seed={index}\", ", "no [array]"),
            ("[environment]", "[environment]\nRANK = \"0\"", "environment.RANK"),
            ("[environment]", "[environment]\n\"A-B\" = \"0\"", "environment.A-B"),
            (
                "[environment]",
                "[environment]\nLIDIT_RENDEZVOUS_SECRET = \"hunter2\"",
                "a secret does not belong",
            ),
            (
                "[environment]",
                "[array]\nfirst = 0\nlast = 3\n[environment]",
                "train.run_dir",
            ),
            (
                "[environment]",
                "[array]\nfirst = 4\nlast = 3\n[environment]",
                "array.first is 4",
            ),
        ] {
            let error = example("slurm.toml", &[(from, to)]).expect_err(to);
            let message = format!("{error:#}");
            assert!(message.contains(words), "{to}: {message}");
        }
    }

    #[test]
    fn relative_paths_are_those_of_the_file_and_a_bare_program_is_found_in_path() {
        let config = example(
            "slurm.toml",
            &[
                ("/shared/configs/run/li-dit-1b.toml", "run.toml"),
                ("/shared/runs/li-dit-1b", "../runs"),
            ],
        )
        .unwrap();
        assert_eq!(config.train.config, "/home/me/run.toml");
        assert_eq!(config.train.run_dir, "/home/me/../runs");
        assert_eq!(config.program, "lidit");
        assert_eq!(config.world_size(), 32);
    }
}
