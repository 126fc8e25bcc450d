//! What can go wrong between processes.

use std::time::Duration;

use crate::member::{Member, names};

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
    #[error("{} did not come to the rendezvous at {address} within {:.1} s{}: start every rank with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE, and read what the missing ones printed", names(.missing), .deadline.as_secs_f64(), who_did(.came))]
    Missing {
        /// Who is missing; their hosts only where the launcher says which they should run on.
        missing: Vec<Member>,
        /// Who came.
        came: Vec<Member>,
        /// Where they met.
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
    #[error("{} failed or did not answer in {operation}: {detail}", names(.members))]
    Peer {
        /// Who is at fault; empty when nobody could tell.
        members: Vec<Member>,
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

/// So that a person sees which host lacks.
fn who_did(came: &[Member]) -> String {
    if came.is_empty() {
        return String::new();
    }
    format!(" ({} did)", names(came))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_missing_ranks_are_named_with_their_hosts() {
        let hosts = ["node-a", "node-a", "node-b"].map(String::from);
        let lost = DistError::Peer {
            members: Member::of([2], &hosts),
            operation: "all_gather",
            detail: "connection closed".into(),
        };
        assert_eq!(
            lost.to_string(),
            "rank 2 (on node-b) failed or did not answer in all_gather: connection closed"
        );
        let missing = |came: &[usize]| {
            DistError::Missing {
                missing: Member::of([3], &[]),
                came: Member::of(came.iter().copied(), &hosts),
                address: "node-a:29500".into(),
                deadline: Duration::from_millis(1500),
            }
            .to_string()
        };
        assert!(
            missing(&[0, 1, 2]).starts_with(
                "rank 3 did not come to the rendezvous at node-a:29500 within 1.5 s (ranks 0, 1 (on node-a), rank 2 (on node-b) did): "
            ),
            "{}",
            missing(&[0, 1, 2])
        );
        assert!(missing(&[]).contains("within 1.5 s: start"));
    }
}
