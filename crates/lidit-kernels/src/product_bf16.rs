//! Matrix products on the CPU that multiply in bf16 and add in f32.
//!
//! The right matrix is packed as panels of columns, a block of which stays in the first cache while the rows of the left
//! one pass by. A sum is one chain over the depth, whatever the number of threads. Source: Goto and van de Geijn,
//! "Anatomy of high-performance matrix multiplication", ACM TOMS 34(3), 2008.

mod kernel;
mod left;
mod right;

use std::cell::Cell;
use std::mem::MaybeUninit;

use burn::tensor::bf16;
use rayon::prelude::*;

use crate::number::Number;
use crate::product::Matrix;
use crate::simd::{LANES, dispatch};
use kernel::{ROWS, Tile, multiply};
use left::{Copies, Left};
pub use right::PackedMatrix;
use right::panels;

/// Steps of the depth, of two each, after which a tile's sums are put aside: so much of a panel stays in the first cache.
const BLOCK: usize = 192;
/// Most rows a task: so many of the left matrix stay in the second cache.
const MOST_ROWS: usize = 16 * ROWS;
/// Tasks a thread, so that one that was held up does not hold up the others.
const TASKS: usize = 4;

/// Where a product goes, one row after the other.
#[derive(Debug)]
pub enum Output<'a> {
    /// As it is.
    F32(&'a mut [MaybeUninit<f32>]),
    /// Rounded to nearest even.
    Bf16(&'a mut [MaybeUninit<bf16>]),
}

/// Writes `a [m, k]` times `b [k, n]`, plus `bias [n]` in every row, into `out [m, n]`. Both matrices are rounded to bf16.
pub fn product_bf16<A: Number, B: Number>(a: &Matrix<'_, A>, b: &Matrix<'_, B>, bias: Option<&[f32]>, out: Output<'_>) {
    let packed = PackedMatrix::pack(b, RIGHT.take());
    packed.multiply(a, bias, out);
    RIGHT.set(packed.into_lanes());
}

thread_local! {
    /// The memory of the right matrix of the last product.
    static RIGHT: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
    /// The memory of the last task.
    static SCRATCH: Cell<Scratch> = const { Cell::new(Scratch { left: Copies::NONE, sums: Vec::new() }) };
}

/// What a task keeps.
#[derive(Default)]
struct Scratch {
    left: Copies,
    sums: Vec<Tile>,
}

impl PackedMatrix {
    /// Writes `a [m, k]`, rounded to bf16, times this, plus `bias [n]` in every row, into `out [m, n]`.
    pub fn multiply<A: Number>(&self, a: &Matrix<'_, A>, bias: Option<&[f32]>, out: Output<'_>) {
        assert_eq!(a.columns(), self.depth(), "as many columns as the other has rows");
        assert!(
            bias.is_none_or(|bias| bias.len() == self.columns()),
            "a bias for each column"
        );
        let bias = bias.unwrap_or(&[]);
        match out {
            Output::F32(out) => self.run(a, bias, out, put),
            Output::Bf16(out) => self.run(a, bias, out, round),
        }
    }

    fn run<A: Number, O: Send>(
        &self,
        a: &Matrix<'_, A>,
        bias: &[f32],
        out: &mut [O],
        finish: impl Fn(&Tile, &Place<'_>, &mut [O]) + Sync,
    ) {
        let (m, n) = (a.rows(), self.columns());
        assert_eq!(out.len(), m * n, "room for the result");
        if out.is_empty() {
            return;
        }
        let share = m.div_ceil(TASKS * rayon::current_num_threads());
        let share = share.next_multiple_of(ROWS).min(MOST_ROWS);
        out.par_chunks_mut(share * n).enumerate().for_each(|(task, out)| {
            let mut scratch = SCRATCH.take();
            let first = task * share;
            let left = Left::new(a, first..first + out.len() / n, &mut scratch.left);
            self.multiply_rows(&left, bias, out, &finish, &mut scratch.sums);
            SCRATCH.set(scratch);
        });
    }

    /// `finish` gets the sums of whole rows of `out` in a range of columns.
    fn multiply_rows<O>(
        &self,
        left: &Left<'_>,
        bias: &[f32],
        out: &mut [O],
        finish: &impl Fn(&Tile, &Place<'_>, &mut [O]),
        sums: &mut Vec<Tile>,
    ) {
        let n = self.columns();
        let steps = self.depth().div_ceil(2);
        let num_blocks = steps.div_ceil(BLOCK).max(1);
        let block = steps.div_ceil(num_blocks);
        sums.resize(out.len().div_ceil(ROWS * n), Tile::ZERO);
        let mut lanes = self.lanes();
        for columns in panels(n) {
            let width = columns.len().next_multiple_of(LANES);
            let (panel, after) = lanes.split_at(steps * width);
            lanes = after;
            let place = Place {
                start: columns.start,
                len: columns.len(),
                n,
                bias: bias.get(columns).unwrap_or(&[]),
            };
            for index in 0..num_blocks {
                let depth = index * block..((index + 1) * block).min(steps);
                let panel = &panel[depth.start * width..depth.end * width];
                for (strip, out) in out.chunks_mut(ROWS * n).enumerate() {
                    let tile = &mut sums[if num_blocks == 1 { 0 } else { strip }];
                    if index == 0 {
                        *tile = Tile::ZERO;
                    }
                    multiply(&left.strip(strip, depth.clone()), panel, width, tile);
                    if index + 1 == num_blocks {
                        finish(tile, &place, out);
                    }
                }
            }
        }
    }
}

/// Columns of the result that a tile has the sums of.
struct Place<'a> {
    start: usize,
    len: usize,
    /// Columns of the result.
    n: usize,
    /// Of these columns, or empty.
    bias: &'a [f32],
}

dispatch!(put, put_body, (tile: &Tile, place: &Place<'_>, out: &mut [MaybeUninit<f32>]));
dispatch!(round, round_body, (tile: &Tile, place: &Place<'_>, out: &mut [MaybeUninit<bf16>]));

#[inline(always)]
fn put_body(tile: &Tile, place: &Place<'_>, out: &mut [MaybeUninit<f32>]) {
    finish(tile, place, out);
}

#[inline(always)]
fn round_body(tile: &Tile, place: &Place<'_>, out: &mut [MaybeUninit<bf16>]) {
    finish(tile, place, out);
}

#[inline(always)]
fn finish<O: Number>(tile: &Tile, place: &Place<'_>, out: &mut [MaybeUninit<O>]) {
    for (out, sums) in out.chunks_exact_mut(place.n).zip(&tile.0) {
        let out = &mut out[place.start..][..place.len];
        if place.bias.is_empty() {
            for (out, &sum) in out.iter_mut().zip(sums) {
                out.write(O::from_f32(sum));
            }
        } else {
            for ((out, &sum), &bias) in out.iter_mut().zip(sums).zip(place.bias) {
                out.write(O::from_f32(sum + bias));
            }
        }
    }
}

#[cfg(test)]
mod tests;
