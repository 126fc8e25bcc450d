//! The rendered Slurm script, run under a stand-in for `srun` that sets what Slurm sets.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::lidit::{debug_config, digest, error, json, losses, root};

/// A cluster of one host with a stand-in for Slurm.
struct Cluster {
    dir: tempfile::TempDir,
    job: u32,
}

impl Cluster {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        for name in ["srun", "scontrol"] {
            symlink(root().join("tests/e2e/fake_srun.sh"), dir.path().join("bin").join(name)).unwrap();
        }
        // The ranks derive their port from the job's number: one that is free.
        let free = |job: &u32| std::net::TcpListener::bind(("127.0.0.1", 20_000 + (job % 20_000) as u16)).is_ok();
        let start = std::process::id() % 5_000;
        let job = (start..start + 5_000).find(free).unwrap();
        Self { dir, job }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Renders a script for 4 ranks of `program` that train in RUN, with `more` lines in the launch config.
    fn render(&self, program: &Path, run: &str, more: &str) -> PathBuf {
        let config = self.path(&format!("{}.toml", run.replace("{index}", "array")));
        let text = format!(
            "format_version = 1\nname = \"debug\"\nprogram = \"{}\"\ntime_limit_minutes = 10\ngrace_seconds = 30\n\
             max_restarts = 2\n\
             [train]\nconfig = \"{}\"\nrun_dir = \"{run}\"\ndeadline_seconds = 60\n\
             sets = [\"train.steps=30\", \"train.checkpoint_every=5\", \"train.sample_every=0\"]\n\
             [ranks]\nnodes = 1\nper_node = 4\ndevice = \"cpu\"\ncpus = 1\nmemory_gib = 1\n\
             [slurm]\nlog = \"job.log\"\n{more}",
            program.display(),
            debug_config().display()
        );
        fs::write(&config, text).unwrap();
        let report = json(&["render", "slurm", config.to_str().unwrap()], 0);
        report["files"][0].as_str().unwrap().into()
    }

    /// Runs the script as a job that was queued again `requeued` times; what it prints is added to `job.log`.
    fn start(&self, script: &Path, requeued: u32) -> Job<'_> {
        let state = self.path(&format!("{}-{requeued}", script.file_stem().unwrap().to_string_lossy()));
        fs::create_dir(&state).unwrap();
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let log = || {
            fs::File::options()
                .create(true)
                .append(true)
                .open(self.path("job.log"))
                .unwrap()
        };
        let mut command = Command::new("bash");
        command
            .arg(script)
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .process_group(0);
        command
            .env("PATH", path)
            .env("FAKE_SLURM", &state)
            .env("SLURM_JOB_ID", self.job.to_string());
        command.env("SLURM_ARRAY_TASK_ID", "5");
        if requeued > 0 {
            command.env("SLURM_RESTART_COUNT", requeued.to_string());
        }
        for name in ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"] {
            command.env_remove(name);
        }
        Job {
            cluster: self,
            child: command.spawn().unwrap(),
            state,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("job.log")).unwrap()
    }
}

/// A running job.
struct Job<'a> {
    cluster: &'a Cluster,
    child: Child,
    state: PathBuf,
}

impl Job<'_> {
    /// Its exit code.
    fn end(mut self) -> i32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(
                begun.elapsed() < Duration::from_mins(3),
                "the job hangs: {}",
                self.cluster.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, task: u32, signal: &str) {
        let pid = fs::read_to_string(self.state.join(format!("step-0-task-{task}"))).unwrap();
        kill(signal, pid.trim());
    }

    /// What `scontrol` was asked, and how many steps ran.
    fn traces(state: &Path) -> (String, String) {
        let read = |name: &str| {
            fs::read_to_string(state.join(name))
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        (read("scontrol"), read("steps"))
    }
}

