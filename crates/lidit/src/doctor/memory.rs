//! `lidit plan`'s bytes against what the device has.

use std::fs;
use std::path::Path;

use lidit_dist::gpu;
use lidit_train::{Remember, RunConfig, readable_bytes};

use super::check::Check;
use super::gpu::ordinal;
use crate::device::DeviceArg;
use crate::plan::Plan;

/// The plan leaves out kernels' buffers and what the allocator wastes.
const TIGHT: f64 = 0.85;

/// What a rank of this host needs, and has.
pub fn checks(plan: &Plan, config: &RunConfig, device: DeviceArg, local_rank: usize, on_host: usize) -> Vec<Check> {
    let remembers = config.encoders.remember == Remember::Dataset && config.encoders.features.is_none();
    let remembered = if remembers { plan.encoders.remember_bytes } else { 0.0 };
    let total = plan.memory.total() as f64;
    let host = host_memory();
    match device {
        DeviceArg::Cpu => vec![verdict("memory", on_host as f64 * (total + remembered), host, on_host)],
        DeviceArg::Cuda(_) => {
            let gpus = gpu::driver().map(|driver| driver.gpus).unwrap_or_default();
            let own = gpus.get(ordinal(device, local_rank)).map(|gpu| gpu.memory as f64);
            vec![
                verdict("gpu memory", total, own, 1),
                verdict("memory", on_host as f64 * remembered, host, on_host),
            ]
        }
    }
}

fn verdict(name: &str, needed: f64, has: Option<f64>, ranks: usize) -> Check {
    let advice = "lower train.micro_batch, set train.recompute_blocks, take train.sharding = \"zero1\" over more ranks, or cache the prompts (`lidit plan` says what takes what)";
    let whose = if ranks > 1 {
        format!(" for {ranks} ranks")
    } else {
        String::new()
    };
    let needs = format!("about {}{whose}", readable_bytes(needed));
    match has {
        None => Check::warning(
            name,
            format!("{needs}; what there is can't be read"),
            "compare it by hand",
        ),
        Some(has) => {
            let found = format!("{needs}, {} are there", readable_bytes(has));
            let check = if needed > has {
                Check::failed(name, found, advice)
            } else if needed > TIGHT * has {
                Check::warning(name, found, advice)
            } else {
                Check::ok(name, found)
            };
            check.of(has - needed)
        }
    }
}

/// Bytes that processes of this host may still take: what is free, or what a job's limit allows.
pub fn host_memory() -> Option<f64> {
    memory_below(Path::new("/"))
}

fn memory_below(root: &Path) -> Option<f64> {
    let free = available(&fs::read_to_string(root.join("proc/meminfo")).ok()?)?;
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limit = control_group_limit(root, &groups);
    Some(limit.map_or(free, |limit| limit.min(free)) as f64)
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// The tightest limit of this process's control groups and those above them, version 2 and version 1.
fn control_group_limit(root: &Path, groups: &str) -> Option<u64> {
    let mut tightest = None;
    for group in groups.lines() {
        let mut parts = group.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (mount, file) = match controllers {
            "" => (root.join("sys/fs/cgroup"), "memory.max"),
            names if names.split(',').any(|name| name == "memory") => {
                (root.join("sys/fs/cgroup/memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // In a container the path may be the host's, and the limit lies at the mount itself.
        let own = mount.join(path.trim_start_matches('/'));
        let folders = own.ancestors().take_while(|folder| folder.starts_with(&mount));
        let limits = folders.filter_map(|folder| fs::read_to_string(folder.join(file)).ok());
        let lowest = limits.filter_map(|text| text.trim().parse::<u64>().ok()).min();
        tightest = [tightest, lowest].into_iter().flatten().min();
    }
    tightest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::check::Status;
    use super::*;

    #[test]
    fn what_does_not_fit_has_failed_and_what_is_tight_is_warned_of() {
        for (needed, has, status) in [
            (1e9, Some(2e9), Status::Ok),
            (1.8e9, Some(2e9), Status::Warning),
            (2.1e9, Some(2e9), Status::Failed),
            (1.0, None, Status::Warning),
        ] {
            assert_eq!(verdict("memory", needed, has, 2).status, status, "{needed} of {has:?}");
        }
    }

    #[test]
    fn a_jobs_limit_counts_wherever_it_is_set() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/meminfo", "MemTotal: 99 kB\nMemAvailable:   4000 kB\n");
        assert_eq!(memory_below(root), Some(4_096_000.0), "no control groups at all");
        write("proc/self/cgroup", "0::/slurm/job_1/step_0\n");
        write("sys/fs/cgroup/slurm/job_1/step_0/memory.max", "max\n");
        assert_eq!(memory_below(root), Some(4_096_000.0));
        write("sys/fs/cgroup/slurm/job_1/memory.max", "1000000\n");
        assert_eq!(memory_below(root), Some(1e6), "the job's limit holds for its steps");
        write("proc/self/cgroup", "5:cpu,memory:/docker/abc\n");
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "500000\n");
        assert_eq!(memory_below(root), Some(5e5), "in a container");
    }
}
