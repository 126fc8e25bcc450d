//! `lidit bench comm`: what the collectives of a world do in a second, and whether they do it right.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use lidit_dist::{Transport, Wire, World};
use serde_json::{Value, json};

use crate::outcome::Outcome;

/// Arguments of `lidit bench comm`, which every rank runs: `lidit launch --nproc 2 -- bench comm`.
#[derive(clap::Args)]
pub struct Args {
    /// Megabytes (10^6 bytes) of f32 that each rank has.
    #[arg(long, value_name = "MB", default_value_t = 100)]
    mb: usize,
    /// How often each collective is timed, after one that is not.
    #[arg(long, value_name = "N", default_value_t = 10)]
    rounds: usize,
    /// How long the ranks wait for each other, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    deadline: u64,
}

/// Checks and times each collective.
pub fn run(args: &Args) -> Result<Outcome> {
    ensure!(args.mb > 0 && args.rounds > 0, "--mb and --rounds must be at least 1");
    let world = World::from_env(Duration::from_secs(args.deadline))?;
    if matches!(world.transport(), Transport::Solo) {
        bail!("a process alone has nobody to talk to: lidit launch --nproc 2 -- bench comm");
    }
    let bench = Bench::new(&world, args.mb * 1_000_000 / size_of::<f32>());
    let mut timings = Vec::new();
    for collective in Collective::ALL {
        timings.push(bench.time(collective, args.rounds)?);
    }
    let transport = world.transport().name();
    let mut text = format!("{} ranks over {transport}, {} MB of f32 each\n", world.size(), args.mb);
    timings.iter().for_each(|timing| text.push_str(&timing.line()));
    let json = json!({
        "transport": transport,
        "world_size": world.size(),
        "mb": args.mb,
        "median_ms": timings[0].median() * 1e3,
        "items_per_s": 1.0 / timings[0].median(),
        "collectives": timings.iter().map(Timing::json).collect::<Vec<_>>(),
    });
    Ok(Outcome::done(
        if world.rank() == 0 { text } else { String::new() },
        json,
    ))
}

/// What is timed.
#[derive(Clone, Copy, Debug)]
enum Collective {
    AllReduce(Wire),
    ReduceScatter(Wire),
    AllGather,
}

impl Collective {
    const ALL: [Self; 5] = [
        Self::AllReduce(Wire::F32),
        Self::ReduceScatter(Wire::F32),
        Self::AllGather,
        Self::AllReduce(Wire::Bf16),
        Self::ReduceScatter(Wire::Bf16),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::AllReduce(Wire::F32) => "all_reduce",
            Self::AllReduce(Wire::Bf16) => "all_reduce_bf16",
            Self::ReduceScatter(Wire::F32) => "reduce_scatter",
            Self::ReduceScatter(Wire::Bf16) => "reduce_scatter_bf16",
            Self::AllGather => "all_gather",
        }
    }
}

/// A world, and the vector that it works on.
struct Bench<'a> {
    world: &'a World,
    len: usize,
    ranges: Vec<Range<usize>>,
}

impl<'a> Bench<'a> {
    fn new(world: &'a World, len: usize) -> Self {
        let size = world.size();
        let ranges = (0..size).map(|rank| len * rank / size..len * (rank + 1) / size);
        Self {
            world,
            len,
            ranges: ranges.collect(),
        }
    }

    /// A small whole number: sums of some ranks' are exact in f32 and in bf16.
    fn value(rank: usize, i: usize) -> f32 {
        ((i * 31 + rank * 17) % 61) as f32 - 30.0
    }

    fn time(&self, collective: Collective, rounds: usize) -> Result<Timing> {
        let mut values: Vec<f32> = (0..self.len).map(|i| Self::value(self.world.rank(), i)).collect();
        self.run(collective, &mut values)?;
        self.check(collective, &values)?;
        let mut seconds = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            // What is summed again and again would leave the numbers that are quick to add.
            values.fill(1.0);
            self.world.barrier()?;
            let begun = Instant::now();
            self.run(collective, &mut values)?;
            // The slowest rank's time is the collective's.
            let nanoseconds = self.world.max(begun.elapsed().as_nanos() as u64)?;
            seconds.push(nanoseconds as f64 * 1e-9);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(Timing {
            collective,
            bytes: size_of_val(values.as_slice()),
            seconds,
        })
    }

    fn run(&self, collective: Collective, values: &mut [f32]) -> Result<()> {
        match collective {
            Collective::AllReduce(wire) => self.world.all_reduce_sum(values, wire)?,
            Collective::ReduceScatter(wire) => self.world.reduce_scatter_sum(values, &self.ranges, wire)?,
            Collective::AllGather => self.world.all_gather(values, &self.ranges)?,
        }
        Ok(())
    }

    /// Compares with what this process computes alone.
    fn check(&self, collective: Collective, values: &[f32]) -> Result<()> {
        let (rank, size) = (self.world.rank(), self.world.size());
        let sum = |i| (0..size).map(|rank| Self::value(rank, i)).sum::<f32>();
        let wrong = match collective {
            Collective::AllReduce(_) => (0..self.len).find(|&i| values[i].to_bits() != sum(i).to_bits()),
            Collective::ReduceScatter(_) => self.ranges[rank]
                .clone()
                .find(|&i| values[i].to_bits() != sum(i).to_bits()),
            Collective::AllGather => {
                let owned = self.ranges.iter().enumerate();
                owned
                    .flat_map(|(owner, range)| range.clone().map(move |i| (owner, i)))
                    .find_map(|(owner, i)| (values[i].to_bits() != Self::value(owner, i).to_bits()).then_some(i))
            }
        };
        if let Some(i) = wrong {
            bail!(
                "{} on rank {rank}: element {i} is {}: wrong",
                collective.name(),
                values[i]
            );
        }
        Ok(())
    }
}

/// What a collective's rounds took.
struct Timing {
    collective: Collective,
    /// Of each rank's vector in f32.
    bytes: usize,
    /// Ascending.
    seconds: Vec<f64>,
}

impl Timing {
    fn median(&self) -> f64 {
        self.seconds[self.seconds.len() / 2]
    }

    fn gb_per_s(&self) -> f64 {
        self.bytes as f64 / self.median() / 1e9
    }

    fn line(&self) -> String {
        format!(
            "{:<20} {:8.1} ms (median of {}, {:.1} to {:.1}), {:.2} GB/s\n",
            self.collective.name(),
            self.median() * 1e3,
            self.seconds.len(),
            self.seconds.first().unwrap_or(&f64::NAN) * 1e3,
            self.seconds.last().unwrap_or(&f64::NAN) * 1e3,
            self.gb_per_s()
        )
    }

    fn json(&self) -> Value {
        json!({
            "name": self.collective.name(),
            "median_ms": self.median() * 1e3,
            "gb_per_s": self.gb_per_s(),
            "seconds": self.seconds,
        })
    }
}
