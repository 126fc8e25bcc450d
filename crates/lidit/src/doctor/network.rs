//! The ranks' way to each other: who is there, how fast, and whether their clocks agree.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use lidit_dist::{Wire, World};

use super::check::{Check, counted};

/// What is summed over ranks to find the rate: 32 MiB, three times.
const VALUES: usize = 8 << 20;
const REPEATS: usize = 3;
/// Slower than an old network of 1 Gbit/s.
const SLOW_BYTES_PER_S: f64 = 1e8;
/// A step that waits longer than this for its gradients wants a faster network or larger batches.
const SLOW_STEP_S: f64 = 10.0;
const CLOCK_QUESTIONS: usize = 5;
/// Times in logs of several hosts can't be compared any more.
const SKEW_WARNING: f64 = 1.0;
/// Certificates and object stores refuse a clock that is some minutes off.
const SKEW_FAILED: f64 = 300.0;

/// Who is there.
pub fn ranks(world: &World, hosts: &[String]) -> Check {
    let mut names: Vec<&str> = hosts.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    Check::ok(
        "ranks",
        format!(
            "{} on {}, over {}",
            world.size(),
            counted(names.len(), "host"),
            world.transport().name()
        ),
    )
}

/// How fast gradients are summed. Collective.
pub fn bandwidth(world: &World, parameters: Option<u64>) -> Result<Check> {
    let mut values = vec![1.0_f32; VALUES];
    let mut best = Duration::MAX;
    for _ in 0..REPEATS {
        world.barrier()?;
        let begun = Instant::now();
        world
            .all_reduce_sum(&mut values, Wire::F32)
            .context("summing 32 MiB over ranks")?;
        best = best.min(begun.elapsed());
    }
    Ok(bandwidth_verdict(best.as_secs_f64(), world.size(), parameters))
}

fn bandwidth_verdict(seconds: f64, size: usize, parameters: Option<u64>) -> Check {
    // What a rank must send, at least: 2 (n - 1) / n of the vector.
    let share = 2.0 * (size - 1) as f64 / size as f64;
    let rate = share * (4 * VALUES) as f64 / seconds;
    let mut found = format!(
        "32 MiB summed in {:.0} ms, {:.2} GB/s a rank",
        1e3 * seconds,
        rate / 1e9
    );
    let step = parameters.map_or(0.0, |parameters| share * 4.0 * parameters as f64 / rate);
    if parameters.is_some() {
        found = format!("{found}; this run's gradients take {step:.2} s a step");
    }
    let advice =
        "name the fast interface (LIDIT_INTERFACE, NCCL_SOCKET_IFNAME), or sum less often with a larger global batch";
    let check = if rate < SLOW_BYTES_PER_S || step > SLOW_STEP_S {
        Check::warning("bandwidth", found, advice)
    } else {
        Check::ok("bandwidth", found)
    };
    check.of(rate)
}

/// How far the other ranks' clocks are from rank 0's, which alone answers. Collective.
pub fn clock(world: &World) -> Result<Option<Check>> {
    let mut worst = Skew::default();
    let mut rank_of_worst = 0;
    for rank in 1..world.size() {
        let mut tightest: Option<Skew> = None;
        for _ in 0..CLOCK_QUESTIONS {
            let skew = ask(world, rank)?;
            if tightest.is_none_or(|known| skew.bound < known.bound) {
                tightest = Some(skew);
            }
        }
        let skew = tightest.unwrap_or_default();
        if skew.seconds.abs() >= worst.seconds.abs() {
            (worst, rank_of_worst) = (skew, rank);
        }
    }
    Ok((world.rank() == 0).then(|| clock_verdict(worst, rank_of_worst)))
}

/// How far one clock is from another.
#[derive(Clone, Copy, Debug, Default)]
struct Skew {
    /// Ahead, in seconds.
    seconds: f64,
    /// It may be this much more or less: half of the way there and back.
    bound: f64,
}

/// Asks `rank` for its time. What it answers lies between the question and the answer on rank 0's clock.
fn ask(world: &World, rank: usize) -> Result<Skew> {
    let asked = now();
    world.broadcast(&mut vec![0], 0)?;
    let mut theirs = now().to_le_bytes().to_vec();
    world.broadcast(&mut theirs, rank)?;
    let answered = now();
    let theirs: [u8; 8] = theirs.try_into().ok().with_context(|| format!("rank {rank}'s time"))?;
    let theirs = f64::from_le_bytes(theirs);
    Ok(Skew {
        seconds: theirs - f64::midpoint(asked, answered),
        bound: (answered - asked) / 2.0,
    })
}

/// Seconds since 1970 by this host's clock.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}

fn clock_verdict(skew: Skew, rank: usize) -> Check {
    let (seconds, bound) = (skew.seconds, skew.bound);
    let found = format!(
        "rank {rank} is {:+.1} ms from rank 0, give or take {:.1} ms",
        1e3 * seconds,
        1e3 * bound
    );
    let advice = "let the hosts follow one time server (chrony, systemd-timesyncd)";
    // What can't be told apart from a slow answer is no fault of the clock.
    match seconds.abs() - bound {
        off if off > SKEW_FAILED => Check::failed("clock", found, advice),
        off if off > SKEW_WARNING => Check::warning("clock", found, advice),
        _ => Check::ok("clock", found),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Status;
    use super::*;

    #[test]
    fn a_clock_is_off_by_what_the_way_does_not_explain() {
        for (seconds, bound, status) in [
            (0.01, 0.001, Status::Ok),
            (5.0, 4.5, Status::Ok),
            (-5.0, 0.1, Status::Warning),
            (400.0, 0.1, Status::Failed),
            (-400.0, 0.1, Status::Failed),
        ] {
            assert_eq!(clock_verdict(Skew { seconds, bound }, 1).status, status, "{seconds} s");
        }
    }

    #[test]
    fn a_slow_network_is_told_with_what_a_step_would_cost() {
        let fast = bandwidth_verdict(0.01, 4, Some(1_000_000));
        assert_eq!(fast.status, Status::Ok, "{}", fast.found);
        // 1e9 parameters: 6 GB to send at 0.5 GB/s.
        let slow = bandwidth_verdict(0.1, 4, Some(1_000_000_000));
        assert_eq!(slow.status, Status::Warning);
        assert!(slow.found.contains("11.92 s a step"), "{}", slow.found);
        assert_eq!(bandwidth_verdict(10.0, 2, None).status, Status::Warning);
    }
}