/// A test that fails leaves no ranks behind.
impl Drop for Job<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        kill("KILL", &self.child.id().to_string());
        for entry in fs::read_dir(&self.state).unwrap().flatten() {
            if entry.file_name().to_string_lossy().contains("-task-") {
                kill("KILL", fs::read_to_string(entry.path()).unwrap().trim());
            }
        }
    }
}

/// Sends a signal to a process group.
fn kill(signal: &str, group: &str) {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), "--", &format!("-{group}")])
        .status();
    assert!(status.is_ok());
}

fn wait_for_steps(run: &Path, steps: usize) {
    let begun = Instant::now();
    while fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count()) < steps {
        assert!(
            begun.elapsed() < Duration::from_mins(2),
            "no {steps} steps in {}",
            run.display()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_job_that_is_signalled_or_loses_a_rank_ends_as_if_nothing_had_happened() {
    let cluster = Cluster::new();
    let lidit = Path::new(env!("CARGO_BIN_EXE_lidit"));
    let [whole, warned, killed] = ["whole", "warned", "killed"].map(|run| cluster.render(lidit, run, ""));

    let job = cluster.start(&whole, 0);
    let state = job.state.clone();
    assert_eq!(job.end(), 0, "{}", cluster.log());
    assert_eq!(Job::traces(&state), (String::new(), "1".into()));

    // The time is nearly up: the ranks are told, save, and the job queues again.
    let job = cluster.start(&warned, 0);
    let state = job.state.clone();
    wait_for_steps(&cluster.path("warned"), 3);
    (0..4).for_each(|task| job.signal(task, "USR1"));
    assert_eq!(job.end(), 75, "{}", cluster.log());
    assert_eq!(Job::traces(&state), (format!("requeue {}", cluster.job), "1".into()));
    assert!(losses(&cluster.path("warned")).len() < 30, "it saved in the middle");
    assert_eq!(cluster.start(&warned, 1).end(), 0, "{}", cluster.log());

    // A rank dies: the others name it, and all start again in the same job.
    let job = cluster.start(&killed, 0);
    let state = job.state.clone();
    wait_for_steps(&cluster.path("killed"), 7);
    job.signal(2, "KILL");
    assert_eq!(job.end(), 0, "{}", cluster.log());
    assert_eq!(Job::traces(&state), (String::new(), "2".into()));
    let log = cluster.log();
    assert!(
        log.contains("rank 2 (on ") && log.contains("restart 1 of at most 2"),
        "{log}"
    );

    for run in ["warned", "killed"] {
        assert_eq!(digest(&cluster.path(run)), digest(&cluster.path("whole")), "{run}");
        assert_eq!(losses(&cluster.path(run)), losses(&cluster.path("whole")), "{run}");
    }
}

/// A program that ends with the codes in `$CODES`: a list of ranks' codes for each step.
const ENDS: &str = "#!/bin/bash\n\
    IFS=';' read -ra steps <<<\"$CODES\"\n\
    read -ra codes <<<\"${steps[$SLURM_STEP_ID]}\"\n\
    code=${codes[$SLURM_PROCID]}\n\
    [ \"$code\" = wait ] && trap 'kill $(jobs -p); exit 75' TERM\n\
    echo \"$LIDIT_RENDEZVOUS_SECRET $*\" >>\"$FAKE_SLURM/ranks\"\n\
    [ \"$code\" = wait ] && { sleep 60 & wait; }\n\
    [ \"$code\" -gt 128 ] && kill -$((code - 128)) $$\n\
    exit \"$code\"\n";

fn ending_program(cluster: &Cluster) -> PathBuf {
    let path = cluster.path("ends.sh");
    fs::write(&path, ENDS).unwrap();
    assert!(Command::new("chmod").arg("+x").arg(&path).status().unwrap().success());
    path
}

#[test]
fn the_ends_of_ranks_decide_what_the_job_does() {
    let cluster = Cluster::new();
    let program = ending_program(&cluster);
    // (codes of the ranks, step by step; exit code; steps; queued again)
    let table = [
        ("0 0 0 0", 0, "1", false),
        ("75 75 75 75", 75, "1", true),
        // the last step of some, the stop of the others
        ("0 75 75 0", 75, "1", true),
        ("76 137 76 76;0 0 0 0", 0, "2", false),
        ("76 76 76 76;101 76 76 76;0 0 0 0", 0, "3", false),
        // restarts are bounded
        ("76 139 76 76;76 76 76 76;76 76 76 137", 137, "3", false),
        // an error of a rank's own is not hidden by its peers, nor by a crash
        ("76 76 1 76", 1, "1", false),
        ("76 2 137 76", 1, "1", false),
        ("76 137 76 76;75 75 75 75", 75, "2", true),
    ];
    for (number, (codes, code, steps, requeued)) in table.into_iter().enumerate() {
        let script = cluster.render(
            &program,
            &format!("run-{number}"),
            &format!("[environment]\nCODES = {codes:?}\n"),
        );
        let job = cluster.start(&script, 0);
        let state = job.state.clone();
        assert_eq!(job.end(), code, "{codes}: {}", cluster.log());
        let asked = if requeued {
            format!("requeue {}", cluster.job)
        } else {
            String::new()
        };
        assert_eq!(Job::traces(&state), (asked, steps.to_owned()), "{codes}");
    }
}

#[test]
fn a_cancelled_job_saves_and_does_not_come_back() {
    let cluster = Cluster::new();
    let program = ending_program(&cluster);
    let script = cluster.render(&program, "run", "[environment]\nCODES = \"wait wait wait wait\"\n");
    let job = cluster.start(&script, 0);
    let state = job.state.clone();
    let begun = Instant::now();
    while fs::read_to_string(state.join("ranks")).map_or(0, |text| text.lines().count()) < 4 {
        assert!(begun.elapsed() < Duration::from_mins(1), "{}", cluster.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    kill("TERM", &job.child.id().to_string());
    assert_eq!(job.end(), 75, "{}", cluster.log());
    assert_eq!(
        Job::traces(&state),
        (String::new(), "1".into()),
        "nobody asked for it again"
    );
}

#[test]
fn ranks_of_a_job_share_a_secret_that_is_in_no_file_and_tasks_have_runs_of_their_own() {
    let cluster = Cluster::new();
    let program = ending_program(&cluster);
    let array = "[environment]\nCODES = \"0 0 0 0\"\n[array]\nfirst = 0\nlast = 7\n";
    let script = cluster.render(&program, "seed-{index}", array);
    let ranks = |requeued| {
        let job = cluster.start(&script, requeued);
        let state = job.state.clone();
        assert_eq!(job.end(), 0, "{}", cluster.log());
        let lines = fs::read_to_string(state.join("ranks")).unwrap();
        let lines: Vec<&str> = lines.lines().collect();
        assert!(
            lines.len() == 4 && lines.iter().all(|line| *line == lines[0]),
            "{lines:?}"
        );
        let (secret, command) = lines[0].split_once(' ').unwrap();
        (secret.to_owned(), command.to_owned())
    };
    let ((secret, command), (other, _)) = (ranks(0), ranks(1));
    assert!(
        secret.len() == 64 && secret.chars().all(|digit| digit.is_ascii_hexdigit()),
        "{secret}"
    );
    assert_ne!(secret, other);
    let run_dir = cluster.path("seed-5");
    assert!(
        command.contains(&format!("--run-dir {} --resume", run_dir.display())),
        "{command}"
    );
    assert!(!fs::read_to_string(&script).unwrap().contains(&secret) && !cluster.log().contains(&secret));
    // Without a place for the number all tasks would write into one run.
    let text = fs::read_to_string(cluster.path("seed-array.toml")).unwrap();
    fs::write(cluster.path("one.toml"), text.replace("seed-{index}", "seed")).unwrap();
    let message = error(&["render", "slurm", cluster.path("one.toml").to_str().unwrap()]);
    assert!(message.contains("train.run_dir"), "{message}");
}
