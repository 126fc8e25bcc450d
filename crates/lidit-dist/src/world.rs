//! The processes of a run, seen from one of them.

use std::ops::Range;
use std::time::Duration;

use crate::{DistError, Place};

/// The processes of a run, seen from one of them.
///
/// Every collective must be called by every rank, in the same order, with buffers of the same length. Sums run over
/// ranks in rank order, element by element (Gloo), so they are bit-equal on every rank, in every rerun, and whether a
/// vector is reduced whole or in ranges. NCCL chooses its own order, the same in every rerun of one topology.
///
/// After an error the world is dead: every later collective fails too.
pub struct World {
    rank: usize,
    size: usize,
    local_rank: usize,
    transport: Transport,
}

/// How bytes cross processes.
pub enum Transport {
    /// One process: nothing crosses anything.
    Solo,
}

impl World {
    /// A world of one rank, without any engine.
    pub fn solo() -> Self {
        Self {
            rank: 0,
            size: 1,
            local_rank: 0,
            transport: Transport::Solo,
        }
    }

    /// The world that the environment describes ([`Place::from_env`]); the only reader of environment variables.
    ///
    /// `deadline` bounds the rendezvous and, later, each collective: it must be longer than the longest time one rank
    /// may lag behind another.
    pub fn from_env(deadline: Duration) -> Result<Self, DistError> {
        Self::join(&Place::from_env()?, deadline)
    }

    /// Takes a place in a world and waits for the other ranks.
    pub fn join(place: &Place, deadline: Duration) -> Result<Self, DistError> {
        let _ = deadline;
        if place.size == 1 {
            return Ok(Self {
                local_rank: place.local_rank,
                ..Self::solo()
            });
        }
        Err(DistError::NoEngine { size: place.size })
    }

    /// This process, `0..size`.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many processes share the run.
    pub fn size(&self) -> usize {
        self.size
    }

    /// This process among those of its host: the GPU it should take.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// The name of the transport, for logs: `solo`, `gloo` or `nccl`.
    pub fn transport(&self) -> &'static str {
        match &self.transport {
            Transport::Solo => "solo",
        }
    }

    /// Replaces `values` on every rank by their sum over ranks.
    pub fn all_reduce_sum(&self, values: &mut [f32]) -> Result<(), DistError> {
        let _ = values;
        match &self.transport {
            Transport::Solo => Ok(()),
        }
    }

    /// Replaces `values[ranges[rank]]` by its sum over ranks; what lies outside the own range is unspecified afterwards.
    ///
    /// `ranges`: one a rank, ascending, disjoint, of any lengths (empty ones too), the same on every rank.
    pub fn reduce_scatter_sum(
        &self,
        values: &mut [f32],
        ranges: &[Range<usize>],
    ) -> Result<(), DistError> {
        assert_ranges(ranges, self.size, values.len());
        match &self.transport {
            Transport::Solo => Ok(()),
        }
    }

    /// Fills `values[ranges[r]]` with rank r's values, for every r.
    ///
    /// `ranges`: as in [`World::reduce_scatter_sum`].
    pub fn all_gather(&self, values: &mut [f32], ranges: &[Range<usize>]) -> Result<(), DistError> {
        assert_ranges(ranges, self.size, values.len());
        match &self.transport {
            Transport::Solo => Ok(()),
        }
    }

    /// Replaces `values` on every rank by their sum over ranks, in f64: counts, losses, squared norms.
    pub fn sum_f64(&self, values: &mut [f64]) -> Result<(), DistError> {
        let _ = values;
        match &self.transport {
            Transport::Solo => Ok(()),
        }
    }

    /// The largest `value` of all ranks: flags, stop requests.
    pub fn max(&self, value: u64) -> Result<u64, DistError> {
        match &self.transport {
            Transport::Solo => Ok(value),
        }
    }

    /// Returns once every rank is here.
    pub fn barrier(&self) -> Result<(), DistError> {
        self.max(0).map(|_| ())
    }

    /// Replaces `bytes` on every rank by those of rank `root`; lengths may differ before.
    pub fn broadcast(&self, bytes: &mut Vec<u8>, root: usize) -> Result<(), DistError> {
        assert!(
            root < self.size,
            "broadcast from rank {root} of {}",
            self.size
        );
        let _ = bytes;
        match &self.transport {
            Transport::Solo => Ok(()),
        }
    }
}

/// Ranges that overlap or leave the buffer are a bug of the caller, not a failure of a run.
fn assert_ranges(ranges: &[Range<usize>], size: usize, len: usize) {
    assert_eq!(ranges.len(), size, "one range a rank");
    let mut end = 0;
    for range in ranges {
        assert!(
            range.start >= end && range.end >= range.start,
            "ranges ascend and are disjoint: {ranges:?}"
        );
        end = range.end;
    }
    assert!(end <= len, "ranges {ranges:?} leave a buffer of {len}");
}
