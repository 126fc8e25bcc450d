//! One rank's connection to the rendezvous of its run.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::member::Member;
use crate::wire::{self, Claim, MAX_FRAME, Message, Op};
use crate::{DistError, Meeting, Place};

/// How long a host may take to answer a question that needs no waiting.
const ANSWER: Duration = Duration::from_secs(1);
/// How long to wait for the other ranks' word on who was at fault.
const BLAME: Duration = Duration::from_millis(1500);
const RETRY: Duration = Duration::from_millis(50);
/// How long one address may take to answer, and how long its name is believed: a pod that is replaced keeps its name
/// and not its address.
const STALE: Duration = Duration::from_secs(5);
/// How long DNS may go on answering the address of the pod that was replaced.
const NAME_CACHE: Duration = Duration::from_secs(40);
/// A rank 0 that is just ending closes connections in the middle of a handshake; one that does so again has its reasons.
const CLOSED_DOOR: Duration = Duration::from_secs(1);

/// One rank's connection to the rendezvous of its run: keys, counters, and who is at fault when something fails.
///
/// Control traffic only, messages of at most 1 MiB. Rank 0 hosts it, in threads of its own.
pub struct Store {
    stream: Mutex<Option<TcpStream>>,
    address: String,
    local: IpAddr,
    /// Of every rank.
    hosts: Vec<String>,
    // Closed after the connection above, so that this rank does not count as dead to its own host.
    _host: Option<Host>,
}

impl Store {
    /// Meets the other ranks: hosts the rendezvous as rank 0, joins it, and waits until all have come.
    pub fn join(place: &Place, meeting: &Meeting, deadline: Duration) -> Result<Self, DistError> {
        let until = Instant::now() + deadline;
        let address = format!("{}:{}", meeting.host, meeting.port);
        let failed = |problem: String| DistError::Rendezvous {
            address: address.clone(),
            problem,
        };
        let mut addresses = resolve(meeting, until).map_err(|error| {
            failed(format!(
                "host {:?} is unknown here: {error}; check MASTER_ADDR",
                meeting.host
            ))
        })?;
        let host = match place.rank {
            0 => Some(listen(&mut addresses, place, meeting, until).map_err(|error| {
                failed(format!(
                    "rank 0 can't listen there: {error}; choose a free MASTER_PORT, and start only one rank 0"
                ))
            })?),
            _ => None,
        };
        let claim = Claim {
            rank: place.rank,
            size: place.size,
            host: place.host.clone(),
            run: meeting.run.clone(),
        };
        let Some(stream) = knock(addresses, &claim, meeting, until).map_err(failed)? else {
            return Err(DistError::Missing {
                missing: Member::of([0], &place.hosts),
                came: Vec::new(),
                address,
                deadline,
            });
        };
        let local = stream.local_addr().map_err(|error| failed(error.to_string()))?.ip();
        let mut store = Self {
            stream: Mutex::new(Some(stream)),
            address,
            local,
            hosts: Vec::new(),
            _host: host,
        };
        let came = store.members(until.saturating_duration_since(Instant::now()))?;
        let missing = (0..place.size).filter(|rank| came.iter().all(|member| member.rank != *rank));
        let missing = Member::of(missing, &place.hosts);
        if !missing.is_empty() {
            return Err(DistError::Missing {
                missing,
                came,
                address: store.address.clone(),
                deadline,
            });
        }
        store.hosts = came.into_iter().filter_map(|member| member.host).collect();
        Ok(store)
    }

    /// The host of each rank.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// The address by which this rank reaches the rendezvous: the interface that the job's traffic should take.
    pub fn local_address(&self) -> IpAddr {
        self.local
    }

