//! Matrix products on the CPU with a weight that was laid out for them once.
//!
//! One thread of a Zen 5 reaches 240 GFLOP/s (burn-flex: 84), two threads of one core 1.8 times what burn-flex reaches:
//! nothing is packed at each call and a tile fills the registers. An output is one chain of multiply-adds over the depth:
//! a row's result has the same bits in any batch.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use crate::gelu::gelu_value;
use crate::simd::{LANES, logistic};
use crate::tile::{PANEL, TILE, dispatch_tiles, multiply_tile};

/// Bytes of `x` that a task takes through all panels: they stay in the second cache.
const BLOCK_BYTES: usize = 256 * 1024;

/// A weight `[depth, columns]` with its bias.
#[derive(Debug)]
pub struct Panels {
    weights: Vec<[f32; PANEL]>, // [panels, depth]
    bias: Vec<[f32; PANEL]>,    // [panels]
    depth: usize,
    gate: Option<Gate>,
    width: usize, // of a row of results
}

/// What a gated product does with its gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `g / (1 + exp(-g))`.
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
}

/// A matrix with any strides.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// From the first element on.
    pub values: &'a [f32],
    /// Elements from a row to the next, and from a column to the next.
    pub strides: [usize; 2],
}

impl Matrix<'_> {
    fn at(self, row: usize, column: usize) -> f32 {
        self.values[row * self.strides[0] + column * self.strides[1]]
    }
}

impl Panels {
    /// For `x w + bias`, `w` being `[depth, width]`.
    pub fn new(weight: Matrix<'_>, bias: Option<&[f32]>, [depth, width]: [usize; 2]) -> Self {
        let column = |panel: usize, c: usize| Some(panel * PANEL + c).filter(|&column| column < width);
        let panels = 0..width.div_ceil(PANEL);
        let rows = panels.clone().into_par_iter().flat_map_iter(|panel| {
            (0..depth).map(move |row| panel_row(|c| column(panel, c).map_or(0.0, |column| weight.at(row, column))))
        });
        let weights = rows.collect();
        let bias = bias.unwrap_or(&[]);
        let bias_row = |panel| panel_row(|c| column(panel, c).and_then(|column| bias.get(column)).map_or(0.0, |&b| b));
        Self {
            weights,
            bias: panels.map(bias_row).collect(),
            depth,
            gate: None,
            width,
        }
    }

    /// For `gate(x g) * (x u)`, both weights being `[depth, width]`.
    pub fn gated([g, u]: [Matrix<'_>; 2], gate: Gate, [depth, width]: [usize; 2]) -> Self {
        let panels = width.div_ceil(LANES);
        let at = |panel: usize, row: usize, c: usize| {
            let (weight, column) = if c < LANES { (g, c) } else { (u, c - LANES) };
            let column = panel * LANES + column;
            if column < width { weight.at(row, column) } else { 0.0 }
        };
        let rows = (0..panels)
            .into_par_iter()
            .flat_map_iter(|panel| (0..depth).map(move |row| panel_row(|c| at(panel, row, c))));
        Self {
            weights: rows.collect(),
            bias: vec![[0.0; PANEL]; panels],
            depth,
            gate: Some(gate),
            width,
        }
    }

    /// `[depth, width]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.depth, self.width]
    }

    /// The product of `x [rows, depth]` as `[rows, width]`.
    pub fn multiply(&self, x: &[f32]) -> Vec<f32> {
        let len = x.len() / self.depth * self.width;
        let mut out = Vec::with_capacity(len);
        let rows = self.block_rows(x.len() / self.depth);
        let blocks = out.spare_capacity_mut()[..len].par_chunks_mut(rows * self.width);
        blocks
            .zip(x.par_chunks(rows * self.depth))
            .for_each(|(out, x)| fill(self, x, Results::New(out)));
        // SAFETY: the blocks cover `..len`, and `fill` writes every element of its block.
        unsafe { out.set_len(len) };
        out
    }

    /// Adds the product of `x [rows, depth]` to `sums [rows, width]`.
    pub fn multiply_onto(&self, x: &[f32], sums: &mut [f32]) {
        let rows = self.block_rows(x.len() / self.depth);
        sums.par_chunks_mut(rows * self.width)
            .zip(x.par_chunks(rows * self.depth))
            .for_each(|(out, x)| fill(self, x, Results::Sums(out)));
    }

