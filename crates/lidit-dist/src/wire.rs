//! Bounded frames, and the handshake that lets a rank in and keeps a stranger out.
//!
//! Both sides prove that they know the secret without sending it: each answers the other's random challenge with an
//! HMAC-SHA256 of both challenges and of who it claims to be. A stranger receives 48 random-looking bytes and nothing else.
//! What follows is neither encrypted nor authenticated further: run it on the job's private network.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The most one frame may hold. Control traffic is addresses, ids and counters.
pub const MAX_FRAME: usize = 1 << 20;
/// The most a side that has proved nothing yet may send.
const MAX_HANDSHAKE: usize = 4096;
const MAGIC: &[u8; 16] = b"lidit meeting 2\n";
const CHALLENGE: usize = 32;
const PROOF: usize = 32;

/// What a request asks for, and how a reply ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// Keep `value` under `key`.
    Set = 1,
    /// Answer the value of `key`, waiting up to `number` ms for it.
    Get,
    /// Add `number` (two's complement) to the counter `key`; answers the sum.
    Add,
    /// Answer the ranks that have come and their hosts, waiting up to `number` ms for all.
    Members,
    /// This rank gives up because of another one.
    Victim,
    /// Answer the ranks that left or gave up.
    Lost,
    /// Answer the ranks at fault, waiting up to `number` ms to tell.
    Culprits,
    /// Reply: done.
    Done,
    /// Reply: still nothing after the time given.
    NotYet,
    /// Reply: refused, `value` says why.
    Refused,
    /// Reply: another attempt of the run meets here, `value` says which; worth trying again.
    OtherRun,
}

/// One request or reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it asks for.
    pub op: Op,
    /// Milliseconds or a summand.
    pub number: u64,
    /// The entry meant.
    pub key: String,
    /// Bytes to keep, or kept.
    pub value: Vec<u8>,
}

impl Message {
    /// A message of `op` and `value` alone.
    pub fn of(op: Op, value: impl Into<Vec<u8>>) -> Self {
        Self {
            op,
            number: 0,
            key: String::new(),
            value: value.into(),
        }
    }

    /// Writes one frame: length, op, number, key, value; little-endian.
    pub fn write(&self, stream: &mut TcpStream) -> io::Result<()> {
        let len = 11 + self.key.len() + self.value.len();
        if len > MAX_FRAME || self.key.len() > usize::from(u16::MAX) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("message of {len} bytes, at most {MAX_FRAME} are allowed"),
            ));
        }
        let mut frame = Vec::with_capacity(4 + len);
        frame.extend((len as u32).to_le_bytes());
        frame.push(self.op as u8);
        frame.extend(self.number.to_le_bytes());
        frame.extend((self.key.len() as u16).to_le_bytes());
        frame.extend(self.key.as_bytes());
        frame.extend(&self.value);
        stream.write_all(&frame)
    }

    /// Reads one frame; a length beyond [`MAX_FRAME`] is refused before anything is allocated.
    pub fn read(stream: &mut TcpStream) -> io::Result<Self> {
        let frame = read_frame(stream, MAX_FRAME)?;
        Self::parse(&frame).ok_or_else(|| invalid("a frame that is no message"))
    }

    fn parse(frame: &[u8]) -> Option<Self> {
        let (op, rest) = frame.split_first()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let (key_len, rest) = rest.split_first_chunk::<2>()?;
        let (key, value) = rest.split_at_checked(usize::from(u16::from_le_bytes(*key_len)))?;
        Some(Self {
            op: Op::parse(*op)?,
            number: u64::from_le_bytes(*number),
            key: String::from_utf8(key.to_vec()).ok()?,
            value: value.to_vec(),
        })
    }
}

impl Op {
    fn parse(byte: u8) -> Option<Self> {
        const ALL: [Op; 11] = [
            Op::Set,
            Op::Get,
            Op::Add,
            Op::Members,
            Op::Victim,
            Op::Lost,
            Op::Culprits,
            Op::Done,
            Op::NotYet,
            Op::Refused,
            Op::OtherRun,
        ];
        ALL.into_iter().find(|op| *op as u8 == byte)
    }
}

/// Who a connecting rank says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its rank.
    pub rank: usize,
    /// The world size it expects.
    pub size: usize,
    /// The host it runs on.
    pub host: String,
    /// The attempt it belongs to.
    pub run: String,
}

