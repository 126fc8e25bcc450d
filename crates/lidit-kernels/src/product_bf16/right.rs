//! The right matrix of a product.

use std::ops::Range;

use burn::tensor::bf16;
use rayon::prelude::*;

use super::kernel::VECTORS;
use crate::number::Number;
use crate::product::Matrix;
use crate::simd::{LANES, dispatch};

/// A matrix of bf16 in the order in which products read it: a lane of 32 bits holds two numbers of a column.
#[derive(Debug)]
pub struct PackedMatrix {
    /// Panel after panel, each `[depth / 2, columns of the panel]`, filled with zeros up to whole vectors and steps.
    lanes: Vec<u32>,
    depth: usize,
    columns: usize,
}

impl PackedMatrix {
    /// Of `b`, rounded to bf16, for many products.
    pub fn new<B: Number>(b: &Matrix<'_, B>) -> Self {
        Self::pack(b, Vec::new())
    }

    /// In memory that somebody no longer needs.
    pub(super) fn pack<B: Number>(b: &Matrix<'_, B>, mut lanes: Vec<u32>) -> Self {
        let (depth, columns) = (b.rows(), b.columns());
        let steps = depth.div_ceil(2);
        lanes.resize(columns.next_multiple_of(LANES) * steps, 0);
        let mut rest = &mut lanes[..];
        let parts = panels(columns).map(|columns| {
            let len = steps * columns.len().next_multiple_of(LANES);
            let (panel, after) = std::mem::take(&mut rest).split_at_mut(len);
            rest = after;
            (columns, panel)
        });
        let parts: Vec<_> = parts.collect();
        parts.into_par_iter().for_each(|(columns, panel)| {
            let width = columns.len().next_multiple_of(LANES);
            pack_panel(b, columns, width, panel);
        });
        Self { lanes, depth, columns }
    }

    /// Its memory, for another.
    pub(super) fn into_lanes(self) -> Vec<u32> {
        self.lanes
    }

    pub(super) fn lanes(&self) -> &[u32] {
        &self.lanes
    }

    /// Number of rows.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }
}

/// The columns of the panels, as even as whole vectors allow.
pub(super) fn panels(columns: usize) -> impl Iterator<Item = Range<usize>> {
    let vectors = columns.div_ceil(LANES);
    let count = vectors.div_ceil(VECTORS);
    let start = move |panel: usize| (panel * vectors / count * LANES).min(columns);
    (0..count).map(move |panel| start(panel)..start(panel + 1))
}

/// Fills `panel [steps, width]` with the `columns` of `b`, and with zeros beyond them.
fn pack_panel<B: Number>(b: &Matrix<'_, B>, columns: Range<usize>, width: usize, panel: &mut [u32]) {
    if b.has_whole_rows() {
        pair_rows(b, columns, width, panel);
        return;
    }
    for group in 0..width / LANES {
        let first = columns.start + group * LANES;
        let columns = first..columns.end.min(first + LANES);
        let panel = &mut panel[group * LANES..];
        for step in turn_columns(b, columns.clone(), width, panel)..b.rows().div_ceil(2) {
            for (i, lane) in panel[step * width..][..LANES].iter_mut().enumerate() {
                let bits = |row: usize| match first + i {
                    column if row < b.rows() && column < columns.end => b.at(row, column).to_bf16().to_bits(),
                    _ => 0,
                };
                *lane = join([bits(2 * step), bits(2 * step + 1)]);
            }
        }
    }
}

#[inline(always)]
fn join([first, second]: [u16; 2]) -> u32 {
    u32::from(first) | u32::from(second) << 16
}

