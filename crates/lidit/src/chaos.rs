//! `lidit chaos CONFIG`: breaks a run on purpose, again and again, and holds its end against that of an undisturbed one.

mod attempt;
mod fault;
mod injection;
mod network;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lidit_train::audit::{Audit, audit};
use lidit_train::{Checkpoint, ConfigFile, RunConfig, RunDir};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::attempt::Run;
use self::fault::{Deck, Fault};
use self::injection::{Injected, inject};
use self::network::{Namespaces, Network};
use crate::outcome::{Exit, Outcome};

/// The longest a run may need for anything beyond its deadline before it counts as hung.
const PATIENCE: Duration = Duration::from_mins(2);

/// Arguments of `lidit chaos`.
#[derive(clap::Args)]
pub struct Args {
    /// The run's config: a small one, such as configs/run/debug.toml.
    config: PathBuf,
    /// Change one key: `--set train.steps=100`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// What to do to it [default: all that this machine allows].
    #[arg(long, value_delimiter = ',', value_name = "FAULT,..")]
    faults: Vec<Fault>,
    /// How long faults go on; runs that end before are followed by others.
    #[arg(long, value_name = "M", default_value_t = 2.0)]
    minutes: f64,
    /// The most faults; the run goes on in peace after them.
    #[arg(long, value_name = "N", default_value_t = u32::MAX)]
    at_most: u32,
    /// How many processes train.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..))]
    nproc: u16,
    /// Decides which faults come when.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Longest wait of a rank for another one, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    deadline: u64,
    /// Where runs and logs are kept; empty or not there yet.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Breaks runs until the time is over, then compares.
pub fn run(args: &Args) -> Result<Outcome> {
    ensure!(
        args.minutes.is_finite() && args.minutes > 0.0,
        "--minutes {}: choose a number above 0",
        args.minutes
    );
    let config = ConfigFile::read(&args.config)?.run(&sets(args))?;
    ensure!(
        config.train.stop_after.is_none(),
        "train.stop_after is set: take it out, runs under chaos go to their end"
    );
    let (faults, network) = faults_and_network(args)?;
    make_empty(&args.out)?;
    let mut chaos = Chaos {
        args,
        config: &config,
        network: &network,
        deck: Deck::new(&faults)?,
        random: ChaCha8Rng::seed_from_u64(args.seed),
        signals: Signals::new([SIGINT, SIGTERM])?,
        until: Instant::now(),
        attempts: 0,
        injected: Vec::new(),
    };
    let undisturbed = chaos.undisturbed()?;
    chaos.until = Instant::now() + Duration::from_secs_f64(60.0 * args.minutes);
    let mut runs = Vec::new();
    while runs.is_empty() || chaos.goes_on() {
        runs.push(chaos.disturbed(runs.len() + 1, &undisturbed)?);
    }
    Ok(chaos.report(&undisturbed, &runs))
}

/// What the runs are told beside the config: a step is logged at once, and a gradient that is not finite ends the attempt,
/// so that the next one makes the same step again.
fn sets(args: &Args) -> Vec<String> {
    let own = ["train.log_every=1", "train.max_nonfinite=1"].map(String::from);
    args.sets.iter().cloned().chain(own).collect()
}

fn make_empty(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let mut entries = std::fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    ensure!(
        entries.next().is_none(),
        "{} is not empty: name another --out",
        folder.display()
    );
    Ok(())
}

/// The faults asked for, or all that can be done here.
fn faults_and_network(args: &Args) -> Result<(Vec<Fault>, Network)> {
    let ranks = usize::from(args.nproc);
    if args.faults.is_empty() {
        let mut faults = vec![Fault::Kill, Fault::Stop, Fault::Truncate, Fault::Nan, Fault::DiskFull];
        return Ok(match Namespaces::new(ranks) {
            Ok(namespaces) => {
                faults.push(Fault::Cut);
                (faults, Network::Namespaces(namespaces))
            }
            Err(error) => {
                eprintln!("chaos: nothing is cut: {error:#}");
                (faults, Network::Loopback)
            }
        });
    }
    let network = if args.faults.contains(&Fault::Cut) {
        Network::Namespaces(Namespaces::new(ranks).context("--faults cut")?)
    } else {
        Network::Loopback
    };
    Ok((args.faults.clone(), network))
}

/// Everything that runs need, and what was done to them.
struct Chaos<'a> {
    args: &'a Args,
    config: &'a RunConfig,
    network: &'a Network,
    deck: Deck,
    random: ChaCha8Rng,
    signals: Signals,
    /// When faults end.
    until: Instant,
    attempts: u32,
    injected: Vec<Injected>,
}

/// What a run has come to.
struct End {
    digest: String,
    audit: Audit,
}

impl End {
    fn of(run_dir: &Path) -> Result<Self> {
        let run = RunDir::attach(run_dir)?;
        Ok(Self {
            digest: Checkpoint::newest_of(&run)?.digest()?,
            audit: audit(&run)?,
        })
    }
}

/// How a broken run compares with the undisturbed one.
struct Compared {
    name: String,
    problem: Option<String>,
}

