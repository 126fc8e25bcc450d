//! Gradient sums in flat space, and their reduction over ranks.

use std::ops::Range;

use anyhow::Result;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use lidit_dist::{Wire, World};
use lidit_kernels::{SQUARES_ROW, sum_of_squares};

use crate::buckets::{Buckets, overlapped, packed};
use crate::config::{ReduceDtype, Sharding, TrainConfig};
use crate::layout::{FlatLayout, even_ranges};
use crate::optimizer::host;
use crate::packing::Packing;

/// Bytes of `train.bucket_mb = 1`.
const MB: usize = 1_000_000;

/// The ranges of flat space that each rank updates, and how they travel.
#[derive(Clone, Debug)]
pub struct Ownership {
    own: Range<usize>,
    len: usize,
    rank: usize,
    size: usize,
    sharding: Sharding,
    /// The summands' type on their way.
    wire: Wire,
    /// The weights' types on their way.
    packing: Packing,
    buckets: Buckets,
}

impl Ownership {
    /// Who owns what of `layout` in a world of `size`, for `rank`. `zero1`: about the same share for each rank; `none`:
    /// everything for every rank.
    pub fn new(train: &TrainConfig, layout: &FlatLayout, rank: usize, size: usize) -> Self {
        let len = layout.len();
        let ranges = ranges(train.sharding, len, size);
        Self {
            own: ranges[if ranges.len() > 1 { rank } else { 0 }].clone(),
            len,
            rank,
            size,
            sharding: train.sharding,
            wire: train.reduce_dtype.into(),
            packing: layout.packing(train.precision),
            buckets: Buckets::new(ranges, train.bucket_mb * MB / size_of::<f32>()),
        }
    }

    /// This rank's range.
    pub fn own(&self) -> Range<usize> {
        self.own.clone()
    }

    /// Whether ranks hold different ranges.
    pub fn is_split(&self) -> bool {
        self.sharding == Sharding::Zero1 && self.size > 1
    }

    /// The parts of the own range, counted from its start, that are updated one after the other: at least one.
    pub fn pieces(&self) -> Vec<Range<usize>> {
        let whole = std::iter::once(0..self.own.len());
        if !self.is_split() || self.own.is_empty() {
            return whole.collect();
        }
        (0..self.buckets.count())
            .map(|bucket| self.buckets.slice(bucket, self.rank))
            .filter(|slice| !slice.is_empty())
            .map(|slice| slice.start - self.own.start..slice.end - self.own.start)
            .collect()
    }

    /// The own range's values in its pieces.
    pub fn split(&self, own: &Tensor<1>) -> Vec<Tensor<1>> {
        let pieces = self.pieces();
        if pieces.len() == 1 {
            return vec![own.clone()];
        }
        pieces.into_iter().map(|piece| own.clone().slice([piece])).collect()
    }

    /// The own range of the sum over all ranks of each rank's `gradients`, `[len]`. A bucket is reduced while the next one
    /// is copied to the host.
    pub fn reduce(&self, gradients: Tensor<1>, world: &World) -> Result<Tensor<1>> {
        if self.size == 1 {
            return Ok(gradients);
        }
        let device = gradients.device();
        let mut own = Vec::with_capacity(self.own.len());
        overlapped(
            self.buckets.count(),
            |bucket| self.bucket_of(&gradients, bucket),
            |bucket, summands| self.reduce_bucket(bucket, summands, world),
            |_, sums| own.extend_from_slice(&sums),
        )?;
        let len = own.len();
        Ok(Tensor::from_data(TensorData::new(own, [len]), &device))
    }

    fn bucket_of(&self, gradients: &Tensor<1>, bucket: usize) -> Vec<f32> {
        let slices = self.buckets.slices(bucket).filter(|slice| !slice.is_empty());
        let parts: Vec<_> = slices.map(|slice| gradients.clone().slice([slice])).collect();
        host(&Tensor::cat(parts, 0))
    }

    /// The own slice of a bucket's sum.
    fn reduce_bucket(&self, bucket: usize, mut summands: Vec<f32>, world: &World) -> Result<Vec<f32>> {
        if !self.is_split() {
            world.all_reduce_sum(&mut summands, self.wire)?;
            return Ok(summands);
        }
        let ranges = packed(self.buckets.slices(bucket).map(|slice| slice.len()));
        world.reduce_scatter_sum(&mut summands, &ranges, self.wire)?;
        Ok(summands[ranges[self.rank].clone()].to_vec())
    }

    /// The whole flat vector in f32 from the pieces of every rank's own range of it.
    pub fn gather(&self, own: &[Tensor<1>], world: &World) -> Result<Tensor<1>> {
        let device = own[0].device();
        self.gather_as(&Packing::default(), world, &device, |piece| own[piece].clone())
    }

