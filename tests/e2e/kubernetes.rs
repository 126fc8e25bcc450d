//! The rendered Job, run as Kubernetes would run it: pods by index, each replaced as the manifest's rules say.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lidit::{debug_config, digest, json, losses};
use crate::render::documents;

/// A cluster of one host, whose "volume" is a folder.
struct Cluster {
    dir: tempfile::TempDir,
    port: u16,
}

impl Cluster {
    fn new() -> Self {
        let start = 11_000 + (std::process::id() % 900) as u16;
        let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
        Self {
            dir: tempfile::tempdir().unwrap(),
            port: (start..start + 900).find(free).unwrap(),
        }
    }

    fn run_dir(&self, run: &str) -> PathBuf {
        self.dir.path().join(run)
    }

    /// Renders a Job of `nodes` pods of `ranks` ranks that train RUN; `None` without a reader of YAML.
    fn render(&self, run: &str, [nodes, ranks]: [u32; 2]) -> Option<Job<'_>> {
        let volume = self.dir.path();
        let text = format!(
            "format_version = 1\nname = \"debug\"\nprogram = \"{}\"\ntime_limit_minutes = 10\ngrace_seconds = 30\n\
             max_restarts = 1\n\
             [train]\nconfig = \"{}\"\nrun_dir = \"{}\"\ndeadline_seconds = 60\n\
             sets = [\"train.steps=30\", \"train.checkpoint_every=5\", \"train.sample_every=0\"]\n\
             [ranks]\nnodes = {nodes}\nper_node = {ranks}\ndevice = \"cpu\"\ncpus = 1\nmemory_gib = 1\n\
             [kubernetes]\nkind = \"job\"\nnamespace = \"tests\"\nimage = \"lidit\"\npull_policy = \"Never\"\n\
             rendezvous_secret = \"meeting\"\nport = {}\nshm_gib = 1\n\
             [[kubernetes.volumes]]\nclaim = \"shared\"\nmount = \"{}\"\nread_only = false\n",
            env!("CARGO_BIN_EXE_lidit"),
            debug_config().display(),
            self.run_dir(run).display(),
            self.port,
            volume.display()
        );
        let config = volume.join(format!("{run}.toml"));
        fs::write(&config, text).unwrap();
        let report = json(&["render", "kubernetes", config.to_str().unwrap()], 0);
        let mut documents = documents(Path::new(report["files"][0].as_str().unwrap()))?;
        let spec = documents.pop().unwrap()["spec"].clone();
        let pods = (0..spec["completions"].as_u64().unwrap()).map(|_| None).collect();
        let mut job = Job {
            cluster: self,
            spec,
            pods,
            counted: 0,
            replaced: 0,
        };
        (0..job.pods.len()).for_each(|index| job.start(index));
        Some(job)
    }
}

/// A Job and its controller.
struct Job<'a> {
    cluster: &'a Cluster,
    spec: Value,
    pods: Vec<Option<Child>>,
    /// Failures that count.
    counted: u64,
    /// Pods that were started again.
    replaced: u64,
}

