//! `lidit launch`: several processes of one run on this machine, restarted together.

mod rank;

use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lidit_dist::{Meeting, process};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGKILL, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use self::rank::Rank;
use crate::outcome::{Exit, Outcome};

/// How often ends and signals are looked for.
const POLL: Duration = Duration::from_millis(20);
/// How long a rank has between SIGTERM and SIGKILL.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// A panic's exit code.
const PANIC: i32 = 101;
/// Tells attempts apart.
pub const ATTEMPT: &str = "LIDIT_LAUNCH_ATTEMPT";
const STOPPED: i32 = 75;
const PEER_FAILED: i32 = 76;

/// Arguments of `lidit launch`.
#[derive(clap::Args)]
pub struct Args {
    /// How many processes, each a rank of the run.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    nproc: u16,
    /// How often all ranks are started again, to go on where they were, after one crashed or lost a peer.
    #[arg(long, value_name = "K", default_value_t = 0)]
    max_restarts: u32,
    /// How long the other ranks have to end by themselves after one failed, in seconds, before they are stopped.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace: u64,
    /// How many hosts run this same command, each with N processes; the environment says where they meet (`MASTER_ADDR`,
    /// `MASTER_PORT`, `LIDIT_RENDEZVOUS_SECRET`), and restarts are for what started the hosts' launchers.
    #[arg(long, value_name = "H", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    nodes: u16,
    /// Which of the hosts this is, from 0.
    #[arg(long, value_name = "I", default_value_t = 0)]
    node: u16,
    /// The lidit command that every rank runs: `train CONFIG ..`, `cache CONFIG --out DIR` or `doctor CONFIG`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the ranks to their end.
pub fn run(args: &Args) -> Result<Outcome> {
    if args.command.first().is_some_and(|command| command == "launch") {
        bail!("launch can't launch launch: name the command that every rank runs, such as train CONFIG");
    }
    if args.node >= args.nodes {
        bail!("--node {} of --nodes {}: hosts count from 0", args.node, args.nodes);
    }
    if args.nodes > 1 && args.max_restarts > 0 {
        bail!(
            "--max-restarts {} with --nodes {}: ranks of all hosts start again together, so leave it to what started them",
            args.max_restarts,
            args.nodes
        );
    }
    // Of the commands that ranks share, only training is told to go on.
    let first = args.command.iter().find(|word| !word.starts_with('-'));
    let is_train = first.is_some_and(|command| command == "train");
    let launch = Launch {
        program: std::env::current_exe().context("finding this binary")?,
        command: args.command.clone(),
        nproc: usize::from(args.nproc),
        nodes: usize::from(args.nodes),
        node: usize::from(args.node),
        max_restarts: args.max_restarts,
        grace: Duration::from_secs(args.grace),
        last_words: LAST_WORDS,
        shares_terminal: std::io::stdin().is_terminal(),
        resume: is_train.then_some("--resume"),
    };
    let (code, restarts) = launch.run(&mut Signals::new([SIGINT, SIGTERM, SIGUSR1])?)?;
    let exit = match code {
        0 => Exit::Done,
        STOPPED => Exit::Stopped,
        PEER_FAILED => Exit::PeerFailed,
        code => Exit::Code(u8::try_from(code).unwrap_or(1)),
    };
    let text = if restarts == 0 {
        String::new()
    } else {
        format!("{restarts} restarts, exit {code}")
    };
    Ok(Outcome {
        text,
        json: json!({ "restarts": restarts, "exit": code }),
        exit,
    })
}

/// What is launched, and how patiently.
struct Launch {
    program: PathBuf,
    command: Vec<String>,
    nproc: usize,
    nodes: usize,
    node: usize,
    max_restarts: u32,
    grace: Duration,
    last_words: Duration,
    /// Rank 0 keeps the terminal, so Ctrl-C reaches it without our help.
    shares_terminal: bool,
    /// What a command needs, to go on after a restart.
    resume: Option<&'static str>,
}

/// How one attempt ended: the launcher's exit code, and whether another attempt may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    code: i32,
    retry: bool,
}