    /// The weights of the whole flat vector as the network computes with them, from the masters that `update` answers for
    /// each piece of the own range. A bucket of them is gathered, in its type of computing, while the next piece is
    /// updated. A rank that owns everything gets what `update` answers: nothing travels, nothing is rounded.
    pub fn gather_updated(
        &self,
        world: &World,
        device: &Device,
        update: impl FnMut(usize) -> Tensor<1>,
    ) -> Result<Tensor<1>> {
        self.gather_as(&self.packing, world, device, update)
    }

    fn gather_as(
        &self,
        packing: &Packing,
        world: &World,
        device: &Device,
        mut piece: impl FnMut(usize) -> Tensor<1>,
    ) -> Result<Tensor<1>> {
        if !self.is_split() {
            return Ok(piece(0));
        }
        let pieces = self.pieces().len();
        let mut all = vec![0.0; self.len];
        overlapped(
            self.buckets.count(),
            |bucket| {
                let values = if bucket < pieces {
                    host(&piece(bucket))
                } else {
                    Vec::new()
                };
                self.pack(bucket, &values, packing)
            },
            |_, (mut units, ranges)| {
                world.all_gather(&mut units, &ranges)?;
                Ok((units, ranges))
            },
            |bucket, (units, ranges)| {
                for (slice, range) in self.buckets.slices(bucket).zip(ranges) {
                    packing.unpack(&slice, &units[range], &mut all[slice.clone()]);
                }
            },
        )?;
        Ok(Tensor::from_data(TensorData::new(all, [self.len]), device))
    }

    /// A bucket with this rank's own slice in its place, and the places of all ranks' slices, in units of `packing`.
    fn pack(&self, bucket: usize, own: &[f32], packing: &Packing) -> (Vec<u16>, Vec<Range<usize>>) {
        let ranges = packed(self.buckets.slices(bucket).map(|slice| packing.units(&slice)));
        let len = ranges.last().map_or(0, |last| last.end);
        let mut units = Vec::with_capacity(len);
        units.resize(ranges[self.rank].start, 0);
        packing.pack(&self.buckets.slice(bucket, self.rank), own, &mut units);
        units.resize(len, 0);
        (units, ranges)
    }

    /// The L2 norm of the whole mean gradient from every rank's own range of the sum over `usable` samples.
    pub fn norm(&self, own: &Tensor<1>, usable: f64, world: &World) -> Result<f64> {
        let mut squares = [sum_of_squares(own, usable)];
        if self.is_split() {
            world.sum_f64(&mut squares)?;
        }
        Ok(squares[0].sqrt())
    }
}

/// As [`Ownership::norm`], with the bits that `size` ranks have for it, from the whole sum.
pub(crate) fn norm_of_ranks(sum: &Tensor<1>, usable: f64, sharding: Sharding, size: usize) -> f64 {
    let [len] = sum.dims();
    let squares = ranges(sharding, len, size)
        .into_iter()
        .filter(|range| !range.is_empty())
        .map(|range| sum_of_squares(&sum.clone().slice([range]), usable));
    squares.reduce(|sum, next| sum + next).unwrap_or(0.0).sqrt()
}

/// Adds the gradients of the next of `size` ranks to the `sum` of those before it, as [`Ownership::reduce`] does over Gloo:
/// in rank order, element by element, in f32, whatever they travel as. NCCL's order is its own.
pub(crate) fn add_rank(sum: Option<Tensor<1>>, next: Tensor<1>, dtype: ReduceDtype, size: usize) -> Tensor<1> {
    let next = match dtype {
        ReduceDtype::Bf16 if size > 1 => next.cast(FloatDType::BF16).cast(FloatDType::F32),
        ReduceDtype::Bf16 | ReduceDtype::F32 => next,
    };
    match sum {
        Some(sum) => sum + next,
        None => next,
    }
}

/// The ranges of a flat vector of `len` that ranks own: one for all where each owns everything.
fn ranges(sharding: Sharding, len: usize, size: usize) -> Vec<Range<usize>> {
    match sharding {
        Sharding::None => std::iter::once(0..len).collect(),
        // Whole rows of the norm's sum: it has the same bits however many ranks make it.
        Sharding::Zero1 => even_ranges(len.div_ceil(SQUARES_ROW), size)
            .into_iter()
            .map(|rows| (rows.start * SQUARES_ROW).min(len)..(rows.end * SQUARES_ROW).min(len))
            .collect(),
    }
}

/// The factor that brings a gradient of norm `norm` to at most `max_norm`.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_leaves_small_gradients_alone() {
        assert!((clip_factor(0.5, 1.0) - 1.0).abs() < 1e-12);
        assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
    }
}
