//! Several ranks on this machine: what they compute, and what they say when one of them is lost.
#![cfg(feature = "gloo")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lidit_dist::{DistError, Engine, Meeting, Place, Wire, World, process};

const DEADLINE: Duration = Duration::from_secs(20);

fn meeting() -> Meeting {
    Meeting::on_this_host("test").unwrap()
}

fn place(rank: usize, size: usize, meeting: &Meeting) -> Place {
    Place {
        meeting: Some(meeting.clone()),
        engine: Some(Engine::Gloo),
        ..Place::of(rank, size, rank)
    }
}

/// Runs `rank_main` as every rank of a world of `size`, each in a thread, and answers what they return, by rank.
fn with_ranks<T: Send>(size: usize, rank_main: impl Fn(World) -> T + Sync) -> Vec<T> {
    let meeting = meeting();
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..size)
            .map(|rank| {
                let (meeting, rank_main) = (&meeting, &rank_main);
                scope.spawn(move || rank_main(World::join(&place(rank, size, meeting), DEADLINE).unwrap()))
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Values whose sum depends on its order, different for each rank.
fn values(rank: usize, len: usize) -> Vec<f32> {
    let mut state = rank as u32 * 7919 + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..len).map(|_| next() * 10f32.powi((next() * 4.0) as i32)).collect()
}

fn sum_in_rank_order(size: usize, len: usize) -> Vec<f32> {
    let mut sum = values(0, len);
    for rank in 1..size {
        sum.iter_mut()
            .zip(values(rank, len))
            .for_each(|(sum, value)| *sum += value);
    }
    sum
}

/// Long enough for several segments of unequal lengths, and short enough for one hop.
const LENGTHS: [usize; 5] = [0, 1, 5, 4096, 1_300_003];

#[test]
fn sums_are_those_of_rank_order_on_every_rank() {
    for size in [2, 3] {
        let sums = with_ranks(size, |world| {
            LENGTHS.map(|len| {
                let mut values = values(world.rank(), len);
                world.all_reduce_sum(&mut values, Wire::F32).unwrap();
                values
            })
        });
        for sums in sums {
            for (sum, len) in sums.iter().zip(LENGTHS) {
                assert!(*sum == sum_in_rank_order(size, len), "{size} ranks, {len} values");
            }
        }
    }
}

#[test]
fn a_vector_of_many_segments_is_summed_whole() {
    // Each rank's part is longer than all segments that are on their way at once.
    let len = 6_000_003;
    let expected = sum_in_rank_order(2, len);
    for sum in with_ranks(2, |world| {
        let mut values = values(world.rank(), len);
        world.all_reduce_sum(&mut values, Wire::F32).unwrap();
        values
    }) {
        assert!(sum == expected);
    }
}

/// Ranges of any lengths, an empty one among them, with gaps between.
fn uneven(size: usize, len: usize) -> Vec<Range<usize>> {
    let mut ranges = vec![0..len / 7, len / 7..len / 7, len / 3..len - 1];
    ranges.drain(..3 - size);
    ranges
}

#[test]
fn a_range_reduced_alone_has_the_bits_of_the_whole() {
    let len = 1_300_003;
    for size in [2, 3] {
        let reduced = with_ranks(size, |world| {
            let ranges = uneven(size, len);
            let mut values = values(world.rank(), len);
            world.reduce_scatter_sum(&mut values, &ranges, Wire::F32).unwrap();
            values[ranges[world.rank()].clone()].to_vec()
        });
        let whole = sum_in_rank_order(size, len);
        for (range, reduced) in uneven(size, len).into_iter().zip(reduced) {
            assert!(whole[range.clone()] == reduced, "{size} ranks, {range:?}");
        }
    }
}

/// The nearest bf16 of a finite value, ties to even, as f32.
fn bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}

