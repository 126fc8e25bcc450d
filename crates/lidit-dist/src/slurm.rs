//! What Slurm says of a step's hosts.

use crate::place::Lookup;

/// The most hosts that a list may stand for; Slurm's own limit is 65,536.
const MAX_HOSTS: usize = 1 << 16;

/// The host of each of `size` ranks, where Slurm's variables tell; empty where they don't.
///
/// `SLURM_STEP_NODELIST` names the hosts, `SLURM_STEP_TASKS_PER_NODE` counts their ranks, `SLURM_DISTRIBUTION` says how
/// ranks were dealt out (block by default). Other distributions than `block` and `cyclic` don't tell.
pub fn hosts_of_ranks(size: usize, get: Lookup) -> Vec<String> {
    let known = || {
        let hosts = expand(&get("SLURM_STEP_NODELIST")?)?;
        let tasks = tasks_per_node(&get("SLURM_STEP_TASKS_PER_NODE")?)?;
        if hosts.len() != tasks.len() || tasks.iter().sum::<usize>() != size {
            return None;
        }
        let distribution = get("SLURM_DISTRIBUTION").unwrap_or_else(|| "block".into());
        match distribution.split([':', ',']).next()? {
            "block" => Some(in_blocks(&hosts, &tasks)),
            "cyclic" => Some(in_turns(&hosts, &tasks)),
            _ => None,
        }
    };
    known().unwrap_or_default()
}

/// The hosts of a list such as `gpu[003-005,9],login`; `None` if it is none.
pub fn expand(nodes: &str) -> Option<Vec<String>> {
    let mut hosts = Vec::new();
    let mut rest = nodes;
    while !rest.is_empty() {
        // A comma inside of brackets ends no host.
        let mut depth = 0;
        let end = rest.find(|letter| {
            match letter {
                '[' => depth += 1,
                ']' => depth -= 1,
                _ => {}
            }
            letter == ',' && depth == 0
        });
        let (host, tail) = end.map_or((rest, ""), |end| (&rest[..end], &rest[end + 1..]));
        expand_one(String::new(), host, &mut hosts)?;
        rest = tail;
    }
    (!hosts.is_empty()).then_some(hosts)
}

/// Appends every host that `begun` followed by `pattern` stands for.
fn expand_one(begun: String, pattern: &str, hosts: &mut Vec<String>) -> Option<()> {
    let Some((plain, rest)) = pattern.split_once('[') else {
        hosts.push(begun + pattern);
        return (hosts.len() <= MAX_HOSTS).then_some(());
    };
    let (numbers, rest) = rest.split_once(']')?;
    for part in numbers.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if to.checked_sub(from)? > MAX_HOSTS {
            return None;
        }
        for number in from..=to {
            expand_one(
                format!("{begun}{plain}{number:0width$}", width = first.len()),
                rest,
                hosts,
            )?;
        }
    }
    Some(())
}

/// Ranks of each host, from `2(x3),1`.
fn tasks_per_node(text: &str) -> Option<Vec<usize>> {
    let mut tasks = Vec::new();
    for part in text.split(',') {
        let (count, times) = match part.strip_suffix(')').map(|part| part.split_once("(x")) {
            Some(repeated) => {
                let (count, times) = repeated?;
                (count, times.parse().ok()?)
            }
            None => (part, 1),
        };
        if times > MAX_HOSTS {
            return None;
        }
        tasks.extend(std::iter::repeat_n(count.parse::<usize>().ok()?, times));
    }
    Some(tasks)
}

fn in_blocks(hosts: &[String], tasks: &[usize]) -> Vec<String> {
    let blocks = hosts.iter().zip(tasks);
    blocks
        .flat_map(|(host, &tasks)| std::iter::repeat_n(host.clone(), tasks))
        .collect()
}

fn in_turns(hosts: &[String], tasks: &[usize]) -> Vec<String> {
    let rounds = 0..tasks.iter().copied().max().unwrap_or(0);
    let turn = |round| hosts.iter().zip(tasks).filter(move |(_, tasks)| **tasks > round);
    rounds
        .flat_map(|round| turn(round).map(|(host, _)| host.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn node_lists_expand_as_scontrol_shows_them() {
        for (nodes, hosts) in [
            ("a", "a"),
            ("a,b", "a b"),
            ("n[7]", "n7"),
            ("gpu[003-005,9],login", "gpu003 gpu004 gpu005 gpu9 login"),
            ("r[1-2]n[09-10]x", "r1n09x r1n10x r2n09x r2n10x"),
            ("n1-a,n2", "n1-a n2"),
        ] {
            assert_eq!(expand(nodes).unwrap().join(" "), hosts, "{nodes}");
        }
        for nodes in ["", "n[1", "n[2-1]", "n[a-b]", "n[0-99999999]"] {
            assert_eq!(expand(nodes), None, "{nodes}");
        }
    }

    #[test]
    fn ranks_are_on_the_hosts_that_the_distribution_says() {
        let hosts = |tasks: &'static str, distribution: Option<&'static str>| {
            let get = move |name: &str| match name {
                "SLURM_STEP_NODELIST" => Some("n[1-3]".to_owned()),
                "SLURM_STEP_TASKS_PER_NODE" => Some(tasks.to_owned()),
                "SLURM_DISTRIBUTION" => distribution.map(str::to_owned),
                _ => None,
            };
            hosts_of_ranks(5, &get).join(" ")
        };
        assert_eq!(hosts("2(x2),1", None), "n1 n1 n2 n2 n3");
        assert_eq!(hosts("2(x2),1", Some("cyclic:block")), "n1 n2 n3 n1 n2");
        assert_eq!(hosts("2(x2),1", Some("plane=2")), "");
        assert_eq!(hosts("2(x3)", None), "", "six tasks are no world of five");
        assert_eq!(hosts("5", None), "", "one count for three hosts");
    }
}