impl Job<'_> {
    fn start(&mut self, index: usize) {
        let container = &self.spec["template"]["spec"]["containers"][0];
        let text = |value: &Value| {
            value
                .as_str()
                .unwrap()
                .replace("$(JOB_COMPLETION_INDEX)", &index.to_string())
        };
        let mut command = Command::new(text(&container["command"][0]));
        command.args(container["args"].as_array().unwrap().iter().map(text));
        for variable in container["env"].as_array().unwrap() {
            // The Secret's value; the others are written down.
            let value = variable["value"].as_str().unwrap_or("from the Secret");
            command.env(variable["name"].as_str().unwrap(), value);
        }
        // What DNS answers for rank 0's name.
        assert_eq!(container["env"][0]["value"], "debug-0.debug");
        command
            .env("MASTER_ADDR", "127.0.0.1")
            .env("JOB_COMPLETION_INDEX", index.to_string());
        for name in ["RANK", "LOCAL_RANK", "SLURM_PROCID"] {
            command.env_remove(name);
        }
        let log = || {
            fs::File::options()
                .create(true)
                .append(true)
                .open(self.cluster.dir.path().join("log"))
                .unwrap()
        };
        command.stdin(Stdio::null()).stdout(log()).stderr(log());
        self.pods[index] = Some(command.spawn().unwrap());
    }

    /// What the manifest says about a pod that ended with `code`.
    fn action(&self, code: i32) -> String {
        let rules = self.spec["podFailurePolicy"]["rules"].as_array().unwrap();
        let rule = rules.iter().find(|rule| {
            let codes = rule["onExitCodes"]["values"].as_array();
            codes.is_some_and(|codes| codes.contains(&code.into()))
        });
        rule.map_or("Count", |rule| rule["action"].as_str().unwrap()).to_owned()
    }

    /// Replaces pods that fail, until `done` holds or pod 0 has ended well; answers whether the Job goes on or is complete.
    fn until(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        let begun = Instant::now();
        while !done(self) {
            assert!(
                begun.elapsed() < Duration::from_mins(3),
                "the Job hangs: {}",
                self.log()
            );
            for index in 0..self.pods.len() {
                let Some(status) = self.pods[index].as_mut().and_then(|pod| pod.try_wait().unwrap()) else {
                    continue;
                };
                self.pods[index] = None;
                let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
                match (code, self.action(code).as_str()) {
                    (0, _) if index == 0 => return true,
                    (0, _) => continue,
                    (_, "FailJob") => return false,
                    (_, "Count") => self.counted += 1,
                    (_, action) => assert_eq!(action, "Ignore"),
                }
                if self.counted > self.spec["backoffLimit"].as_u64().unwrap() {
                    return false;
                }
                self.replaced += 1;
                self.start(index);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    fn signal(&self, index: usize, signal: &str) {
        let pod = self.pods[index].as_ref().unwrap().id().to_string();
        assert!(
            Command::new("kill")
                .args([&format!("-{signal}"), &pod])
                .status()
                .unwrap()
                .success()
        );
    }

    fn log(&self) -> String {
        fs::read_to_string(self.cluster.dir.path().join("log")).unwrap_or_default()
    }
}

/// A Job that is over, or a test that fails, leaves no pods behind.
impl Drop for Job<'_> {
    fn drop(&mut self) {
        for pod in self.pods.iter_mut().flatten() {
            let _ = pod.kill();
            let _ = pod.wait();
        }
    }
}

fn steps(run: &Path) -> usize {
    fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

#[test]
fn pods_that_are_lost_or_told_to_go_are_replaced_and_the_run_ends_as_if_nothing_had_happened() {
    let cluster = Cluster::new();
    let never = |_: &Job| false;
    // A pod a rank, and a pod of two.
    for (shape, name) in [([2, 1], "ranks"), ([1, 2], "launched")] {
        let (whole, broken) = (format!("whole-{name}"), format!("broken-{name}"));
        let Some(mut job) = cluster.render(&whole, shape) else {
            return;
        };
        assert!(job.until(never), "{}", job.log());
        assert_eq!((job.counted, job.replaced), (0, 0), "{}", job.log());
        drop(job);

        let run = cluster.run_dir(&broken);
        let pods = u64::from(shape[0]);
        let last = shape[0] as usize - 1;
        let Some(mut job) = cluster.render(&broken, shape) else {
            return;
        };
        assert!(job.until(|_| steps(&run) >= 7), "{}", job.log());
        job.signal(last, "KILL");
        // Its replacement may meet the world that lost it, and waits until that has ended.
        assert!(job.until(|job| job.replaced == pods), "{}", job.log());
        assert_eq!(job.counted, pods, "each pod of the run failed: {}", job.log());
        assert!(job.until(|_| steps(&run) >= 15), "{}", job.log());
        // A node is drained: the pod is told, and all ranks save.
        job.signal(0, "TERM");
        assert!(job.until(never), "{}", job.log());
        assert_eq!((job.counted, job.replaced), (pods, 2 * pods), "{}", job.log());
        drop(job);
        assert_eq!(digest(&run), digest(&cluster.run_dir(&whole)));
        assert_eq!(losses(&run), losses(&cluster.run_dir(&whole)));
    }
}

#[test]
fn an_error_of_a_ranks_own_ends_the_job_at_once() {
    let cluster = Cluster::new();
    fs::create_dir(cluster.run_dir("taken")).unwrap();
    fs::write(cluster.run_dir("taken").join("notes.txt"), "not a run").unwrap();
    let Some(mut job) = cluster.render("taken", [2, 1]) else {
        return;
    };
    assert!(!job.until(|_| false), "{}", job.log());
    assert!(job.log().contains("notes.txt"), "{}", job.log());
    assert!(
        job.counted <= 1,
        "at most the other pod was seen to end first: {}",
        job.log()
    );
}