#[test]
fn summands_in_bf16_are_added_in_f32_whole_or_in_ranges() {
    let len = 1_300_003;
    for size in [2, 3] {
        let sums = with_ranks(size, |world| {
            let ranges = uneven(size, len);
            let mut whole = values(world.rank(), len);
            world.all_reduce_sum(&mut whole, Wire::Bf16).unwrap();
            let mut part = values(world.rank(), len);
            world.reduce_scatter_sum(&mut part, &ranges, Wire::Bf16).unwrap();
            let own = ranges[world.rank()].clone();
            assert!(whole[own.clone()] == part[own], "{size} ranks");
            whole
        });
        let mut expected = vec![0.0; len];
        for rank in 0..size {
            for (sum, value) in expected.iter_mut().zip(values(rank, len)) {
                *sum += bf16(value);
            }
        }
        for sum in sums {
            assert!(sum == expected, "{size} ranks");
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_stays_so_in_bf16() {
    let sums = with_ranks(2, |world| {
        let mut values = [[f32::NAN, f32::INFINITY, f32::MAX], [0.0; 3]][world.rank()].to_vec();
        world.all_reduce_sum(&mut values, Wire::Bf16).unwrap();
        values
    });
    for sum in sums {
        assert!(
            sum[0].is_nan() && sum[1] == f32::INFINITY && sum[2] == f32::INFINITY,
            "{sum:?}"
        );
    }
}

#[test]
fn an_interface_is_chosen_by_prefix_and_an_unknown_one_is_refused() {
    let meeting = meeting();
    let join = |interface: &str| {
        let outcomes: Vec<_> = thread::scope(|scope| {
            let ranks = [0, 1].map(|rank| {
                let place = Place {
                    interface: Some(interface.into()),
                    ..place(rank, 2, &meeting)
                };
                scope.spawn(move || World::join(&place, DEADLINE).and_then(|world| world.max(world.rank() as u64)))
            });
            ranks.map(|rank| rank.join().unwrap()).into()
        });
        outcomes
    };
    assert!(join("127.0.0.0/8").into_iter().all(|most| most.unwrap() == 1));
    for error in join("nosuch0") {
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("LIDIT_INTERFACE=nosuch0: no interface"), "{error}");
    }
}

#[test]
fn gathered_ranges_are_their_owners() {
    let len = 1_300_003;
    for size in [2, 3] {
        let gathered = with_ranks(size, |world| {
            let mut values = values(world.rank(), len);
            world.all_gather(&mut values, &uneven(size, len)).unwrap();
            values
        });
        for (rank, gathered) in gathered.into_iter().enumerate() {
            let mut expected = values(rank, len);
            for (owner, range) in uneven(size, len).into_iter().enumerate() {
                expected[range.clone()].copy_from_slice(&values(owner, len)[range]);
            }
            assert!(gathered == expected, "rank {rank} of {size}");
        }
    }
}

#[test]
fn small_collectives_agree() {
    let answers = with_ranks(3, |world| {
        let rank = world.rank() as u64;
        let most = world.max([5, u64::MAX - 1, 0][world.rank()]).unwrap();
        let mut sums = [rank as f64 + 0.5, 1e300];
        world.sum_f64(&mut sums).unwrap();
        let mut bytes = vec![rank as u8; 10 * world.rank()];
        world.broadcast(&mut bytes, 2).unwrap();
        let mut none = vec![1; world.rank()];
        world.broadcast(&mut none, 0).unwrap();
        world.barrier().unwrap();
        (most, sums, bytes, none)
    });
    for answer in answers {
        assert_eq!(answer, (u64::MAX - 1, [4.5, 3e300], vec![2; 20], vec![]));
    }
}

#[test]
fn the_missing_rank_is_named() {
    let meeting = meeting();
    let errors: Vec<DistError> = thread::scope(|scope| {
        let join = |rank| {
            let place = place(rank, 4, &meeting);
            scope.spawn(move || World::join(&place, Duration::from_secs(1)).err().unwrap())
        };
        let ranks = [join(0), join(3)];
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    for error in errors {
        assert!(error.is_peer_failure());
        let text = error.to_string();
        assert!(text.starts_with("ranks 1, 2 did not come to the rendezvous"), "{text}");
        // Both ranks that came know where the other one is.
        let came = format!("(ranks 0, 3 (on {}) did)", process::host_name());
        assert!(text.contains(&came), "{text}");
    }
}

#[test]
fn a_missing_rank_0_is_named() {
    let error = World::join(&place(1, 2, &meeting()), Duration::from_millis(300))
        .err()
        .unwrap();
    assert!(error.to_string().starts_with("rank 0 did not come"), "{error}");
}

#[test]
fn a_rank_that_returns_early_is_named_by_the_others() {
    let errors = with_ranks(3, |world| {
        if world.rank() == 1 {
            return None;
        }
        let mut values = vec![0.0; 1 << 20];
        let first = world.all_reduce_sum(&mut values, Wire::F32).unwrap_err();
        let later = world.barrier().unwrap_err();
        Some((first, later))
    });
    assert!(errors[1].is_none());
    for (first, later) in errors.into_iter().flatten() {
        assert!(
            first.to_string().starts_with(&format!(
                "rank 1 (on {}) failed or did not answer in all_reduce_sum",
                process::host_name()
            )),
            "{first}"
        );
        assert!(first.is_peer_failure() && later.is_peer_failure());
        assert!(
            later.to_string().contains("rank 1 (on ") && later.to_string().contains("ended before"),
            "{later}"
        );
    }
}

/// A rank in a process of its own: joins, says so, and then exchanges for ever. Does nothing unless a test starts it.
#[test]
fn rank_process() {
    let Ok(seconds) = std::env::var("LIDIT_TEST_DEADLINE") else {
        return;
    };
    let world = World::from_env(Duration::from_secs(seconds.parse().unwrap())).unwrap();
    let mut values = vec![1.0; 1 << 18];
    for step in 0.. {
        if let Err(error) = world.all_reduce_sum(&mut values, Wire::F32) {
            assert!(error.is_peer_failure());
            println!("\nended by: {error}");
            return;
        }
        if step == 0 {
            println!("\njoined");
        }
        values.fill(1.0);
    }
}

fn start_ranks(size: usize, deadline: u64) -> Vec<Child> {
    let meeting = meeting();
    (0..size)
        .map(|rank| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "rank_process", "--nocapture", "--test-threads", "1"])
                .envs([
                    ("RANK", rank.to_string()),
                    ("WORLD_SIZE", size.to_string()),
                    ("MASTER_ADDR", meeting.host.clone()),
                    ("MASTER_PORT", meeting.port.to_string()),
                    ("LIDIT_RENDEZVOUS_SECRET", meeting.secret.clone()),
                    ("LIDIT_LAUNCH_ATTEMPT", "0".into()),
                    ("LIDIT_TRANSPORT", "gloo".into()),
                    ("LIDIT_TEST_DEADLINE", deadline.to_string()),
                ])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect()
}

/// Reads the child's output until a line begins with `start`; answers the rest of that line.
fn line_after(child: &mut Child, start: &str) -> String {
    use std::io::{BufRead, BufReader};
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    let line = lines
        .find(|line| line.starts_with(start))
        .unwrap_or_else(|| panic!("no {start:?} from a rank"));
    line[start.len()..].to_string()
}

/// Starts 3 ranks, sends `signal` to `victim` once all exchange, and checks that the others name it in time.
fn lose(victim: usize, signal: &str, deadline: u64) {
    let mut ranks = start_ranks(3, deadline);
    for rank in &mut ranks {
        line_after(rank, "joined");
    }
    let mut lost = ranks.remove(victim);
    assert!(
        Command::new("kill")
            .args([signal, &lost.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    let since = Instant::now();
    for mut rank in ranks {
        let message = line_after(&mut rank, "ended by: ");
        assert!(
            message.starts_with(&format!(
                "rank {victim} (on {}) failed or did not answer",
                process::host_name()
            )),
            "{signal}: {message}"
        );
        assert!(rank.wait().unwrap().success());
    }
    assert!(
        since.elapsed() < Duration::from_secs(deadline + 10),
        "{signal}: the others hung"
    );
    lost.kill().unwrap();
    lost.wait().unwrap();
}

#[test]
fn a_killed_rank_is_named_by_the_others() {
    lose(1, "-KILL", 5);
}

#[test]
fn a_killed_rank_0_is_named_by_the_others() {
    lose(0, "-KILL", 5);
}

#[test]
fn a_stopped_rank_is_named_by_the_others() {
    lose(2, "-STOP", 2);
}