impl Launch {
    /// Attempts until one ends well or there is no point; answers the exit code and the number of restarts.
    fn run(&self, signals: &mut Signals) -> Result<(i32, u32)> {
        let mut restarts = 0;
        loop {
            let mut ranks = self.start(restarts)?;
            let told_to_stop = self.supervise(&mut ranks, signals);
            let verdict = judge(&ranks.iter().filter_map(Rank::own_end).collect::<Vec<_>>());
            if !verdict.retry || told_to_stop || restarts == self.max_restarts {
                return Ok((verdict.code, restarts));
            }
            restarts += 1;
            eprintln!("launch: restart {restarts} of at most {}", self.max_restarts);
        }
    }

    fn start(&self, attempt: u32) -> Result<Vec<Rank>> {
        let meeting = Meeting::on_this_host("launch").context("finding a place for the ranks to meet")?;
        let mut ranks = Vec::with_capacity(self.nproc);
        for rank in 0..self.nproc {
            let started = self.rank_command(rank, attempt, &meeting).spawn();
            match started {
                Ok(child) => ranks.push(Rank::follow(child, rank)),
                Err(error) => {
                    for rank in &mut ranks {
                        rank.kill();
                    }
                    return Err(error).with_context(|| format!("starting rank {rank}"));
                }
            }
        }
        Ok(ranks)
    }

    fn rank_command(&self, rank: usize, attempt: u32, meeting: &Meeting) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.command);
        if let Some(resume) = self.resume
            && attempt > 0
            && !self.command.iter().any(|word| word == resume)
        {
            command.arg(resume);
        }
        let global = self.node * self.nproc + rank;
        command.envs(place_variables(global, rank, self.nodes * self.nproc));
        if self.nodes == 1 {
            command.envs(meeting_variables(meeting));
        }
        // Several hosts have one attempt, which who started them may number.
        if self.nodes == 1 || std::env::var_os(ATTEMPT).is_none() {
            command.env(ATTEMPT, attempt.to_string());
        }
        command.envs(thread_variables(self.nproc));
        if rank > 0 {
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
        }
        if rank > 0 || !self.shares_terminal {
            // Ctrl-C reaches a rank once: through us, or from the terminal.
            command.process_group(0);
        }
        process::die_with_parent(&mut command);
        command
    }

    /// Waits until every rank has ended, forwarding signals; answers whether one of those asked to stop.
    fn supervise(&self, ranks: &mut [Rank], signals: &mut Signals) -> bool {
        let mut told_to_stop = false;
        // When the next blow falls: SIGTERM, then SIGKILL.
        let mut blow: Option<(Instant, i32)> = None;
        while ranks.iter().any(|rank| rank.end.is_none()) {
            for signal in signals.pending() {
                told_to_stop = true;
                let first = usize::from(signal == SIGINT && self.shares_terminal);
                for rank in &ranks[first..] {
                    rank.tell(signal);
                }
            }
            for (number, rank) in ranks.iter_mut().enumerate() {
                if rank.notice_end(number) && blow.is_none() {
                    eprintln!("launch: the other ranks have {:.0} s to end", self.grace.as_secs_f64());
                    blow = Some((Instant::now() + self.grace, SIGTERM));
                }
            }
            if let Some((_, signal)) = blow.filter(|(when, _)| Instant::now() >= *when) {
                for rank in ranks.iter_mut() {
                    rank.stop(signal);
                }
                blow = Some((Instant::now() + self.last_words, SIGKILL));
            }
            thread::sleep(POLL);
        }
        ranks.iter_mut().for_each(Rank::finish_output);
        told_to_stop
    }
}

