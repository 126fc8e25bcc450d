//! `lidit bench checkpoint`: what saving a state costs training, and what going on from it costs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use lidit_train::{SaveBench, Stop, readable_bytes};
use serde_json::json;

use crate::outcome::Outcome;

/// Arguments of `lidit bench checkpoint`.
#[derive(clap::Args)]
pub struct Args {
    /// Parameters of the state, of which masters, two moments and one average are saved: 16 bytes each.
    #[arg(long, value_name = "COUNT", default_value = "100M", value_parser = count)]
    params: usize,
    /// The folder to write in, on the disk in question; what is written there is removed, after Ctrl-C too (once the
    /// save or read under way has ended; a second Ctrl-C ends at once and leaves it).
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Times that it is saved and read, after a first one that is not counted.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
}

/// Saves with training's writer, in an otherwise idle process.
pub fn run(args: &Args) -> Result<Outcome> {
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    let stop = Stop::on_signals()?;
    let go_on = || {
        ensure!(!stop.is_requested(), "stopped by a signal: what was written is removed");
        Ok(())
    };
    let folder = args.dir.join(format!("lidit-bench-{}", std::process::id()));
    let mut bench = SaveBench::new(&folder, args.params)?;
    go_on()?;
    bench.save()?;
    let (mut stalls, mut writes, mut verifies, mut loads) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    for _ in 0..args.rounds {
        go_on()?;
        let saved = bench.save()?;
        go_on()?;
        let read = bench.read()?;
        bytes = saved.bytes;
        stalls.push(saved.stall);
        writes.push(saved.write);
        verifies.push(read.verify);
        loads.push(read.load);
    }
    let hash = bench.hash();
    let [stall, write, verify, load] = [&mut stalls, &mut writes, &mut verifies, &mut loads].map(|all| median(all));
    let text = format!(
        "{} in {} rounds (medians): training waits {stall:.3} s; written, on the disk and read back after {write:.3} s, \
         of which two times {:.3} s is SHA-256; to go on: {verify:.3} s to verify, {load:.3} s to load",
        readable_bytes(bytes as f64),
        args.rounds,
        hash.as_secs_f64(),
    );
    let seconds = |all: &[Duration]| all.iter().map(Duration::as_secs_f64).collect::<Vec<_>>();
    let json = json!({
        "params": args.params,
        "bytes": bytes,
        "median_ms": write * 1e3,
        "items_per_s": 1.0 / write,
        "bytes_per_s": bytes as f64 / write,
        "stall_ms": stall * 1e3,
        "verify_ms": verify * 1e3,
        "load_ms": load * 1e3,
        "sha256_ms": hash.as_secs_f64() * 1e3,
        "stalls_s": seconds(&stalls),
        "writes_s": seconds(&writes),
    });
    Ok(Outcome::done(text, json))
}

fn median(all: &mut [Duration]) -> f64 {
    all.sort();
    all[all.len() / 2].as_secs_f64()
}

/// A number with k, M or G behind it, or none of them.
fn count(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.char_indices().next_back() {
        Some((at, 'k')) => (&text[..at], 1e3),
        Some((at, 'M')) => (&text[..at], 1e6),
        Some((at, 'G')) => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| format!("`{text}` is no number such as 100M"))?;
    let count = (number * unit).round();
    if (1.0..=1e12).contains(&count) {
        Ok(count as usize)
    } else {
        Err(format!("{text} parameters: from 1 to 1000G"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_units() {
        assert_eq!(count("100M"), Ok(100_000_000));
        assert_eq!(count("1.5k"), Ok(1500));
        assert_eq!(count("7"), Ok(7));
        for wrong in ["", "M", "-1", "0", "1T"] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
    }
}
