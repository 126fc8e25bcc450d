//! A script for `sbatch`: ranks that save before the time is up, come back, and are started again when one is lost.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Rendered;
use super::launch_config::{LaunchConfig, RankDevice};

/// What Slurm needs to know besides.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlurmConfig {
    /// Whom the job is charged to.
    pub account: Option<String>,
    /// Where it queues.
    pub partition: Option<String>,
    /// Its quality of service.
    pub qos: Option<String>,
    /// Features its nodes must have.
    pub constraint: Option<String>,
    /// How this site names GPUs, such as `gpu:h100:8`, in place of `--gpus-per-node`.
    pub gres: Option<String>,
    /// The job's log, with Slurm's patterns; its folder must exist.
    pub log: String,
    /// Shell lines that make the program usable on a node, such as `module load cuda`.
    #[serde(default)]
    pub setup: Vec<String>,
    /// More options of `sbatch`.
    #[serde(default)]
    pub sbatch: Vec<String>,
    /// More options of `srun`.
    #[serde(default)]
    pub srun: Vec<String>,
}

/// The script, and what to do with it.
pub fn render(config: &LaunchConfig, path: &Path) -> Result<(Vec<Rendered>, String)> {
    let slurm = config.slurm.as_ref().context("there is no [slurm] table: add one")?;
    slurm.validate()?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = format!("{stem}.sbatch");
    let next = format!("submit it with `sbatch {name}`");
    let source = path.file_name().unwrap_or_default().to_string_lossy();
    let text = script(config, slurm, &source);
    Ok((vec![Rendered { name, text }], next))
}

impl SlurmConfig {
    fn validate(&self) -> Result<()> {
        let own = [
            ("slurm.account", &self.account),
            ("slurm.partition", &self.partition),
            ("slurm.qos", &self.qos),
            ("slurm.constraint", &self.constraint),
            ("slurm.gres", &self.gres),
        ];
        let log = Some(self.log.clone());
        let own = own.into_iter().chain([("slurm.log", &log)]);
        for (key, value) in own.filter_map(|(key, value)| Some((key, value.as_ref()?))) {
            let plain = !value.is_empty()
                && !value.contains(|letter: char| letter.is_whitespace() || "\"'\\#".contains(letter));
            ensure!(plain, "{key} is {value:?}: write one word without quotes");
        }
        for (key, options) in [("slurm.sbatch", &self.sbatch), ("slurm.srun", &self.srun)] {
            for option in options {
                ensure!(
                    option.starts_with("--") && !option.contains('\n'),
                    "{key} has {option:?}: write each option as --name or --name=value"
                );
            }
        }
        Ok(())
    }
}

fn script(config: &LaunchConfig, slurm: &SlurmConfig, source: &str) -> String {
    let title =
        format!("#!/bin/bash\n# Rendered by `lidit render slurm` from {source}: change that file, not this one.");
    let export = |(name, value): (&String, &String)| format!("export {name}={}", quoted(value));
    let mut lines = vec![title];
    lines.extend(
        directives(config, slurm)
            .iter()
            .map(|directive| format!("#SBATCH {directive}")),
    );
    lines.extend([
        PREPARE.to_owned(),
        format!("export RAYON_NUM_THREADS={}", config.ranks.cpus),
    ]);
    lines.extend(config.environment.iter().map(export));
    lines.extend(slurm.setup.iter().cloned());
    lines.extend([RANK.to_owned(), "for ((restarts = 0; ; restarts++)); do".to_owned()]);
    lines.push(format!("    {}", srun(config, slurm).join(" \\\n        ")));
    lines.push(ENDS.replace("MAX_RESTARTS", &config.max_restarts.to_string()));
    lines.join("\n")
}

fn directives(config: &LaunchConfig, slurm: &SlurmConfig) -> Vec<String> {
    let ranks = &config.ranks;
    let mut lines = vec![
        format!("--job-name={}", config.name),
        format!("--nodes={}", ranks.nodes),
        format!("--ntasks-per-node={}", ranks.per_node),
        format!("--cpus-per-task={}", ranks.cpus),
        format!("--mem={}G", ranks.memory_gib),
    ];
    match (&slurm.gres, ranks.device) {
        (Some(gres), _) => lines.push(format!("--gres={gres}")),
        (None, RankDevice::Cuda) => lines.push(format!("--gpus-per-node={}", ranks.per_node)),
        (None, RankDevice::Cpu) => {}
    }
    lines.extend([
        format!("--time={}", config.time_limit_minutes),
        // Not `B:`: the ranks are told, not this script.
        format!("--signal=USR1@{}", config.grace_seconds),
        "--requeue".to_owned(),
        "--open-mode=append".to_owned(),
        format!("--output={}", slurm.log),
    ]);
    let optional = [
        ("account", &slurm.account),
        ("partition", &slurm.partition),
        ("qos", &slurm.qos),
        ("constraint", &slurm.constraint),
    ];
    let said = |(name, value): (&str, &Option<String>)| value.as_ref().map(|value| format!("--{name}={value}"));
    lines.extend(optional.into_iter().filter_map(said));
    if let Some(array) = &config.array {
        let at_once = array.at_once.map(|most| format!("%{most}")).unwrap_or_default();
        lines.push(format!("--array={}-{}{at_once}", array.first, array.last));
    }
    lines.extend(slurm.sbatch.iter().cloned());
    lines
}

