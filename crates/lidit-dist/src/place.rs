//! Where this process stands in its run, read from what launchers leave in the environment.

use crate::{DistError, Meeting, process, slurm};

/// Looks one environment variable up.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where one process stands in its run, and where its ranks meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// This process, `0..size`.
    pub rank: usize,
    /// How many processes share the run.
    pub size: usize,
    /// This process among those of its host.
    pub local_rank: usize,
    /// Where the ranks meet; `None` for a single process that nobody asked to try an engine.
    pub meeting: Option<Meeting>,
    /// The engine asked for, in a binary that has both.
    pub engine: Option<Engine>,
    /// This process's host, as errors name it.
    pub host: String,
    /// The host of every rank, by rank, where the launcher says; empty where it doesn't.
    pub hosts: Vec<String>,
    /// The network interface that Gloo binds to: a name, an address of this host or a prefix of one. By default the one
    /// that leads to the rendezvous.
    pub interface: Option<String>,
}

/// What carries bytes between ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// CPU processes, over TCP.
    Gloo,
    /// GPU processes, one a GPU.
    Nccl,
}

/// The variables in which one kind of launcher says rank, size and local rank.
struct Launcher {
    rank: &'static str,
    size: &'static str,
    local_rank: Option<&'static str>,
}

/// In order of precedence: the innermost launcher knows best.
const LAUNCHERS: [Launcher; 5] = [
    // torchrun, Kubeflow, `lidit launch`
    Launcher {
        rank: "RANK",
        size: "WORLD_SIZE",
        local_rank: Some("LOCAL_RANK"),
    },
    // Open MPI
    Launcher {
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: Some("OMPI_COMM_WORLD_LOCAL_RANK"),
    },
    // MPICH, Intel MPI
    Launcher {
        rank: "PMI_RANK",
        size: "PMI_SIZE",
        local_rank: Some("MPI_LOCALRANKID"),
    },
    // Slurm
    Launcher {
        rank: "SLURM_PROCID",
        size: "SLURM_NTASKS",
        local_rank: Some("SLURM_LOCALID"),
    },
    // Kubernetes Indexed Job, JobSet: one process a pod; the manifest says how many
    Launcher {
        rank: "JOB_COMPLETION_INDEX",
        size: "WORLD_SIZE",
        local_rank: None,
    },
];

/// Set by launchers that start ranks of their own inside another launcher's task: outer ranks then mean nothing.
const NESTING: [&str; 2] = ["TORCHELASTIC_RUN_ID", "LIDIT_LAUNCH_ATTEMPT"];

