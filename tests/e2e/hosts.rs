//! Two hosts, each a network and a host name of its own on this machine. Needs root and iproute2.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::lidit::{command, debug_config, stderr};

const PREFIX: &str = "10.98.76";
const DEADLINE: u64 = 10;

/// Two network namespaces joined by a pair of veth; gone when this is dropped.
struct Hosts {
    names: [String; 2],
    ranks: Vec<Child>,
}

fn ip(args: &[&str]) -> bool {
    let status = Command::new("ip").args(args).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Hosts {
    /// `None`, and a line that says so, where namespaces can't be had.
    fn new() -> Option<Self> {
        let hosts = Self {
            names: ["a", "b"].map(|side| format!("lidit-{}-{side}", std::process::id())),
            ranks: Vec::new(),
        };
        let [a, b] = &hosts.names;
        let made = ip(&["netns", "add", a])
            && ip(&["netns", "add", b])
            && ip(&[
                "-n", a, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", b,
            ])
            && hosts.names.iter().enumerate().all(|(rank, name)| {
                ip(&[
                    "-n",
                    name,
                    "addr",
                    "add",
                    &format!("{PREFIX}.{}/24", rank + 1),
                    "dev",
                    "wire",
                ]) && ip(&["-n", name, "link", "set", "wire", "up"])
                    && ip(&["-n", name, "link", "set", "lo", "up"])
            });
        if !made {
            println!("not run: two hosts need root and iproute2");
        }
        made.then_some(hosts)
    }

    /// Starts a rank of the debug run on each host. It ends only when something fails.
    fn train(&mut self, run_dir: &Path) {
        for (rank, host) in ["node-a", "node-b"].into_iter().enumerate() {
            let config = debug_config();
            let deadline = DEADLINE.to_string();
            let train = command(&[
                "train",
                config.to_str().unwrap(),
                "--run-dir",
                run_dir.to_str().unwrap(),
                "--deadline",
                &deadline,
                "--set",
                "train.steps=100000",
            ]);
            let script = "echo $0 > /proc/sys/kernel/hostname; exec \"$@\"";
            let child = Command::new("ip")
                .args([
                    "netns",
                    "exec",
                    &self.names[rank],
                    "unshare",
                    "--uts",
                    "sh",
                    "-c",
                    script,
                    host,
                ])
                .arg(train.get_program())
                .args(train.get_args())
                .envs([
                    ("RANK", rank.to_string()),
                    ("WORLD_SIZE", "2".into()),
                    ("MASTER_ADDR", format!("{PREFIX}.1")),
                    ("MASTER_PORT", "29500".into()),
                    ("LIDIT_RENDEZVOUS_SECRET", "s".into()),
                    ("LIDIT_INTERFACE", format!("{PREFIX}.0/24")),
                    ("RAYON_NUM_THREADS", "1".into()),
                ])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn();
            self.ranks.push(child.unwrap());
        }
    }

    fn cut(&self) {
        assert!(ip(&["-n", &self.names[0], "link", "set", "wire", "down"]));
    }

    /// What each rank leaves behind, once all have ended.
    fn ends(&mut self) -> Vec<Output> {
        let ends = std::mem::take(&mut self.ranks).into_iter();
        ends.map(|rank| rank.wait_with_output().unwrap()).collect()
    }

    fn are_done(&mut self) -> bool {
        self.ranks.iter_mut().all(|rank| rank.try_wait().unwrap().is_some())
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for rank in &mut self.ranks {
            let _ = rank.kill();
            let _ = rank.wait();
        }
        for name in &self.names {
            ip(&["netns", "del", name]);
        }
    }
}

fn wait(what: &str, seconds: u64, mut is_done: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !is_done() {
        assert!(begun.elapsed() < Duration::from_secs(seconds), "{what} takes too long");
        thread::sleep(Duration::from_millis(50));
    }
    begun.elapsed()
}

#[test]
fn a_cut_link_ends_both_ranks_and_each_names_the_others_host() {
    let Some(mut hosts) = Hosts::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    hosts.train(&run_dir);
    let steps = || std::fs::read_to_string(run_dir.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    wait("three steps of two hosts", 120, || steps() >= 3 || hosts.are_done());
    hosts.cut();
    let took = wait("the end of both ranks", DEADLINE + 30, || hosts.are_done());
    println!(
        "both ranks ended {:.1} s after the cut, deadline {DEADLINE} s",
        took.as_secs_f64()
    );
    let ends = hosts.ends();
    for (end, lost) in ends.iter().zip(["rank 1 (on node-b)", "rank 0 (on node-a)"]) {
        let text = stderr(end);
        assert_eq!(end.status.code(), Some(76), "{text}");
        assert!(text.contains(&format!("{lost} failed or did not answer")), "{text}");
    }
}
