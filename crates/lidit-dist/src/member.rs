//! Ranks as a person knows them: by number and host.

use std::ops::RangeInclusive;

/// A rank and the host that it runs on, where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number in the world.
    pub rank: usize,
    /// Its host, as that host calls itself.
    pub host: Option<String>,
}

impl Member {
    /// Each of `ranks` with its host among `hosts`, which are by rank and may be fewer.
    pub(crate) fn of(ranks: impl IntoIterator<Item = usize>, hosts: &[String]) -> Vec<Self> {
        ranks
            .into_iter()
            .map(|rank| Self {
                rank,
                host: hosts.get(rank).cloned(),
            })
            .collect()
    }

    /// One entry of a list: rank, length of the host's name, name; little-endian.
    pub(crate) fn encode(rank: usize, host: &str) -> Vec<u8> {
        let host = &host.as_bytes()[..host.len().min(usize::from(u16::MAX))];
        let mut bytes = (rank as u32).to_le_bytes().to_vec();
        bytes.extend((host.len() as u16).to_le_bytes());
        bytes.extend(host);
        bytes
    }

    /// A list of entries; what is cut off at its end is left out.
    pub(crate) fn decode_all(mut bytes: &[u8]) -> Vec<Self> {
        let mut members = Vec::new();
        while let Some((rank, rest)) = bytes.split_first_chunk::<4>()
            && let Some((len, rest)) = rest.split_first_chunk::<2>()
            && let Some((host, rest)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))
        {
            members.push(Self {
                rank: u32::from_le_bytes(*rank) as usize,
                host: Some(String::from_utf8_lossy(host).into_owned()),
            });
            bytes = rest;
        }
        members
    }
}

/// `rank 2 (on node-b)`, `ranks 0-3 (on node-a), rank 4 (on node-b)`, or `a peer` when nobody knows which.
pub fn names(members: &[Member]) -> String {
    if members.is_empty() {
        return "a peer".into();
    }
    let mut hosts: Vec<(Option<&str>, Vec<usize>)> = Vec::new();
    for member in members {
        let host = member.host.as_deref();
        match hosts.iter_mut().find(|(known, _)| *known == host) {
            Some((_, ranks)) => ranks.push(member.rank),
            None => hosts.push((host, vec![member.rank])),
        }
    }
    let groups: Vec<String> = hosts
        .into_iter()
        .map(|(host, ranks)| {
            let noun = if ranks.len() == 1 { "rank" } else { "ranks" };
            let host = host.map_or(String::new(), |host| format!(" (on {host})"));
            format!("{noun} {}{host}", numbers(&ranks))
        })
        .collect();
    groups.join(", ")
}

/// `1, 3` or `0-7, 9`.
fn numbers(ranks: &[usize]) -> String {
    let mut runs: Vec<RangeInclusive<usize>> = Vec::new();
    for &rank in ranks {
        match runs.last_mut() {
            Some(run) if *run.end() + 1 == rank => *run = *run.start()..=rank,
            _ => runs.push(rank..=rank),
        }
    }
    let texts: Vec<String> = runs
        .into_iter()
        .map(|run| match run.end() - run.start() {
            0 => run.start().to_string(),
            1 => format!("{}, {}", run.start(), run.end()),
            _ => format!("{}-{}", run.start(), run.end()),
        })
        .collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_named_with_their_hosts() {
        let hosts = ["a", "a", "a", "a", "b", "b"].map(String::from);
        let text = |ranks: &[usize], hosts: &[String]| names(&Member::of(ranks.iter().copied(), hosts));
        assert_eq!(text(&[2], &hosts), "rank 2 (on a)");
        assert_eq!(text(&[0, 1, 2, 4], &hosts), "ranks 0-2 (on a), rank 4 (on b)");
        assert_eq!(text(&[0, 1, 3, 5], &hosts), "ranks 0, 1, 3 (on a), rank 5 (on b)");
        assert_eq!(text(&[1, 2], &[]), "ranks 1, 2");
        assert_eq!(text(&[3, 6], &hosts), "rank 3 (on a), rank 6");
        assert_eq!(text(&[], &hosts), "a peer");
    }

    #[test]
    fn lists_of_members_travel_and_cut_ones_lose_their_end() {
        let bytes = [Member::encode(7, "node-b"), Member::encode(0, "")].concat();
        let members = Member::decode_all(&bytes);
        assert_eq!(
            members,
            Member::of([7, 0], &["", "", "", "", "", "", "", "node-b"].map(String::from))
        );
        assert_eq!(Member::decode_all(&bytes[..bytes.len() - 1]), members[..1]);
    }
}