impl Place {
    /// Reads the environment of this process.
    ///
    /// In this order: `RANK`/`WORLD_SIZE`/`LOCAL_RANK`, Open MPI, PMI, Slurm, `JOB_COMPLETION_INDEX`, else a single process.
    /// Incomplete or contradictory variables are refused by name.
    pub fn from_env() -> Result<Self, DistError> {
        Self::read(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn read(get: Lookup) -> Result<Self, DistError> {
        let engine = match get("LIDIT_TRANSPORT").as_deref() {
            None => None,
            Some("gloo") => Some(Engine::Gloo),
            Some("nccl") => Some(Engine::Nccl),
            Some(other) => return Err(refuse(&[("LIDIT_TRANSPORT", other)], "choose gloo or nccl")),
        };
        let Some(launcher) = LAUNCHERS.iter().find(|launcher| get(launcher.rank).is_some()) else {
            if let Some(size) = get("WORLD_SIZE") {
                return Err(refuse(
                    &[("WORLD_SIZE", &size)],
                    "set without RANK: set both, or neither for a single process",
                ));
            }
            return Ok(Self {
                engine,
                ..Self::of(0, 1, 0)
            });
        };
        let (rank, size) = rank_and_size(launcher, get)?;
        if launcher.rank == "RANK" {
            refuse_contradictions((rank, size), get)?;
        }
        let local_rank = match launcher.local_rank {
            Some(name) => number(name, get)?.unwrap_or(0),
            None => 0,
        };
        if local_rank > rank {
            let name = launcher.local_rank.unwrap_or_default();
            return Err(refuse(
                &[(launcher.rank, &rank.to_string()), (name, &local_rank.to_string())],
                "a rank on its host can't exceed the rank in the world",
            ));
        }
        // A process alone needs nobody, unless an engine is asked for by name: to try it.
        let is_alone = size == 1 && (engine.is_none() || get("MASTER_ADDR").is_none());
        let meeting = if is_alone { None } else { Some(Meeting::read(get)?) };
        let is_slurm = launcher.rank == "SLURM_PROCID";
        Ok(Self {
            meeting,
            engine,
            host: get("SLURMD_NODENAME").unwrap_or_else(process::host_name),
            hosts: if is_slurm {
                slurm::hosts_of_ranks(size, get)
            } else {
                Vec::new()
            },
            interface: interface(engine, get)?,
            ..Self::of(rank, size, local_rank)
        })
    }

    /// A place on this host that nothing else is known of.
    pub fn of(rank: usize, size: usize, local_rank: usize) -> Self {
        Self {
            rank,
            size,
            local_rank,
            meeting: None,
            engine: None,
            host: process::host_name(),
            hosts: Vec::new(),
            interface: None,
        }
    }
}

/// NCCL chooses by a variable of its own, so asking for an interface in ours alone would be of no effect.
fn interface(engine: Option<Engine>, get: Lookup) -> Result<Option<String>, DistError> {
    let takes_nccl = engine.map_or(cfg!(feature = "nccl") && !cfg!(feature = "gloo"), |engine| {
        engine == Engine::Nccl
    });
    match get("LIDIT_INTERFACE") {
        Some(asked) if takes_nccl && get("NCCL_SOCKET_IFNAME").is_none() => Err(refuse(
            &[("LIDIT_INTERFACE", &asked), ("NCCL_SOCKET_IFNAME", "unset")],
            "NCCL reads only its own variable: set NCCL_SOCKET_IFNAME to the interface's name",
        )),
        asked => Ok(asked),
    }
}

fn rank_and_size(launcher: &Launcher, get: Lookup) -> Result<(usize, usize), DistError> {
    let rank = number(launcher.rank, get)?.unwrap_or(0);
    let Some(size) = number(launcher.size, get)? else {
        return Err(refuse(
            &[(launcher.rank, &rank.to_string()), (launcher.size, "unset")],
            &format!("set {} to the number of processes", launcher.size),
        ));
    };
    if rank >= size {
        return Err(refuse(
            &[(launcher.rank, &rank.to_string()), (launcher.size, &size.to_string())],
            "ranks count from 0 to the world size less 1",
        ));
    }
    Ok((rank, size))
}

/// `RANK` exported by hand over a launcher that numbers its processes itself would start N runs that all believe to be
/// the same rank. Kubernetes is not compared: its index counts pods, which may hold several ranks each.
fn refuse_contradictions(own: (usize, usize), get: Lookup) -> Result<(), DistError> {
    if NESTING.iter().any(|name| get(name).is_some()) {
        return Ok(());
    }
    for other in &LAUNCHERS[1..4] {
        if get(other.rank).is_none() || get(other.size).is_none() {
            continue;
        }
        let (rank, size) = rank_and_size(other, get)?;
        if (rank, size) != own {
            return Err(refuse(
                &[
                    ("RANK", &own.0.to_string()),
                    ("WORLD_SIZE", &own.1.to_string()),
                    (other.rank, &rank.to_string()),
                    (other.size, &size.to_string()),
                ],
                "two launchers contradict each other: unset one pair",
            ));
        }
    }
    Ok(())
}

/// The variable as a number, if it is set.
pub fn number(name: &str, get: Lookup) -> Result<Option<usize>, DistError> {
    get(name)
        .map(|text| {
            text.trim()
                .parse()
                .map_err(|_| refuse(&[(name, &text)], "not a whole number"))
        })
        .transpose()
}

/// An error that names variables and their values.
pub fn refuse(variables: &[(&str, &str)], problem: &str) -> DistError {
    let variables: Vec<String> = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}").replace("=unset", " (unset)"))
        .collect();
    DistError::Environment {
        variables: variables.join(", "),
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    /// Reads `A=1 B=2` as an environment.
    fn read(variables: &str) -> Result<Place, DistError> {
        let pairs: Vec<(&str, &str)> = variables
            .split_whitespace()
            .map(|pair| pair.split_once('=').unwrap())
            .collect();
        Place::read(&|name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_string())
        })
    }

