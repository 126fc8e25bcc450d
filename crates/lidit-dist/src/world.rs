//! The processes of a run, seen from one of them.

use std::ops::Range;
use std::time::Duration;

use bytemuck::Pod;

#[cfg(feature = "gloo")]
use crate::Gloo;
#[cfg(feature = "nccl")]
use crate::Nccl;
use crate::{DistError, Engine, Place};

/// The processes of a run, seen from one of them.
///
/// Every collective must be called by every rank, in the same order, with buffers of the same length. Over Gloo, sums
/// run in rank order, element by element: bit-equal on every rank, in every rerun, and whether a vector is reduced whole
/// or in ranges. NCCL chooses its own order, the same in every rerun on one topology.
///
/// After an error the world is dead: every later collective fails too. Drop it and exit; a launcher starts it anew.
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
    /// CPU processes.
    #[cfg(feature = "gloo")]
    Gloo(Gloo),
    /// GPU processes.
    #[cfg(feature = "nccl")]
    Nccl(Nccl),
}

/// The type in which the summands of a reduction travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// As they are.
    F32,
    /// Rounded to bf16 by every rank, the own summands too. Gloo adds them in f32 and keeps the sum so; NCCL adds in bf16.
    Bf16,
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

    /// The world that the environment describes ([`Place::from_env`]), the only reader of environment variables.
    ///
    /// `deadline` bounds the rendezvous and, later, each collective: it must exceed the longest time by which one rank
    /// may lag behind another.
    pub fn from_env(deadline: Duration) -> Result<Self, DistError> {
        Self::join(&Place::from_env()?, deadline)
    }

    /// Takes a place in a world, and waits for the other ranks to take theirs.
    pub fn join(place: &Place, deadline: Duration) -> Result<Self, DistError> {
        let transport = match &place.meeting {
            Some(_) => Transport::join(place, deadline)?,
            None => Transport::Solo,
        };
        Ok(Self {
            rank: place.rank,
            size: place.size,
            local_rank: place.local_rank,
            transport,
        })
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

    /// How bytes cross processes here.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }
}

#[cfg_attr(
    not(any(feature = "gloo", feature = "nccl")),
    expect(
        unused_variables,
        clippy::ptr_arg,
        reason = "without an engine nothing crosses processes"
    )
)]
impl World {
    /// Replaces `values` on every rank by their sum over ranks. A world of one rank rounds nothing.
    pub fn all_reduce_sum(&self, values: &mut [f32], wire: Wire) -> Result<(), DistError> {
        match &self.transport {
            Transport::Solo => Ok(()),
            #[cfg(feature = "gloo")]
            Transport::Gloo(gloo) => match wire {
                Wire::F32 => gloo.all_reduce("all_reduce_sum", values, |a, b| a + b),
                Wire::Bf16 => gloo.all_reduce_bf16("all_reduce_sum", values),
            },
            #[cfg(feature = "nccl")]
            Transport::Nccl(nccl) => nccl.all_reduce_sum(values, wire),
        }
    }

    /// Replaces `values[ranges[rank]]` by its sum over ranks; what lies outside the own range is unspecified afterwards.
    ///
    /// `ranges`: one a rank, ascending, disjoint, of any lengths (empty ones too), the same on every rank.
    pub fn reduce_scatter_sum(&self, values: &mut [f32], ranges: &[Range<usize>], wire: Wire) -> Result<(), DistError> {
        assert_ranges(ranges, self.size, values.len());
        match &self.transport {
            Transport::Solo => Ok(()),
            #[cfg(feature = "gloo")]
            Transport::Gloo(gloo) => match wire {
                Wire::F32 => gloo.reduce_scatter("reduce_scatter_sum", values, ranges, |a, b| a + b),
                Wire::Bf16 => gloo.reduce_scatter_bf16("reduce_scatter_sum", values, ranges),
            },
            #[cfg(feature = "nccl")]
            Transport::Nccl(nccl) => nccl.reduce_scatter_sum(values, ranges, wire),
        }
    }

    /// Fills `values[ranges[r]]` with rank r's values, for every r. They travel as they are: f32, u16, bytes.
    ///
    /// `ranges`: as in [`World::reduce_scatter_sum`]; what lies outside of all ranges stays as it was.
    pub fn all_gather<T: Pod>(&self, values: &mut [T], ranges: &[Range<usize>]) -> Result<(), DistError> {
        assert_ranges(ranges, self.size, values.len());
        match &self.transport {
            Transport::Solo => Ok(()),
            #[cfg(feature = "gloo")]
            Transport::Gloo(gloo) => gloo.all_gather("all_gather", values, ranges),
            #[cfg(feature = "nccl")]
            Transport::Nccl(nccl) => nccl.all_gather(values, ranges),
        }
    }