    /// Keeps `value` under `key` for every rank.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), DistError> {
        let request = Message {
            key: key.into(),
            ..Message::of(Op::Set, value)
        };
        self.ask(&request, ANSWER).map(|_| ())
    }

    /// The value of `key`, as soon as a rank has set it.
    pub fn get(&self, key: &str, deadline: Duration) -> Result<Vec<u8>, DistError> {
        let request = Message {
            key: key.into(),
            number: millis(deadline),
            ..Message::of(Op::Get, [])
        };
        let reply = self.ask(&request, deadline + ANSWER)?;
        if reply.op == Op::NotYet {
            let problem = format!("no rank set {key:?} within {:.1} s", deadline.as_secs_f64());
            return Err(DistError::Rendezvous {
                address: self.address.clone(),
                problem,
            });
        }
        Ok(reply.value)
    }

    /// Waits until every key has a value.
    pub fn wait(&self, keys: &[&str], deadline: Duration) -> Result<(), DistError> {
        let until = Instant::now() + deadline;
        keys.iter().try_for_each(|key| {
            self.get(key, until.saturating_duration_since(Instant::now()))
                .map(|_| ())
        })
    }

    /// Adds `by` to the counter `key`, which begins at 0; answers the sum.
    pub fn add(&self, key: &str, by: i64) -> Result<i64, DistError> {
        let request = Message {
            key: key.into(),
            number: by as u64,
            ..Message::of(Op::Add, [])
        };
        self.ask(&request, ANSWER).map(|reply| reply.number as i64)
    }

    /// Tells the other ranks that this one gives up, and asks which rank is to blame.
    ///
    /// `suspects` are named if the rendezvous does not know better. Takes at most 2.5 s.
    pub fn blame(&self, operation: &'static str, suspects: &[usize], detail: String) -> DistError {
        let verdict = self.ask(&Message::of(Op::Victim, []), ANSWER).and_then(|_| {
            let question = Message {
                number: millis(BLAME),
                ..Message::of(Op::Culprits, [])
            };
            self.ask(&question, BLAME + ANSWER)
        });
        let ranks = match verdict.map(|reply| decode_ranks(&reply.value)) {
            Ok(ranks) if ranks.is_empty() => suspects.to_vec(),
            Ok(ranks) => ranks,
            // The host is rank 0's.
            Err(_) => vec![0],
        };
        DistError::Peer {
            members: Member::of(ranks, &self.hosts),
            operation,
            detail,
        }
    }

    /// Whether any rank has left or given up, for as long as rank 0 may take to answer.
    #[cfg(any(feature = "gloo", feature = "nccl"))]
    pub(crate) fn any_lost(&self, patience: Duration) -> Result<bool, DistError> {
        self.ask(&Message::of(Op::Lost, []), patience.max(ANSWER))
            .map(|reply| !reply.value.is_empty())
    }

    /// The ranks that have come, ascending.
    fn members(&self, wait: Duration) -> Result<Vec<Member>, DistError> {
        let request = Message {
            number: millis(wait),
            ..Message::of(Op::Members, [])
        };
        self.ask(&request, wait + ANSWER)
            .map(|reply| Member::decode_all(&reply.value))
    }

    fn ask(&self, request: &Message, patience: Duration) -> Result<Message, DistError> {
        let mut guard = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match guard.as_mut() {
            Some(stream) => exchange(stream, request, patience),
            None => Err(io::Error::new(ErrorKind::NotConnected, "the connection failed before")),
        };
        match answer {
            Ok(reply) if reply.op == Op::Refused => Err(DistError::Rendezvous {
                address: self.address.clone(),
                problem: String::from_utf8_lossy(&reply.value).into_owned(),
            }),
            Ok(reply) => Ok(reply),
            Err(error) if error.kind() == ErrorKind::InvalidInput => Err(DistError::Rendezvous {
                address: self.address.clone(),
                problem: error.to_string(),
            }),
            Err(error) => {
                // A late answer must not be taken for the answer to the next question.
                *guard = None;
                let detail = format!("no answer from its store at {}: {error}", self.address);
                Err(DistError::Peer {
                    members: Member::of([0], &self.hosts),
                    operation: "rendezvous",
                    detail,
                })
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn exchange(stream: &mut TcpStream, request: &Message, patience: Duration) -> io::Result<Message> {
    stream.set_read_timeout(Some(patience))?;
    request.write(stream)?;
    Message::read(stream)
}

/// A pod's name may resolve a while after its rank has started.
fn resolve(meeting: &Meeting, until: Instant) -> io::Result<Vec<SocketAddr>> {
    loop {
        match (meeting.host.as_str(), meeting.port).to_socket_addrs() {
            Ok(addresses) => {
                let addresses: Vec<SocketAddr> = addresses.collect();
                if !addresses.is_empty() {
                    return Ok(addresses);
                }
            }
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => {}
        }
        if Instant::now() >= until {
            return Err(io::Error::new(ErrorKind::NotFound, "no address"));
        }
        thread::sleep(RETRY);
    }
}

/// Listens at an address of the meeting's name that is this host's own; a replaced pod's name may still have the old one.
fn listen(addresses: &mut Vec<SocketAddr>, place: &Place, meeting: &Meeting, until: Instant) -> io::Result<Host> {
    let until = until.min(Instant::now() + NAME_CACHE);
    let is_name = meeting.host.parse::<IpAddr>().is_err();
    loop {
        match Host::listen(addresses, place.size, &meeting.run, &meeting.secret) {
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable && is_name && Instant::now() < until => {
                thread::sleep(ANSWER);
                if let Ok(found) = resolve(meeting, Instant::now()) {
                    *addresses = found;
                }
            }
            listening => return listening,
        }
    }
}

/// Connects and introduces itself until `until`; `None` if rank 0 did not come in time. An error says why it is hopeless.
fn knock(
    mut addresses: Vec<SocketAddr>,
    claim: &Claim,
    meeting: &Meeting,
    until: Instant,
) -> Result<Option<TcpStream>, String> {
    let mut stale = None;
    let mut resolved = Instant::now();
    let mut was_closed = false;
    loop {
        for address in &addresses {
            let left = until.saturating_duration_since(Instant::now()).max(RETRY);
            let Ok(mut stream) = TcpStream::connect_timeout(address, left.min(STALE)) else {
                continue;
            };
            match enter(&mut stream, claim, &meeting.secret, left) {
                Ok(Entry::Welcome) => return Ok(Some(stream)),
                Ok(Entry::OtherRun(why)) => stale = Some(why),
                Ok(Entry::Refused(why)) => return Err(why),
                Err(error) if is_closed_door(&error) && !was_closed => {
                    was_closed = true;
                    thread::sleep(CLOSED_DOOR);
                }
                Err(error) => return Err(explain(&error)),
            }
        }
        if Instant::now() >= until {
            return stale.map_or(Ok(None), Err);
        }
        thread::sleep(RETRY);
        if resolved.elapsed() > STALE {
            resolved = Instant::now();
            addresses = resolve(meeting, resolved).unwrap_or(addresses);
        }
    }
}

/// How a host received a rank.
enum Entry {
    Welcome,
    OtherRun(String),
    Refused(String),
}

fn enter(stream: &mut TcpStream, claim: &Claim, secret: &str, patience: Duration) -> io::Result<Entry> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience.max(ANSWER)))?;
    wire::introduce(stream, claim, secret)?;
    let reply = Message::read(stream)?;
    let why = String::from_utf8_lossy(&reply.value).into_owned();
    Ok(match reply.op {
        Op::Done => Entry::Welcome,
        Op::OtherRun => Entry::OtherRun(why),
        _ => Entry::Refused(why),
    })
}

fn is_closed_door(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        _ if is_closed_door(error) => {
            "rank 0 closed the door: give every rank the same LIDIT_RENDEZVOUS_SECRET, and read what rank 0 printed if it has just ended".into()
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "rank 0 took the connection and says nothing".into(),
        _ => format!("{error}; check MASTER_ADDR, MASTER_PORT and LIDIT_RENDEZVOUS_SECRET"),
    }
}

fn decode_ranks(bytes: &[u8]) -> Vec<usize> {
    let (ranks, _) = bytes.as_chunks::<4>();
    ranks.iter().map(|rank| u32::from_le_bytes(*rank) as usize).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const _: () = assert!(MAX_FRAME <= u32::MAX as usize);
