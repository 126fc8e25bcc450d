//! What can go wrong between processes.

use std::time::Duration;

/// Every way in which processes fail to meet or to exchange.
#[derive(Debug, thiserror::Error)]
pub enum DistError {
    /// The environment says nothing usable, or contradicts itself. Names the variables.
    #[error("{variables}: {problem}")]
    Environment {
        /// The variables at fault, with their values.
        variables: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// More than one rank, and a binary without the engine.
    #[error(
        "world size {size} needs a way to reach the other ranks, and this binary was built without it: build with {features}"
    )]
    NoEngine {
        /// The world size asked for.
        size: usize,
        /// The cargo features to build with.
        features: &'static str,
    },
    /// Ranks that did not come to the rendezvous in time.
    #[error("{} did not come to the rendezvous at {address} within {:.1} s: start every rank with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE, and read what the missing ones printed", name_ranks(.ranks), .deadline.as_secs_f64())]
    Missing {
        /// The missing ranks.
        ranks: Vec<usize>,
        /// Where the others met.
        address: String,
        /// How long they waited.
        deadline: Duration,
    },
    /// The rendezvous itself failed: no listener, wrong secret, a rank taken twice.
    #[error("rendezvous at {address}: {problem}")]
    Rendezvous {
        /// Where the ranks meet.
        address: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A peer failed, left, or did not answer within the deadline. The whole world is unusable afterwards.
    #[error("{} failed or did not answer in {operation}: {detail}", name_ranks(.ranks))]
    Peer {
        /// The ranks at fault; empty when nobody could tell.
        ranks: Vec<usize>,
        /// The collective that failed.
        operation: &'static str,
        /// What the engine saw.
        detail: String,
    },
    /// The engine of this rank failed by itself: a missing library, no device, no memory.
    #[error("{engine}: {problem}")]
    Engine {
        /// `gloo` or `nccl`.
        engine: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl DistError {
    /// Whether another rank is to blame: such a run ends with exit code 76 and is worth starting again.
    pub fn is_peer_failure(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Peer { .. })
    }
}

/// `rank 2`, `ranks 1, 3`, or `a peer` when nobody knows which.
fn name_ranks(ranks: &[usize]) -> String {
    match ranks {
        [] => "a peer".into(),
        [one] => format!("rank {one}"),
        many => {
            let names: Vec<String> = many.iter().map(usize::to_string).collect();
            format!("ranks {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_ranks_are_named() {
        let text = |ranks: &[usize]| {
            DistError::Peer {
                ranks: ranks.to_vec(),
                operation: "all_gather",
                detail: "connection closed".into(),
            }
            .to_string()
        };
        assert_eq!(
            text(&[2]),
            "rank 2 failed or did not answer in all_gather: connection closed"
        );
        assert!(text(&[1, 3]).starts_with("ranks 1, 3 failed"));
        assert!(text(&[]).starts_with("a peer failed"));
    }
}