/// The rank's side of the handshake. `UnexpectedEof` means that the host did not accept the proof.
pub fn introduce(stream: &mut TcpStream, claim: &Claim, secret: &str) -> io::Result<()> {
    let mut greeting = [0; MAGIC.len() + CHALLENGE];
    stream.read_exact(&mut greeting)?;
    let (magic, theirs) = greeting.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(invalid("something else than lidit listens there"));
    }
    let own: [u8; CHALLENGE] = random_bytes()?;
    let claim = claim.encode();
    let mut answer = own.to_vec();
    answer.extend(sign(secret, b"rank", theirs, &own, &claim));
    answer.extend(&claim);
    stream.write_all(&(answer.len() as u32).to_le_bytes())?;
    stream.write_all(&answer)?;
    let mut proof = [0; PROOF];
    stream.read_exact(&mut proof)?;
    if verify(secret, b"host", theirs, &own, &claim, &proof) {
        Ok(())
    } else {
        Err(invalid("the host does not know the secret"))
    }
}

/// The host's side of the handshake: the claim of a rank that knows the secret, or an error that the other side never sees.
pub fn challenge(stream: &mut TcpStream, secret: &str) -> io::Result<Claim> {
    let own: [u8; CHALLENGE] = random_bytes()?;
    stream.write_all(&[MAGIC.as_slice(), own.as_slice()].concat())?;
    let answer = read_frame(stream, MAX_HANDSHAKE)?;
    let parts = answer.split_first_chunk::<CHALLENGE>();
    let parts = parts.and_then(|(theirs, rest)| Some((theirs, rest.split_first_chunk::<PROOF>()?)));
    let (theirs, (proof, claim)) = parts.ok_or_else(|| invalid("an answer that is too short"))?;
    if !verify(secret, b"rank", &own, theirs, claim, proof) {
        return Err(invalid("wrong secret"));
    }
    stream.write_all(&sign(secret, b"host", &own, theirs, claim))?;
    Claim::decode(claim).ok_or_else(|| invalid("a claim that is none"))
}

impl Claim {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = (self.rank as u64).to_le_bytes().to_vec();
        bytes.extend((self.size as u64).to_le_bytes());
        bytes.extend((self.host.len() as u16).to_le_bytes());
        bytes.extend(self.host.as_bytes());
        bytes.extend(self.run.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (rank, rest) = bytes.split_first_chunk::<8>()?;
        let (size, rest) = rest.split_first_chunk::<8>()?;
        let (host_len, rest) = rest.split_first_chunk::<2>()?;
        let (host, run) = rest.split_at_checked(usize::from(u16::from_le_bytes(*host_len)))?;
        Some(Self {
            rank: u64::from_le_bytes(*rank) as usize,
            size: u64::from_le_bytes(*size) as usize,
            host: String::from_utf8(host.to_vec()).ok()?,
            run: String::from_utf8(run.to_vec()).ok()?,
        })
    }
}

fn mac(secret: &str, side: &[u8], host: &[u8], rank: &[u8], claim: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
    for part in [MAGIC.as_slice(), side, host, rank, claim] {
        mac.update(part);
    }
    Some(mac)
}

fn sign(secret: &str, side: &[u8], host: &[u8], rank: &[u8], claim: &[u8]) -> Vec<u8> {
    mac(secret, side, host, rank, claim)
        .map(|mac| mac.finalize().into_bytes().to_vec())
        .unwrap_or_default()
}

/// Compares in constant time.
fn verify(secret: &str, side: &[u8], host: &[u8], rank: &[u8], claim: &[u8], proof: &[u8]) -> bool {
    mac(secret, side, host, rank, claim).is_some_and(|mac| mac.verify_slice(proof).is_ok())
}

fn read_frame(stream: &mut TcpStream, max: usize) -> io::Result<Vec<u8>> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > max {
        return Err(invalid("a frame that is too long"));
    }
    let mut frame = vec![0; len];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

/// Bytes that nobody can guess.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_messages_are_refused() {
        for frame in [
            &[][..],
            &[1],
            &[99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, b'k'],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0xff],
        ] {
            assert_eq!(Message::parse(frame), None, "{frame:?}");
        }
    }

    #[test]
    fn a_proof_binds_the_side_the_challenges_and_the_claim() {
        let proof = sign("secret", b"rank", b"host", b"mine", b"claim");
        let check = |secret, side: &[u8], host: &[u8], rank: &[u8], claim: &[u8]| {
            verify(secret, side, host, rank, claim, &proof)
        };
        assert!(check("secret", b"rank", b"host", b"mine", b"claim"));
        assert!(!check("Secret", b"rank", b"host", b"mine", b"claim"));
        assert!(!check("secret", b"host", b"host", b"mine", b"claim"));
        assert!(!check("secret", b"rank", b"hosT", b"mine", b"claim"));
        assert!(!check("secret", b"rank", b"host", b"mind", b"claim"));
        assert!(!check("secret", b"rank", b"host", b"mine", b"claiM"));
        assert!(
            !verify("secret", b"rank", b"host", b"mine", b"claim", &proof[..16]),
            "a short proof"
        );
    }
}