dispatch!(
    pair_rows<B: Number>,
    pair_rows_body,
    (b: &Matrix<'_, B>, columns: Range<usize>, width: usize, panel: &mut [u32])
);

/// [`pack_panel`] of a matrix whose rows are whole.
#[inline(always)]
fn pair_rows_body<B: Number>(b: &Matrix<'_, B>, columns: Range<usize>, width: usize, panel: &mut [u32]) {
    for (step, lanes) in panel.chunks_exact_mut(width).enumerate() {
        let (lanes, rest) = lanes.split_at_mut(columns.len());
        rest.fill(0);
        let row = |row: usize| &b.row(row)[columns.clone()];
        if 2 * step + 1 < b.rows() {
            for ((lane, x), y) in lanes.iter_mut().zip(row(2 * step)).zip(row(2 * step + 1)) {
                *lane = join([x.to_bf16().to_bits(), y.to_bf16().to_bits()]);
            }
        } else {
            for (lane, x) in lanes.iter_mut().zip(row(2 * step)) {
                *lane = join([x.to_bf16().to_bits(), 0]);
            }
        }
    }
}

/// Packs as many steps as whole vectors hold, where columns are whole and in bf16, and says how many.
#[cfg(target_arch = "x86_64")]
fn turn_columns<B: Number>(b: &Matrix<'_, B>, columns: Range<usize>, width: usize, panel: &mut [u32]) -> usize {
    let turned = b.transposed();
    if columns.len() < LANES || !turned.has_whole_rows() || !crate::simd::has_avx512() {
        return 0;
    }
    let rows: [Option<&[bf16]>; LANES] = std::array::from_fn(|i| B::as_bf16(turned.row(columns.start + i)));
    let blocks = b.rows() / (2 * LANES);
    for (block, panel) in panel.chunks_mut(LANES * width).take(blocks).enumerate() {
        let mut parts = [std::ptr::null(); LANES];
        for (part, row) in parts.iter_mut().zip(rows) {
            let Some(row) = row else { return 0 };
            *part = row[block * 2 * LANES..][..2 * LANES].as_ptr().cast();
        }
        let panel = &mut panel[..(LANES - 1) * width + LANES];
        // SAFETY: the CPU has the instructions, each part holds a vector, and the panel has room for the last one.
        unsafe { x86::turn(parts, panel.as_mut_ptr(), width) };
    }
    blocks * LANES
}

#[cfg(not(target_arch = "x86_64"))]
fn turn_columns<B: Number>(_: &Matrix<'_, B>, _: Range<usize>, _: usize, _: &mut [u32]) -> usize {
    0
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512i, _mm512_loadu_epi32, _mm512_shuffle_i32x4, _mm512_storeu_epi32, _mm512_unpackhi_epi32,
        _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };

    use crate::simd::LANES;

    /// Lane `i` of row `j` becomes lane `j` of the vector `i * step` lanes after `out`.
    ///
    /// # Safety
    /// Each row holds [`LANES`] lanes, and `out` has room for the last vector.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn turn(rows: [*const i32; LANES], out: *mut u32, step: usize) {
        // SAFETY: the caller's.
        let rows = rows.map(|row| unsafe { _mm512_loadu_epi32(row) });
        // Pairs of rows, then fours, within quarters of a vector.
        let pairs: [__m512i; LANES] = std::array::from_fn(|i| {
            let [a, b] = [rows[i / 2 * 2], rows[i / 2 * 2 + 1]];
            if i % 2 == 0 {
                _mm512_unpacklo_epi32(a, b)
            } else {
                _mm512_unpackhi_epi32(a, b)
            }
        });
        let fours: [__m512i; LANES] = std::array::from_fn(|i| {
            let first = i / 4 * 4 + i % 4 / 2;
            let [a, b] = [pairs[first], pairs[first + 2]];
            if i % 2 == 0 {
                _mm512_unpacklo_epi64(a, b)
            } else {
                _mm512_unpackhi_epi64(a, b)
            }
        });
        // The quarters change places.
        for i in 0..4 {
            let [a, b, c, d] = [fours[i], fours[4 + i], fours[8 + i], fours[12 + i]];
            let low = [_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d)];
            let high = [_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d)];
            let columns = [
                _mm512_shuffle_i32x4::<0x88>(low[0], low[1]),
                _mm512_shuffle_i32x4::<0xdd>(low[0], low[1]),
                _mm512_shuffle_i32x4::<0x88>(high[0], high[1]),
                _mm512_shuffle_i32x4::<0xdd>(high[0], high[1]),
            ];
            for (quarter, column) in columns.into_iter().enumerate() {
                // SAFETY: the caller's.
                unsafe { _mm512_storeu_epi32(out.add((quarter * 4 + i) * step).cast(), column) };
            }
        }
    }
}
