//! The process's own limits.

use super::check::{Check, counted};

/// Files and connections that a rank has open beside one connection a peer: shards, logs, event files, libraries.
const OWN_FILES: u64 = 128;
/// What a system without reasons to be stingy allows.
const ROOMY: u64 = 4096;

/// The program. Ranks of two versions would not understand each other's files.
pub fn version() -> Check {
    let mut engines = Vec::new();
    if cfg!(feature = "gloo") {
        engines.push("gloo");
    }
    if cfg!(feature = "nccl") {
        engines.push("nccl");
    }
    if cfg!(feature = "cuda") {
        engines.push("cuda");
    }
    let with = if engines.is_empty() {
        "none of gloo, nccl, cuda".to_owned()
    } else {
        engines.join(", ")
    };
    Check::agreed(
        "version",
        format!("lidit {}, built with {with}", env!("CARGO_PKG_VERSION")),
    )
}

/// Cores for this host's ranks.
pub fn cores(ranks_on_host: usize) -> Check {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = std::env::var("RAYON_NUM_THREADS")
        .ok()
        .and_then(|text| text.parse::<usize>().ok());
    cores_verdict(cores, threads, ranks_on_host)
}

fn cores_verdict(cores: usize, threads: Option<usize>, ranks: usize) -> Check {
    // Without the variable every rank takes all cores that it may use.
    let wanted = threads.unwrap_or(cores) * ranks;
    let (ranks_here, each) = (counted(ranks, "rank"), counted(threads.unwrap_or(cores), "thread"));
    let found = format!("{cores} for {ranks_here} of {each}");
    if ranks > 1 && wanted > 2 * cores {
        return Check::warning(
            "cores",
            found,
            "ranks get into each other's way: set RAYON_NUM_THREADS to a rank's share",
        );
    }
    Check::ok("cores", found)
}

/// The limit of open files and connections.
pub fn open_files(world_size: usize) -> Check {
    match std::fs::read_to_string("/proc/self/limits")
        .ok()
        .and_then(|limits| soft_limit(&limits))
    {
        Some(limit) => files_verdict(limit, world_size),
        None => Check::warning("open files", "the limit can't be read", "look at `ulimit -n`"),
    }
}

/// The soft limit in `/proc/self/limits`; `u64::MAX` for none.
fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn files_verdict(limit: u64, world_size: usize) -> Check {
    let needed = OWN_FILES + 2 * world_size as u64;
    let found = format!("at most {limit}, about {needed} are needed");
    let advice = "raise it: `ulimit -n 65536` before the launch, or LimitNOFILE of what launches";
    if limit < needed {
        Check::failed("open files", found, advice)
    } else if limit < needed.max(ROOMY) && limit < 2 * needed {
        Check::warning("open files", found, advice)
    } else {
        Check::ok("open files", found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;

    #[test]
    fn the_limit_of_open_files_grows_with_the_world() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
            Max open files            1024                 524288               files\n";
        assert_eq!(soft_limit(limits), Some(1024));
        assert_eq!(
            soft_limit("Max open files            unlimited   unlimited   files"),
            Some(u64::MAX)
        );
        assert_eq!(soft_limit("Max processes 3 3 processes"), None);
        for (limit, world, status) in [
            (1024, 1, Status::Ok),
            (1024, 300, Status::Warning),
            (1024, 512, Status::Failed),
            (64, 1, Status::Failed),
            (u64::MAX, 4096, Status::Ok),
        ] {
            assert_eq!(
                files_verdict(limit, world).status,
                status,
                "{limit} files, {world} ranks"
            );
        }
    }

    #[test]
    fn ranks_that_each_take_all_cores_are_warned_of() {
        assert_eq!(cores_verdict(16, None, 1).status, Status::Ok);
        assert_eq!(cores_verdict(16, Some(2), 8).status, Status::Ok);
        assert_eq!(cores_verdict(16, None, 8).status, Status::Warning);
    }
}