/// A rank's place, as the environment says it.
pub fn place_variables(rank: usize, local_rank: usize, size: usize) -> [(&'static str, String); 3] {
    [
        ("RANK", rank.to_string()),
        ("LOCAL_RANK", local_rank.to_string()),
        ("WORLD_SIZE", size.to_string()),
    ]
}

/// Where ranks meet, as the environment says it.
pub fn meeting_variables(meeting: &Meeting) -> [(&'static str, String); 3] {
    [
        ("MASTER_ADDR", meeting.host.clone()),
        ("MASTER_PORT", meeting.port.to_string()),
        ("LIDIT_RENDEZVOUS_SECRET", meeting.secret.clone()),
    ]
}

/// The threads of each of `nproc` ranks of this machine, unless the user has set them: ranks that each take all cores only
/// get into each other's way.
pub fn thread_variables(nproc: usize) -> Option<(&'static str, String)> {
    const THREADS: &str = "RAYON_NUM_THREADS";
    let cores = thread::available_parallelism().map_or(1, usize::from);
    std::env::var_os(THREADS)
        .is_none()
        .then(|| (THREADS, (cores / nproc).max(1).to_string()))
}

/// What the ends of all ranks that ended by themselves mean together.
///
/// An error of a rank's own decides: trying again would end alike. Crashes and lost peers are worth another attempt.
fn judge(ends: &[ExitStatus]) -> Verdict {
    let codes = || ends.iter().map(ExitStatus::code);
    let verdict = |code, retry| Verdict { code, retry };
    if codes().all(|code| code == Some(0)) {
        return verdict(0, false);
    }
    if codes().all(|code| matches!(code, Some(0 | STOPPED))) {
        return verdict(STOPPED, false);
    }
    if let Some(code) = codes()
        .flatten()
        .find(|code| !matches!(*code, 0 | STOPPED | PEER_FAILED | PANIC))
    {
        return verdict(code, false);
    }
    let panicked = codes().flatten().find(|code| *code == PANIC);
    verdict(panicked.unwrap_or(PEER_FAILED), true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    /// Launches a shell script as every rank; `$1` is `--resume` after a restart.
    fn launch(nproc: usize, max_restarts: u32, script: &str) -> (i32, u32) {
        launch_last_of(1, nproc, max_restarts, script)
    }

    /// As [`launch`], as the last of several hosts.
    fn launch_last_of(nodes: usize, nproc: usize, max_restarts: u32, script: &str) -> (i32, u32) {
        let command = ["-c", script, "sh"].map(String::from).to_vec();
        let launch = Launch {
            program: "/bin/sh".into(),
            command,
            nproc,
            nodes,
            node: nodes - 1,
            max_restarts,
            grace: Duration::from_millis(200),
            last_words: Duration::from_millis(200),
            shares_terminal: false,
            resume: Some("--resume"),
        };
        launch.run(&mut Signals::new([SIGUSR1]).unwrap()).unwrap()
    }

    #[test]
    fn the_ends_of_ranks_make_one_exit_code() {
        // (script, exit code, restarts of at most 1)
        let table = [
            ("exit 0", 0, 0),
            ("exit 75", 75, 0),
            // the last step of one rank, the stop of another
            ("exit $((RANK * 75))", 75, 0),
            // an error is not worth a restart, whatever the others say
            ("[ $RANK = 1 ] && exit 3; exit 76", 3, 0),
            ("exit 2", 2, 0),
            ("exit 76", 76, 1),
            ("exit 101", 101, 1),
            ("[ $RANK = 1 ] && kill -9 $$; exit 76", 76, 1),
            // a rank that does not end by itself is stopped, and its end is nobody's fault
            ("[ $RANK = 1 ] && exit 3; sleep 60", 3, 0),
            ("[ $RANK = 1 ] && exit 3; kill -STOP $$", 3, 0),
        ];
        for (script, code, restarts) in table {
            assert_eq!(launch(2, 1, script), (code, restarts), "{script}");
        }
    }

    #[test]
    fn a_restart_resumes_and_may_end_well() {
        assert_eq!(
            launch(3, 2, "[ \"$1\" = --resume ] && exit 0; [ $RANK = 0 ] || exit 76"),
            (0, 1)
        );
        assert_eq!(
            launch(1, 3, "[ $LIDIT_LAUNCH_ATTEMPT = 2 ] && exit 0; kill -9 $$"),
            (0, 2)
        );
    }

    #[test]
    fn every_rank_knows_its_place_and_shares_the_cores() {
        let script = "[ $WORLD_SIZE = 3 ] && [ $RANK = $LOCAL_RANK ] && [ $MASTER_ADDR = 127.0.0.1 ] && [ $MASTER_PORT -gt 0 ] \
            && [ ${#LIDIT_RENDEZVOUS_SECRET} = 64 ] && [ $RAYON_NUM_THREADS -ge 1 ]";
        assert_eq!(launch(3, 0, script), (0, 0));
    }

    #[test]
    fn ranks_of_the_last_host_count_on_and_meet_where_the_environment_says() {
        let script =
            "[ $WORLD_SIZE = 6 ] && [ $RANK = $((4 + LOCAL_RANK)) ] && [ -z \"$MASTER_ADDR$LIDIT_RENDEZVOUS_SECRET\" ]";
        assert_eq!(launch_last_of(3, 2, 0, script), (0, 0));
    }
}