    const MEETING: &str = "MASTER_ADDR=10.0.0.1 MASTER_PORT=29500 LIDIT_RENDEZVOUS_SECRET=s";

    #[test]
    fn launchers_are_read_in_their_order() {
        // (variables, rank, size, local rank)
        let table = [
            ("", 0, 1, 0),
            ("LOCAL_RANK=3", 0, 1, 0),
            ("RANK=0 WORLD_SIZE=1", 0, 1, 0),
            ("RANK=5 WORLD_SIZE=8 LOCAL_RANK=1", 5, 8, 1),
            ("RANK=5 WORLD_SIZE=8", 5, 8, 0),
            (
                "OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=2",
                2,
                4,
                2,
            ),
            ("PMI_RANK=1 PMI_SIZE=2 MPI_LOCALRANKID=1", 1, 2, 1),
            ("SLURM_PROCID=3 SLURM_NTASKS=4 SLURM_LOCALID=1", 3, 4, 1),
            ("JOB_COMPLETION_INDEX=1 WORLD_SIZE=2", 1, 2, 0),
            // an inner launcher wins over an outer one
            (
                "OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4 SLURM_PROCID=0 SLURM_NTASKS=4",
                2,
                4,
                0,
            ),
            (
                "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 TORCHELASTIC_RUN_ID=x SLURM_PROCID=1 SLURM_NTASKS=2",
                3,
                4,
                1,
            ),
            (
                "RANK=1 WORLD_SIZE=2 LIDIT_LAUNCH_ATTEMPT=0 SLURM_PROCID=0 SLURM_NTASKS=1",
                1,
                2,
                0,
            ),
            ("RANK=3 WORLD_SIZE=4 JOB_COMPLETION_INDEX=1", 3, 4, 0),
            // agreement is no contradiction; Slurm's task count without a task number is an allocation, not a rank
            ("RANK=1 WORLD_SIZE=2 SLURM_PROCID=1 SLURM_NTASKS=2", 1, 2, 0),
            ("SLURM_NTASKS=4", 0, 1, 0),
        ];
        for (variables, rank, size, local_rank) in table {
            let place = read(&format!("{variables} {MEETING}")).unwrap();
            assert_eq!(
                (place.rank, place.size, place.local_rank),
                (rank, size, local_rank),
                "{variables}"
            );
            assert_eq!(place.meeting.is_some(), size > 1, "{variables}");
        }
    }

    #[test]
    fn incomplete_and_contradictory_variables_are_named() {
        // (variables, words of the message)
        let table = [
            ("RANK=1", "RANK=1, WORLD_SIZE (unset)"),
            ("WORLD_SIZE=2", "WORLD_SIZE=2: set without RANK"),
            ("RANK=2 WORLD_SIZE=2", "RANK=2, WORLD_SIZE=2"),
            ("RANK=one WORLD_SIZE=2", "RANK=one: not a whole number"),
            ("RANK=0 WORLD_SIZE=2 LOCAL_RANK=1", "RANK=0, LOCAL_RANK=1"),
            ("RANK=0 WORLD_SIZE=0", "RANK=0, WORLD_SIZE=0"),
            (
                "RANK=0 WORLD_SIZE=1 SLURM_PROCID=3 SLURM_NTASKS=4",
                "RANK=0, WORLD_SIZE=1, SLURM_PROCID=3, SLURM_NTASKS=4: two launchers contradict",
            ),
            (
                "RANK=0 WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4",
                "OMPI_COMM_WORLD_RANK=1",
            ),
            ("JOB_COMPLETION_INDEX=1", "JOB_COMPLETION_INDEX=1, WORLD_SIZE (unset)"),
            ("LIDIT_TRANSPORT=mpi", "LIDIT_TRANSPORT=mpi: choose gloo or nccl"),
            ("RANK=0 WORLD_SIZE=2", "MASTER_ADDR (unset)"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a", "MASTER_PORT (unset)"),
            (
                "RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=70000",
                "MASTER_PORT=70000: not a port",
            ),
            (
                "RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=1",
                "LIDIT_RENDEZVOUS_SECRET (unset)",
            ),
        ];
        for (variables, words) in table {
            let message = read(variables).expect_err(variables).to_string();
            assert!(message.contains(words), "{variables}: {message}");
        }
    }
}