/// The step's command, in lines.
fn srun(config: &LaunchConfig, slurm: &SlurmConfig) -> Vec<String> {
    let ranks = &config.ranks;
    let mut lines = vec![
        format!(
            "srun --ntasks={} --ntasks-per-node={} --cpus-per-task={} --export=ALL --mpi=none --label",
            config.world_size(),
            ranks.per_node,
            ranks.cpus
        ),
        format!("--kill-on-bad-exit=0 --wait={}", config.grace_seconds),
    ];
    if !slurm.srun.is_empty() {
        let more: Vec<String> = slurm.srun.iter().map(|option| quoted(option)).collect();
        lines.push(more.join(" "));
    }
    lines.push("bash -c \"$rank\" rank".to_owned());
    let command = config.command().into_iter().map(|word| quoted(&word));
    let words: Vec<String> = std::iter::once(quoted(&config.program)).chain(command).collect();
    lines.push(words.join(" "));
    lines
}

/// One word of a shell's line; `{index}` becomes the array task's number.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_@%+=:,./-".contains(letter);
    let literal = |part: &str| match part {
        "" => String::new(),
        part if part.chars().all(plain) => part.to_owned(),
        part => format!("'{}'", part.replace('\'', r"'\''")),
    };
    match word {
        "" => "''".to_owned(),
        word => word
            .split("{index}")
            .map(literal)
            .collect::<Vec<_>>()
            .join("\"$SLURM_ARRAY_TASK_ID\""),
    }
}

const PREPARE: &str = r"set -uo pipefail

# Known to this job's ranks alone: it reaches them by their environment and is in no file.
LIDIT_RENDEZVOUS_SECRET=$(od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n')
export LIDIT_RENDEZVOUS_SECRET";

const RANK: &str = r#"
# scancel and preemption tell this script too: then it starts nothing again.
cancelled=
trap 'cancelled=1' TERM

# One rank. srun answers the largest code of all ranks: an error of a rank's own must not hide behind its peers' 76.
# shellcheck disable=SC2016
rank='trap : TERM USR1; "$@"; code=$?; case $code in 1 | 2 | 126 | 127) exit 255 ;; esac; exit $code'

# Ranks that lost a peer need time to name it (no kill-on-bad-exit); one that hangs is killed once another has ended (wait)."#;

const ENDS: &str = r#"    code=$?
    if [ "$code" -eq 255 ]; then code=1; fi
    if [ -n "$cancelled" ]; then
        echo "job: cancelled" >&2
        exit "$code"
    fi
    case $code in
    0) exit 0 ;;
    1) exit 1 ;;
    75)
        echo "job: stopped and saved, to go on in the queue" >&2
        scontrol requeue "$SLURM_JOB_ID" || echo "job: it can't be queued again: submit this script to go on" >&2
        exit 75
        ;;
    esac
    if [ "$restarts" -ge MAX_RESTARTS ]; then
        echo "job: ranks ended with $code, and MAX_RESTARTS restarts are used up" >&2
        exit "$code"
    fi
    echo "job: ranks ended with $code, restart $((restarts + 1)) of at most MAX_RESTARTS" >&2
done
"#;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::super::launch_config::tests::example;
    use super::*;

    fn rendered(file: &str, changes: &[(&str, &str)]) -> Result<String> {
        let (mut files, _) = render(&example(file, changes)?, Path::new(file))?;
        Ok(files.remove(0).text)
    }

    #[test]
    fn words_reach_the_rank_as_they_are() {
        for (word, expected) in [
            ("plain-1.0/x", "plain-1.0/x"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$HOME `id`", "'$HOME `id`'"),
            ("train.precision=\"bf16\"", "'train.precision=\"bf16\"'"),
            ("runs/{index}", "runs/\"$SLURM_ARRAY_TASK_ID\""),
            ("a b{index}c", "'a b'\"$SLURM_ARRAY_TASK_ID\"c"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn the_ranks_and_not_the_script_get_the_signal() {
        let script = rendered("slurm.toml", &[]).unwrap();
        for line in [
            "#SBATCH --signal=USR1@120\n",
            "#SBATCH --requeue\n",
            "#SBATCH --open-mode=append\n",
            "#SBATCH --gpus-per-node=8\n",
            "#SBATCH --ntasks-per-node=8\n",
            "#SBATCH --nodes=4\n",
            " --kill-on-bad-exit=0 --wait=120 ",
            " --resume ",
        ] {
            assert!(script.contains(line), "{line} is not in\n{script}");
        }
        assert!(!script.contains("--array"));
    }

    #[test]
    fn an_array_is_a_run_a_task() {
        let script = rendered("slurm-array.toml", &[]).unwrap();
        for words in [
            "#SBATCH --array=0-7%2\n",
            "--run-dir /shared/runs/nano-seed-\"$SLURM_ARRAY_TASK_ID\" ",
            "--set train.seed=\"$SLURM_ARRAY_TASK_ID\"",
        ] {
            assert!(script.contains(words), "{words} is not in\n{script}");
        }
    }

    #[test]
    fn what_would_break_a_directive_is_refused_by_key() {
        for (from, to, words) in [
            ("account = \"vision\"", "account = \"a b\"", "slurm.account"),
            (
                "account = \"vision\"",
                "account = \"a\\n#SBATCH --uid=0\"",
                "slurm.account",
            ),
            ("\"--exclusive\"", "\"-N 1\"", "slurm.sbatch"),
            ("[slurm]", "[kubernetes]", "kubernetes"),
        ] {
            let error = rendered("slurm.toml", &[(from, to)]).expect_err(to);
            assert!(format!("{error:#}").contains(words), "{to}: {error:#}");
        }
        let error = rendered("kubernetes.toml", &[]).unwrap_err();
        assert!(error.to_string().contains("[slurm]"), "{error}");
    }
}
