//! Work on rows of tokens that also sums over them, with the same bits whatever the number of threads.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use crate::flex::CHUNK;
use crate::number::Number;
use crate::simd::dispatch;

/// Elements of a task of whole rows of `width`.
pub fn row_tasks(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1) * width.max(1)
}

/// Sums over the tokens of each picture, made task by task and then added in order.
pub struct RowSums {
    batch: usize,
    of_picture: usize,
    task: usize,
    /// Numbers that a task sums.
    len: usize,
    partial: Vec<f32>,
}

impl RowSums {
    /// For `num_tokens` rows of `width` in each of `batch` pictures, whose tasks sum `len` numbers each.
    pub fn new(batch: usize, num_tokens: usize, len: usize, width: usize) -> Self {
        let (of_picture, task) = (num_tokens * width, row_tasks(width));
        Self {
            batch,
            of_picture,
            task,
            len,
            partial: vec![0.0; batch * of_picture.div_ceil(task) * len],
        }
    }

    /// Runs `work(b, range, out, sums)` for each task: the elements `range` of the tensor belong to picture `b`, `out` is
    /// their place in the output.
    pub fn each(
        &mut self,
        out: &mut [MaybeUninit<f32>],
        work: impl Fn(usize, Range<usize>, &mut [MaybeUninit<f32>], &mut [f32]) + Sync,
    ) {
        if out.is_empty() {
            return;
        }
        let (of_picture, task) = (self.of_picture, self.task);
        let tasks = of_picture.div_ceil(task);
        out.par_chunks_mut(of_picture)
            .zip(self.partial.par_chunks_mut(tasks * self.len))
            .enumerate()
            .for_each(|(b, (out, partial))| {
                out.par_chunks_mut(task)
                    .zip(partial.par_chunks_mut(self.len))
                    .enumerate()
                    .for_each(|(i, (out, sums))| {
                        let start = b * of_picture + i * task;
                        work(b, start..start + out.len(), out, sums);
                    });
            });
    }

    /// The sums of each picture, cut in `K` parts, each `[B, len / K]`.
    pub fn into_parts<const K: usize>(self) -> [Vec<f32>; K] {
        let mut parts = std::array::from_fn(|_| vec![0.0; self.batch * self.len / K]);
        let width = self.len / K;
        let tasks = self.of_picture.div_ceil(self.task);
        for (b, of_picture) in self.partial.chunks((tasks * self.len).max(1)).enumerate() {
            for sums in of_picture.chunks(self.len) {
                for (part, sums) in parts.iter_mut().zip(sums.chunks(width)) {
                    for (total, sum) in part[b * width..][..width].iter_mut().zip(sums) {
                        *total += sum;
                    }
                }
            }
        }
        parts
    }
}

/// `sums += f(a, b)`, element by element.
#[inline(always)]
pub fn add_product(sums: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) {
    for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
        *sum += f(a, b);
    }
}

/// The sum over the rows of a matrix of `width` columns.
pub fn column_sums<T: Number>(values: &[T], width: usize) -> Vec<f32> {
    let task = row_tasks(width);
    let mut partial = vec![0.0; values.len().div_ceil(task) * width];
    partial
        .par_chunks_mut(width)
        .zip(values.par_chunks(task))
        .for_each(|(sums, rows)| add_rows(rows, sums));
    let mut total = vec![0.0; width];
    add_rows(&partial, &mut total);
    total
}

dispatch!(add_rows<T: Number>, add_rows_body, (rows: &[T], sums: &mut [f32]));

#[inline(always)]
fn add_rows_body<T: Number>(rows: &[T], sums: &mut [f32]) {
    for row in rows.chunks_exact(sums.len()) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value.wide();
        }
    }
}
