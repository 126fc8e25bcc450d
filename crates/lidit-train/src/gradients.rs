//! Gradient sums in flat space, and their reduction over ranks.

use std::ops::Range;

use anyhow::Result;
use burn::tensor::Tensor;
use lidit_dist::World;

use crate::config::Sharding;
use crate::layout::even_ranges;
use crate::optimizer::{host, upload};

/// Columns of the fixed-order sum of squares.
const ROW: usize = 4096;

/// The ranges of flat space that each rank updates.
#[derive(Clone, Debug)]
pub struct Ownership {
    sharding: Sharding,
    ranges: Vec<Range<usize>>,
    own: Range<usize>,
}

impl Ownership {
    /// `zero1`: an even share for each rank; `none`: everything for every rank.
    pub fn new(sharding: Sharding, len: usize, world: &World) -> Self {
        let ranges = even_ranges(len, world.size());
        let own = match sharding {
            Sharding::None => 0..len,
            Sharding::Zero1 => ranges[world.rank()].clone(),
        };
        Self { sharding, ranges, own }
    }

    /// This rank's range.
    pub fn own(&self) -> Range<usize> {
        self.own.clone()
    }

    /// Whether ranks hold different ranges.
    pub fn is_split(&self) -> bool {
        self.sharding == Sharding::Zero1 && self.ranges.len() > 1
    }

    /// The own range of the sum over all ranks of each rank's `gradients`, `[len]`.
    pub fn reduce(&self, gradients: Tensor<1>, world: &World) -> Result<Tensor<1>> {
        if world.size() == 1 {
            return Ok(gradients);
        }
        let device = gradients.device();
        let mut sums = host(&gradients);
        match self.sharding {
            Sharding::None => world.all_reduce_sum(&mut sums)?,
            Sharding::Zero1 => world.reduce_scatter_sum(&mut sums, &self.ranges)?,
        }
        Ok(upload(&sums[self.own()], &device))
    }

    /// The whole flat vector from every rank's own range of it.
    pub fn gather(&self, own: &Tensor<1>, world: &World) -> Result<Tensor<1>> {
        if !self.is_split() {
            return Ok(own.clone());
        }
        let len = self.ranges.last().map_or(0, |range| range.end);
        let mut all = vec![0.0; len];
        all[self.own()].copy_from_slice(&host(own));
        world.all_gather(&mut all, &self.ranges)?;
        Ok(upload(&all, &own.device()))
    }

    /// The L2 norm of the whole gradient from every rank's own range of it.
    pub fn norm(&self, own: &Tensor<1>, world: &World) -> Result<f64> {
        let mut squares = [sum_of_squares(own)];
        if self.is_split() {
            world.sum_f64(&mut squares)?;
        }
        Ok(squares[0].sqrt())
    }
}

/// As [`Ownership::norm`], with the bits that `world_size` ranks have for it, from the whole mean gradient.
pub(crate) fn norm_of_ranks(mean: &Tensor<1>, sharding: Sharding, world_size: usize) -> f64 {
    let [len] = mean.dims();
    let ranges = match sharding {
        Sharding::None => even_ranges(len, 1),
        Sharding::Zero1 => even_ranges(len, world_size),
    };
    let squares = ranges
        .into_iter()
        .map(|range| sum_of_squares(&mean.clone().slice([range])));
    squares.reduce(|sum, next| sum + next).unwrap_or(0.0).sqrt()
}

/// The sum that [`Ownership::reduce`] makes of every rank's gradients: in rank order, element by element, in f32. NCCL's
/// order is its own.
pub(crate) fn sum_of_ranks(gradients: impl IntoIterator<Item = Tensor<1>>) -> Option<Tensor<1>> {
    gradients.into_iter().reduce(|sum, next| sum + next)
}

/// The factor that brings a gradient of norm `norm` to at most `max_norm`.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

/// Sum of squares in an order that does not depend on threads: rows first, each a sequential sum, then the row sums.
/// (burn-flex's `sum` of 4 Mi elements or more is a parallel one.)
pub(crate) fn sum_of_squares(values: &Tensor<1>) -> f64 {
    let [len] = values.dims();
    let whole = len / ROW * ROW;
    let squares = values.clone() * values.clone();
    let mut sum = 0.0;
    if whole > 0 {
        let rows = squares
            .clone()
            .narrow(0, 0, whole)
            .reshape([whole / ROW, ROW])
            .sum_dim(1)
            .reshape([whole / ROW]);
        sum += host(&rows).into_iter().map(f64::from).sum::<f64>();
    }
    if whole < len {
        let rest = host(&squares.narrow(0, whole, len - whole));
        sum += rest.into_iter().map(f64::from).sum::<f64>();
    }
    sum
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn sum_of_squares_counts_whole_rows_and_the_rest() {
        let device = Device::flex();
        for len in [1, ROW - 1, ROW, 3 * ROW + 5] {
            let values: Vec<f32> = (0..len).map(|i| (i % 7) as f32 - 3.0).collect();
            let expected: f64 = values.iter().map(|v| f64::from(v * v)).sum();
            let sum = sum_of_squares(&upload(&values, &device));
            assert!((sum - expected).abs() <= 1e-6 * expected, "{len}: {sum} {expected}");
        }
    }

    #[test]
    fn clipping_leaves_small_gradients_alone() {
        assert!((clip_factor(0.5, 1.0) - 1.0).abs() < 1e-12);
        assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
    }
}
