//! Where ranks run: together on this host, or each in a network of its own whose link can be cut.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use lidit_dist::Meeting;

/// Where the ranks of a run live.
pub enum Network {
    /// On this host's loopback interface.
    Loopback,
    /// Each in a network namespace, joined by a bridge.
    Namespaces(Namespaces),
}

/// One network namespace a rank, and one for the bridge between them. Removed when dropped.
pub struct Namespaces {
    name: String,
    ranks: usize,
}

/// In the middle of the namespaces' own addresses; nothing outside can see them.
const SUBNET: &str = "10.77.0";
const PORT: u16 = 29_400;
/// Of the names of namespaces; the process's id follows.
const PREFIX: &str = "lidit-chaos-";
/// An address is `SUBNET.1` and up.
const MAX_RANKS: usize = 200;

impl Network {
    /// The command that runs `program` as `rank`.
    pub fn command(&self, program: &Path, rank: usize) -> Command {
        match self {
            Self::Loopback => Command::new(program),
            Self::Namespaces(namespaces) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &namespaces.of(rank)]).arg(program);
                command
            }
        }
    }

    /// Where the next attempt's ranks meet.
    pub fn meeting(&self) -> Result<Meeting> {
        let meeting = Meeting::on_this_host("chaos").context("finding a place for the ranks to meet")?;
        Ok(match self {
            Self::Loopback => meeting,
            Self::Namespaces(_) => Meeting {
                host: format!("{SUBNET}.1"),
                port: PORT,
                ..meeting
            },
        })
    }

    /// Cuts a rank off, or joins it again.
    pub fn link(&self, rank: usize, link: Link) -> Result<()> {
        match self {
            Self::Loopback => bail!("ranks on the loopback interface can't be cut off"),
            Self::Namespaces(namespaces) => namespaces.link(rank, link),
        }
    }
}

/// A rank's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nothing goes through; nobody is told.
    Cut,
    /// As it should be.
    Joined,
}

impl Namespaces {
    /// Makes them for `ranks` ranks.
    ///
    /// # Errors
    /// This account may not, or `ip` (iproute2) is missing.
    pub fn new(ranks: usize) -> Result<Self> {
        if ranks > MAX_RANKS {
            bail!("{ranks} ranks: networks can be made for at most {MAX_RANKS}");
        }
        remove_left_over();
        let namespaces = Self {
            name: format!("{PREFIX}{}", std::process::id()),
            ranks,
        };
        namespaces
            .make()
            .context("making a network for each rank (needs root and iproute2)")?;
        Ok(namespaces)
    }

    fn make(&self) -> Result<()> {
        let hub = self.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "bridge0", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "bridge0", "up"])?;
        for rank in 0..self.ranks {
            let (own, port) = (self.of(rank), port(rank));
            ip(&["netns", "add", &own])?;
            ip(&[
                "-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &own,
            ])?;
            let address = format!("{SUBNET}.{}/24", rank + 1);
            ip(&["-n", &own, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &own, "link", "set", "eth0", "up"])?;
            ip(&["-n", &own, "link", "set", "lo", "up"])?;
            self.link(rank, Link::Joined)?;
        }
        Ok(())
    }

    fn link(&self, rank: usize, link: Link) -> Result<()> {
        // The cable is pulled out of the bridge, not out of the rank: its interface stays up.
        let (hub, port) = (self.hub(), port(rank));
        match link {
            Link::Cut => ip(&["-n", &hub, "link", "set", &port, "nomaster"]),
            Link::Joined => ip(&["-n", &hub, "link", "set", &port, "up", "master", "bridge0"]),
        }
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn of(&self, rank: usize) -> String {
        format!("{}-{rank}", self.name)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in (0..self.ranks).map(|rank| self.of(rank)).chain([self.hub()]) {
            // One that was never made is not there to be removed.
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

/// Removes namespaces of a chaos that was killed.
fn remove_left_over() {
    // Where there are none yet, there is no folder.
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // Another chaos may be doing the same.
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

fn port(rank: usize) -> String {
    format!("rank{rank}")
}

fn ip(arguments: &[&str]) -> Result<()> {
    let Output { status, stderr, .. } = Command::new("ip").args(arguments).output().context("running ip")?;
    if !status.success() {
        bail!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&stderr).trim()
        );
    }
    Ok(())
}