impl<'a> Chaos<'a> {
    fn run_named(&self, name: &str) -> Result<Run<'a>> {
        let mut command = vec!["train".to_owned(), path_text(&self.args.config)?];
        for set in sets(self.args) {
            command.extend(["--set".to_owned(), set]);
        }
        command.extend(["--deadline".to_owned(), self.args.deadline.to_string()]);
        Ok(Run {
            program: std::env::current_exe().context("finding this binary")?,
            command,
            folder: self.args.out.join(name),
            logs: self.args.out.join(format!("{name}-logs")),
            network: self.network,
            ranks: usize::from(self.args.nproc),
        })
    }

    fn undisturbed(&mut self) -> Result<End> {
        eprintln!("chaos: the undisturbed run");
        let run = self.run_named("undisturbed")?;
        let mut attempt = run.start(0, None)?;
        // Its length is the config's business; a rank that hangs ends by its own deadline.
        attempt.wait_for_ends(None, far_future(), &mut self.signals)?;
        for (number, rank) in attempt.ranks().iter().enumerate() {
            ensure!(
                rank.code() == Some(0),
                "the undisturbed run failed: rank {number}: {}; see {}",
                rank.error().unwrap_or_default(),
                rank.log().display()
            );
        }
        End::of(&run.folder).context("the undisturbed run")
    }

    fn goes_on(&self) -> bool {
        Instant::now() < self.until && (self.injected.len() as u64) < u64::from(self.args.at_most)
    }

    /// One run, broken until it is done.
    fn disturbed(&mut self, number: usize, undisturbed: &End) -> Result<Compared> {
        let name = format!("run-{number}");
        let run_dir = self.args.out.join(&name);
        loop {
            self.attempts += 1;
            if self.attempt(&name)? {
                break;
            }
        }
        let problem = match End::of(&run_dir) {
            Err(error) => Some(format!("{error:#}")),
            Ok(end) if end.digest != undisturbed.digest => Some(format!(
                "its state has digest {}, the undisturbed run's {}",
                end.digest, undisturbed.digest
            )),
            Ok(end) if (end.audit.steps, end.audit.samples) != (undisturbed.audit.steps, undisturbed.audit.samples) => {
                Some(format!(
                    "it has {} steps and {} samples, the undisturbed run {} and {}",
                    end.audit.steps, end.audit.samples, undisturbed.audit.steps, undisturbed.audit.samples
                ))
            }
            Ok(_) => None,
        };
        let said = problem.as_deref().unwrap_or("ended in the undisturbed run's bits");
        eprintln!("chaos: {name}: {said}");
        Ok(Compared { name, problem })
    }

    /// Starts the ranks once, with a fault if there is time for one; answers whether the run is done.
    fn attempt(&mut self, name: &str) -> Result<bool> {
        let planned = self.goes_on().then(|| {
            // Half of the faults let the run reach its next checkpoint.
            let steps = 2 * self.config.train.checkpoint_every;
            self.deck.draw(&mut self.random, usize::from(self.args.nproc), steps)
        });
        let run = self.run_named(name)?;
        let Some(planned) = planned else {
            let mut attempt = run.start(self.attempts, None)?;
            attempt.wait_for_ends(None, far_future(), &mut self.signals)?;
            return injection::done_or_explain(&attempt, "nothing was done to it");
        };
        let patience = PATIENCE + Duration::from_secs(self.args.deadline);
        let injected = inject(
            &run,
            self.attempts,
            planned,
            self.config.train.steps,
            patience,
            &mut self.signals,
        )?;
        let Some(injected) = injected else {
            return Ok(true);
        };
        eprintln!("chaos: fault {}: {injected}", self.injected.len() + 1);
        self.injected.push(injected);
        Ok(false)
    }

    fn report(&self, undisturbed: &End, runs: &[Compared]) -> Outcome {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for injected in &self.injected {
            *counts.entry(injected.planned.fault.to_string()).or_default() += 1;
        }
        let lost: Vec<&Compared> = runs.iter().filter(|run| run.problem.is_some()).collect();
        let slowest = self
            .injected
            .iter()
            .filter_map(|injected| injected.noticed)
            .fold(0.0, f64::max);
        let kinds: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let mut text = format!(
            "{} faults ({}), {} runs of {} steps on {} ranks, {} lost; a lost rank was named after at most {slowest:.1} s (deadline {} s)",
            self.injected.len(),
            kinds.join(", "),
            runs.len(),
            undisturbed.audit.steps,
            self.args.nproc,
            lost.len(),
            self.args.deadline
        );
        for run in &lost {
            let problem = run.problem.as_deref().unwrap_or_default();
            text.extend(["\n", &run.name, ": ", problem]);
        }
        Outcome {
            json: json!({
                "faults": self.injected.len(),
                "kinds": counts,
                "runs": runs.len(),
                "lost": lost.iter().map(|run| &run.name).collect::<Vec<_>>(),
                "restarts": self.attempts - runs.len() as u32,
                "slowest_notice_s": slowest,
                "digest": undisturbed.digest,
                "steps": undisturbed.audit.steps,
                "samples": undisturbed.audit.samples,
            }),
            text,
            exit: if lost.is_empty() { Exit::Done } else { Exit::Code(1) },
        }
    }
}

fn path_text(path: &Path) -> Result<String> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => bail!("{} is not UTF-8: rename it", path.display()),
    }
}

fn far_future() -> Instant {
    Instant::now() + Duration::from_hours(24)
}
