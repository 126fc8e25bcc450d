//! `lidit doctor [CONFIG]`: what will fail, before the allocation is spent. One process, or every rank of a launch.

mod check;
mod disk;
pub mod gpu;
mod inputs;
mod kernels;
mod machine;
pub mod memory;
mod network;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lidit_dist::{World, process};
use lidit_train::RunConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use self::check::{Check, Status};
use self::inputs::Inputs;
use self::table::{Line, Report};
use crate::device::DeviceArg;
use crate::outcome::{Exit, Outcome};

/// Arguments of `lidit doctor`.
#[derive(clap::Args)]
pub struct Args {
    /// The run's config; without it only the machine, its ranks and the disk are looked at.
    config: Option<PathBuf>,
    /// Change one key: `--set data.path=..`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Where the run would be kept [default: runs/NAME of the config].
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// What the run would train on: cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu")]
    device: DeviceArg,
    /// Also try every operation of the device, values and gradients, beside plain ones on the CPU.
    #[arg(long)]
    kernels: bool,
    /// Longest wait for another rank, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    deadline: u64,
}

/// Looks at everything that it can reach; what fails is a line of the table, not an error.
pub fn run(args: &Args) -> Outcome {
    let mut checks = vec![machine::version()];
    let world = match World::from_env(Duration::from_secs(args.deadline)) {
        Ok(world) => world,
        Err(error) => {
            checks.push(Check::failed(
                "ranks",
                error.to_string(),
                "mend this first: what follows is this process alone",
            ));
            World::solo()
        }
    };
    let examined = examine(args, &world, &mut checks);
    let reports = examined.and_then(|()| {
        let own = Report {
            host: process::host_name(),
            checks: checks.clone(),
        };
        gather(&world, &own)
    });
    let reports = reports.unwrap_or_else(|error| {
        let advice = "read what the other ranks printed; what follows is this rank alone";
        checks.push(Check::failed("ranks", format!("{error:#}"), advice));
        vec![Report {
            host: process::host_name(),
            checks,
        }]
    });
    outcome(&table::merge(&reports), &world)
}

/// All checks of this rank. Ranks take the same way through it, whatever each finds, because some checks are collective.
fn examine(args: &Args, world: &World, checks: &mut Vec<Check>) -> Result<()> {
    let hosts = gather(world, &process::host_name())?;
    let on_host = hosts.iter().filter(|host| **host == process::host_name()).count();
    if world.size() > 1 {
        checks.push(network::ranks(world, &hosts));
    }
    checks.push(machine::cores(on_host));
    checks.push(machine::open_files(world.size()));
    checks.extend(gpu::checks(args.device, world.local_rank(), world.size()));
    if args.kernels {
        checks.extend(kernels::checks(args.device, world.local_rank()));
    }
    let run_dir = run_dir(args);
    let mut parameters = None;
    if let Some(path) = &args.config {
        match RunConfig::load(path, &args.sets) {
            Err(error) => checks.push(Check::failed("config", format!("{error:#}"), "mend the config")),
            Ok(config) => {
                checks.push(inputs::config_check(&config));
                let (inputs, mut found) = Inputs::examine(&config, args.device.ranks(world.size() as u64));
                checks.append(&mut found);
                if let Some(plan) = &inputs.plan {
                    parameters = Some(plan.params.total());
                    checks.extend(memory::checks(plan, &config, args.device, world.local_rank(), on_host));
                    checks.push(disk::space(&run_dir, &config, plan.params.total()));
                }
            }
        }
    }
    checks.push(disk::write(&run_dir));
    if world.size() > 1 {
        checks.push(network::bandwidth(world, parameters)?);
        checks.extend(network::clock(world)?);
        checks.push(disk::shared(&run_dir, world)?);
    }
    Ok(())
}

fn run_dir(args: &Args) -> PathBuf {
    let name = args.config.as_deref().and_then(Path::file_stem).unwrap_or_default();
    args.run_dir.clone().unwrap_or_else(|| PathBuf::from("runs").join(name))
}

/// Every rank's value, on every rank.
fn gather<T: Serialize + DeserializeOwned>(world: &World, own: &T) -> Result<Vec<T>> {
    let own = serde_json::to_vec(own)?;
    let each = |root| {
        let mut bytes = if root == world.rank() { own.clone() } else { Vec::new() };
        world.broadcast(&mut bytes, root)?;
        serde_json::from_slice(&bytes).with_context(|| format!("what rank {root} found"))
    };
    (0..world.size()).map(each).collect()
}

/// Rank 0 prints; every rank exits alike.
fn outcome(lines: &[Line], world: &World) -> Outcome {
    let failed = lines.iter().filter(|line| line.status == Status::Failed).count();
    let exit = if failed > 0 { Exit::Code(1) } else { Exit::Done };
    let text = if world.rank() == 0 {
        table::text(lines)
    } else {
        String::new()
    };
    Outcome {
        text,
        json: json!({ "checks": lines, "failed": failed }),
        exit,
    }
}