    /// Replaces `values` on every rank by their sum over ranks, in f64: counts, losses, squared norms.
    pub fn sum_f64(&self, values: &mut [f64]) -> Result<(), DistError> {
        match &self.transport {
            Transport::Solo => Ok(()),
            #[cfg(feature = "gloo")]
            Transport::Gloo(gloo) => gloo.all_reduce("sum_f64", values, |a, b| a + b),
            #[cfg(feature = "nccl")]
            Transport::Nccl(nccl) => nccl.sum_f64(values),
        }
    }

    /// The largest `value` of all ranks: flags, stop requests.
    pub fn max(&self, value: u64) -> Result<u64, DistError> {
        match &self.transport {
            Transport::Solo => Ok(value),
            #[cfg(feature = "gloo")]
            Transport::Gloo(gloo) => {
                let mut values = [value];
                gloo.all_reduce("max", &mut values, u64::max)?;
                Ok(values[0])
            }
            #[cfg(feature = "nccl")]
            Transport::Nccl(nccl) => nccl.max(value),
        }
    }

    /// Returns once every rank is here.
    pub fn barrier(&self) -> Result<(), DistError> {
        self.max(0).map(|_| ())
    }

    /// Replaces `bytes` on every rank by those of rank `root`; lengths may differ before. At most 4 GiB.
    pub fn broadcast(&self, bytes: &mut Vec<u8>, root: usize) -> Result<(), DistError> {
        assert!(root < self.size, "broadcast from rank {root} of {}", self.size);
        match &self.transport {
            Transport::Solo => Ok(()),
            #[cfg(feature = "gloo")]
            Transport::Gloo(gloo) => gloo.broadcast(bytes, root),
            #[cfg(feature = "nccl")]
            Transport::Nccl(nccl) => nccl.broadcast(bytes, root),
        }
    }
}

impl Transport {
    /// `solo`, `gloo` or `nccl`, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Solo => "solo",
            #[cfg(feature = "gloo")]
            Self::Gloo(_) => "gloo",
            #[cfg(feature = "nccl")]
            Self::Nccl(_) => "nccl",
        }
    }

    /// Starts the engine asked for; a binary that has both takes Gloo, which needs no GPU.
    #[cfg_attr(
        not(any(feature = "gloo", feature = "nccl")),
        expect(unused_variables, reason = "without an engine there is nothing to wait for")
    )]
    fn join(place: &Place, deadline: Duration) -> Result<Self, DistError> {
        let wants = |engine| place.engine.is_none_or(|asked| asked == engine);
        #[cfg(feature = "gloo")]
        if let (true, Some(meeting)) = (wants(Engine::Gloo), &place.meeting) {
            return Gloo::join(place, meeting, deadline).map(Self::Gloo);
        }
        #[cfg(feature = "nccl")]
        if let (true, Some(meeting)) = (wants(Engine::Nccl), &place.meeting) {
            return Nccl::join(place, meeting, deadline).map(Self::Nccl);
        }
        let features = match (wants(Engine::Gloo), wants(Engine::Nccl)) {
            (true, false) => "--features gloo",
            (false, true) => "--features nccl",
            _ => "--features gloo (CPU) or nccl (GPU)",
        };
        Err(DistError::NoEngine {
            size: place.size,
            features,
        })
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn alone_every_collective_is_the_identity() {
        let world = World::solo();
        assert_eq!((world.rank(), world.size(), world.transport().name()), (0, 1, "solo"));
        let mut values = [1.5, -2.0, 0.25];
        world.all_reduce_sum(&mut values, Wire::Bf16).unwrap();
        let whole = 0..3;
        world
            .reduce_scatter_sum(&mut values, std::slice::from_ref(&whole), Wire::F32)
            .unwrap();
        world.all_gather(&mut values, &[whole]).unwrap();
        assert_eq!(values.map(f32::to_bits), [1.5f32, -2.0, 0.25].map(f32::to_bits));
        assert_eq!(world.max(7).unwrap(), 7);
        let mut bytes = vec![1, 2];
        world.broadcast(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [1, 2]);
    }

    #[test]
    #[should_panic(expected = "ascend and are disjoint")]
    fn overlapping_ranges_are_a_bug() {
        assert_ranges(&[0..3, 2..4], 2, 4);
    }

    #[cfg(not(any(feature = "gloo", feature = "nccl")))]
    #[test]
    fn two_ranks_without_an_engine_are_told_what_to_build() {
        let meeting = crate::Meeting {
            host: "localhost".into(),
            port: 1,
            run: "r".into(),
            secret: "s".into(),
        };
        let place = Place {
            meeting: Some(meeting),
            ..Place::of(0, 2, 0)
        };
        let error = World::join(&place, Duration::from_secs(1)).err().expect("no engine");
        assert!(error.to_string().contains("--features gloo"), "{error}");
    }
}