    /// Rows a task: whole tiles that fit the cache, as many tasks for each thread.
    fn block_rows(&self, rows: usize) -> usize {
        let tiles = rows.div_ceil(TILE);
        let fitting = (BLOCK_BYTES / (TILE * self.depth * size_of::<f32>())).max(1);
        let blocks = tiles.div_ceil(fitting).next_multiple_of(rayon::current_num_threads());
        tiles.div_ceil(blocks).max(1) * TILE
    }
}

dispatch_tiles!(fill, fill_body, (panels: &Panels, x: &[f32], results: Results<'_>));

#[inline(always)]
fn fill_body<const R: usize, const C: usize, const FUSED: bool>(panels: &Panels, x: &[f32], mut results: Results<'_>) {
    let (depth, width) = (panels.depth, panels.width);
    let num_rows = x.len() / depth;
    let weights = panels.weights.chunks_exact(depth).zip(&panels.bias);
    for (panel, (weights, bias)) in weights.enumerate() {
        for row in (0..num_rows).step_by(TILE) {
            let count = TILE.min(num_rows - row);
            let mut tile = [*bias; TILE];
            let x_row = |i| &x[(row + i) * depth..][..depth];
            multiply_tile::<R, C, FUSED>(x_row, count, weights, &mut tile);
            for (i, tile) in tile[..count].iter().enumerate() {
                let at = (row + i) * width;
                results.put(tile, panel, panels.gate, at..at + width);
            }
        }
    }
}

#[inline(always)]
fn panel_row(f: impl Fn(usize) -> f32) -> [f32; PANEL] {
    std::array::from_fn(f)
}

/// Where the rows of a block go.
enum Results<'a> {
    New(&'a mut [MaybeUninit<f32>]),
    Sums(&'a mut [f32]),
}

impl Results<'_> {
    /// One row of a tile into the row of results at `row`.
    #[inline(always)]
    fn put(&mut self, tile: &[f32; PANEL], panel: usize, gate: Option<Gate>, row: Range<usize>) {
        match gate {
            None => self.put_values(tile, panel, row),
            Some(gate) => {
                let (g, u) = tile.split_at(LANES);
                let values: [f32; LANES] = std::array::from_fn(|i| match gate {
                    Gate::Silu => g[i] * logistic(g[i]) * u[i],
                    Gate::GeluTanh => gelu_value(g[i]) * u[i],
                });
                self.put_values(&values, panel, row);
            }
        }
    }

    #[inline(always)]
    fn put_values<const N: usize>(&mut self, values: &[f32; N], panel: usize, row: Range<usize>) {
        let row = row.start + panel * N..row.end;
        match self {
            Self::New(out) => {
                let out = &mut out[row];
                if let Some(out) = out.first_chunk_mut::<N>() {
                    *out = values.map(MaybeUninit::new);
                } else {
                    let len = out.len();
                    out.write_copy_of_slice(&values[..len]);
                }
            }
            Self::Sums(out) => {
                for (sum, value) in out[row].iter_mut().zip(values) {
                    *sum += value;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(len: usize) -> Vec<f32> {
        (0..len).map(|i| (i * 7919 % 4001) as f32 / 2000.0 - 1.0).collect()
    }

    #[test]
    fn every_instruction_set_multiplies_alike() {
        let (depth, width, rows) = (37, 75, 29);
        let weight = numbers(depth * width);
        let matrix = Matrix {
            values: &weight,
            strides: [width, 1],
        };
        let x = numbers(rows * depth);
        let bias = numbers(width);
        let panels = Panels::new(matrix, Some(&bias), [depth, width]);
        let best = panels.multiply(&x);
        let mut baseline = vec![0.0; rows * width];
        fill_body::<4, 8, false>(&panels, &x, Results::Sums(&mut baseline));
        let mut avx2 = vec![0.0; rows * width];
        fill_body::<6, 16, true>(&panels, &x, Results::Sums(&mut avx2));
        for (i, best) in best.iter().enumerate() {
            assert!((best - baseline[i]).abs() < 1e-5);
            assert!((best - avx2[i]).abs() < 1e-5);
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_batch() {
        let (depth, width) = (64, 48);
        let weight = numbers(depth * width);
        let matrix = Matrix {
            values: &weight,
            strides: [1, depth],
        };
        let panels = Panels::new(matrix, None, [depth, width]);
        let x = numbers(100 * depth);
        let all = panels.multiply(&x);
        for rows in [1, 11, 12, 25, 99] {
            assert_eq!(panels.multiply(&x[..rows * depth]), all[..rows * width]);
        }
    }
}
