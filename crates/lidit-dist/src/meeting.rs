//! Where the ranks of one run meet.

use std::io;
use std::net::TcpListener;

use crate::place::{Lookup, number, refuse};
use crate::{DistError, slurm, wire};

/// Where the ranks of one run meet, and what they must know to be let in.
#[derive(Clone, PartialEq, Eq)]
pub struct Meeting {
    /// Host name or address of rank 0.
    pub host: String,
    /// Port on which rank 0 listens.
    pub port: u16,
    /// Name of this attempt of the run: a rank left over from an earlier attempt is refused.
    pub run: String,
    /// Shared by the ranks of the run and nobody else; never sent.
    pub secret: String,
}

/// The secret stays out of logs.
impl std::fmt::Debug for Meeting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} run {:?}", self.host, self.port, self.run)
    }
}

impl Meeting {
    /// Reads what a world of several ranks needs from the environment.
    pub(crate) fn read(get: Lookup) -> Result<Self, DistError> {
        let host = match get("MASTER_ADDR") {
            Some(host) => host,
            None => get("SLURM_STEP_NODELIST")
                .and_then(|nodes| slurm::expand(&nodes)?.into_iter().next())
                .ok_or_else(|| {
                    refuse(
                        &[("MASTER_ADDR", "unset")],
                        "set it to the host of rank 0, the same on every rank",
                    )
                })?,
        };
        let port = port(get)?;
        let secret = get("LIDIT_RENDEZVOUS_SECRET").ok_or_else(|| {
            refuse(
                &[("LIDIT_RENDEZVOUS_SECRET", "unset")],
                "set it to one random text on every rank (for example from `openssl rand -hex 32`), so that nobody else can join the run",
            )
        })?;
        Ok(Self {
            host,
            port,
            run: run_name(get),
            secret,
        })
    }

    /// A meeting of ranks that all start from here, on this host alone: a free port of the loopback interface and 32 random
    /// bytes for a secret.
    pub fn on_this_host(run: &str) -> io::Result<Self> {
        let host = "127.0.0.1";
        let secret: [u8; 32] = wire::random_bytes()?;
        // Below the ports that outgoing connections get: one of those could take it before rank 0 listens.
        let port = || wire::random_bytes::<2>().map(|bytes| 10_000 + u16::from_le_bytes(bytes) % 20_000);
        for _ in 0..100 {
            let port = port()?;
            if TcpListener::bind((host, port)).is_ok() {
                let secret = secret.iter().flat_map(|byte| [byte >> 4, byte & 15]);
                let secret = secret
                    .filter_map(|digit| char::from_digit(u32::from(digit), 16))
                    .collect();
                return Ok(Self {
                    host: host.into(),
                    port,
                    run: run.into(),
                    secret,
                });
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "no free port between 10000 and 30000",
        ))
    }
}

/// `MASTER_PORT`, or what every rank of a Slurm job can derive alike.
fn port(get: Lookup) -> Result<u16, DistError> {
    let refused = |port: &str, problem| Err(refuse(&[("MASTER_PORT", port)], problem));
    // torchrun's agent listens on the port that it hands to its workers.
    let taken = usize::from(get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|taken| taken == "True"));
    match (number("MASTER_PORT", get)?, number("SLURM_JOB_ID", get)?) {
        (Some(0), _) => refused("0", "not a port: choose 1 to 65535"),
        (Some(port), _) => match u16::try_from(port + taken) {
            Ok(port) => Ok(port),
            Err(_) => refused(&port.to_string(), "not a port: choose 1 to 65535"),
        },
        // Any port will do that all ranks derive alike; jobs that share a node should not collide.
        (None, Some(job)) => Ok(20_000 + (job % 20_000) as u16),
        (None, None) => refused(
            "unset",
            "set it to a free port on the host of rank 0, the same on every rank",
        ),
    }
}

/// The attempt's name, the same on all ranks of one attempt and different in the next one.
fn run_name(get: Lookup) -> String {
    let parts = [
        "LIDIT_LAUNCH_ATTEMPT",
        "TORCHELASTIC_RUN_ID",
        "TORCHELASTIC_RESTART_COUNT",
        "SLURM_JOB_ID",
        "SLURM_STEP_ID",
        "SLURM_RESTART_COUNT",
    ];
    let known: Vec<String> = parts.iter().filter_map(|name| get(name)).collect();
    format!("lidit-{}", known.join("-"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    /// Reads `A=1 B=2` as an environment.
    fn read(variables: &str) -> Result<Meeting, DistError> {
        let pairs: Vec<(&str, &str)> = variables
            .split_whitespace()
            .map(|pair| pair.split_once('=').unwrap())
            .collect();
        Meeting::read(&|name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_string())
        })
    }

    #[test]
    fn slurm_ranks_meet_on_their_first_host() {
        let step = "SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_STEP_NODELIST=gpu[003-005,9],login SLURM_JOB_ID=41234 LIDIT_RENDEZVOUS_SECRET=s";
        let meeting = read(step).unwrap();
        assert_eq!((meeting.host.as_str(), meeting.port), ("gpu003", 21_234));
        let requeued = read(&format!("{step} SLURM_RESTART_COUNT=1")).unwrap();
        assert_ne!(requeued.run, meeting.run, "a requeued job is another attempt");
    }

    #[test]
    fn the_secret_is_never_printed() {
        let meeting = read("MASTER_ADDR=a MASTER_PORT=1 LIDIT_RENDEZVOUS_SECRET=hunter2").unwrap();
        assert_eq!(meeting.secret, "hunter2");
        assert!(!format!("{meeting:?}").contains("hunter2"));
    }

    #[test]
    fn ranks_of_torchrun_leave_its_agent_its_port() {
        let variables = "MASTER_ADDR=a MASTER_PORT=29500 LIDIT_RENDEZVOUS_SECRET=s";
        assert_eq!(read(variables).unwrap().port, 29_500);
        assert_eq!(
            read(&format!("{variables} TORCHELASTIC_USE_AGENT_STORE=True"))
                .unwrap()
                .port,
            29_501
        );
    }

    #[test]
    fn meetings_on_this_host_share_no_secret() {
        let [one, two] = [(); 2].map(|()| Meeting::on_this_host("run").unwrap());
        assert_eq!((one.secret.len(), two.secret.len()), (64, 64));
        assert_ne!(one.secret, two.secret);
        assert!((10_000..30_000).contains(&one.port) && one.host == "127.0.0.1");
    }
}
