//! The left matrix of a product.

use std::ops::Range;

use burn::tensor::bf16;

use super::kernel::{ROWS, Strip};
use crate::number::Number;
use crate::product::Matrix;
use crate::simd::dispatch;

/// Some rows of the left matrix in bf16.
pub enum Left<'a> {
    /// Those of a matrix, whole and of even length.
    Rows(Matrix<'a, bf16>, Range<usize>),
    /// Strip after strip, each `[steps, ROWS]`.
    Lanes(&'a [u32], usize),
}

/// Memory for rows that can't be read as they lie.
#[derive(Default)]
pub struct Copies {
    rows: Vec<bf16>,
    lanes: Vec<u32>,
}

impl Copies {
    /// None.
    pub const NONE: Self = Self {
        rows: Vec::new(),
        lanes: Vec::new(),
    };
}

impl<'a> Left<'a> {
    /// The `rows` of `a`.
    pub fn new<A: Number>(a: &Matrix<'a, A>, rows: Range<usize>, copies: &'a mut Copies) -> Self {
        let steps = a.columns().div_ceil(2);
        if !a.has_whole_rows() && a.transposed().has_whole_rows() {
            copies.lanes.resize(rows.len().next_multiple_of(ROWS) * steps, 0);
            pair_columns(a, rows, &mut copies.lanes);
            return Self::Lanes(&copies.lanes, steps);
        }
        match a.as_bf16() {
            Some(a) if a.has_whole_rows() && a.columns() == 2 * steps => Self::Rows(a, rows),
            _ => {
                copies.rows.resize(rows.len() * 2 * steps, bf16::ZERO);
                round_rows(a, rows.clone(), &mut copies.rows);
                Self::Rows(Matrix::new(&copies.rows, 2 * steps), 0..rows.len())
            }
        }
    }

    /// A part of the depth of a strip.
    pub fn strip(&self, strip: usize, depth: Range<usize>) -> Strip<'_> {
        match self {
            Self::Rows(a, rows) => {
                let first = rows.start + strip * ROWS;
                // Rows after the last repeat it; nobody reads their sums.
                Strip::Rows(std::array::from_fn(|i| {
                    &a.row((first + i).min(rows.end - 1))[2 * depth.start..2 * depth.end]
                }))
            }
            Self::Lanes(lanes, steps) => {
                Strip::Lanes(&lanes[strip * ROWS * steps..][ROWS * depth.start..ROWS * depth.end])
            }
        }
    }
}

dispatch!(round_rows<A: Number>, round_rows_body, (a: &Matrix<'_, A>, rows: Range<usize>, copy: &mut [bf16]));
dispatch!(pair_columns<A: Number>, pair_columns_body, (a: &Matrix<'_, A>, rows: Range<usize>, lanes: &mut [u32]));

/// Fills `copy` with `rows` of `a`, each with a zero after it where its length is odd.
#[inline(always)]
fn round_rows_body<A: Number>(a: &Matrix<'_, A>, rows: Range<usize>, copy: &mut [bf16]) {
    let width = a.columns();
    for (row, copy) in rows.zip(copy.chunks_exact_mut(width.next_multiple_of(2).max(1))) {
        let (copy, rest) = copy.split_at_mut(width);
        rest.fill(bf16::ZERO);
        if a.has_whole_rows() {
            for (copy, x) in copy.iter_mut().zip(a.row(row)) {
                *copy = x.to_bf16();
            }
        } else {
            for (column, copy) in copy.iter_mut().enumerate() {
                *copy = a.at(row, column).to_bf16();
            }
        }
    }
}

/// Fills strips of lanes with `rows` of `a`, whose columns are whole, and with zeros beyond them.
#[inline(always)]
fn pair_columns_body<A: Number>(a: &Matrix<'_, A>, rows: Range<usize>, lanes: &mut [u32]) {
    let columns = a.transposed();
    let steps = a.columns().div_ceil(2);
    for step in 0..steps {
        let part = |column: usize| &columns.row(column)[rows.clone()];
        let first = part(2 * step);
        let second = (2 * step + 1 < a.columns()).then(|| part(2 * step + 1));
        let (whole, _) = first.as_chunks::<ROWS>();
        for (strip, x) in whole.iter().enumerate() {
            let lanes: &mut [u32] = &mut lanes[(strip * steps + step) * ROWS..][..ROWS];
            match second {
                Some(second) => {
                    for ((lane, x), y) in lanes.iter_mut().zip(x).zip(&second[strip * ROWS..][..ROWS]) {
                        *lane = u32::from(x.to_bf16().to_bits()) | u32::from(y.to_bf16().to_bits()) << 16;
                    }
                }
                None => {
                    for (lane, x) in lanes.iter_mut().zip(x) {
                        *lane = u32::from(x.to_bf16().to_bits());
                    }
                }
            }
        }
        if whole.len() * ROWS < first.len() {
            let start = whole.len() * ROWS;
            let bits = |row: Option<&[A]>, i: usize| {
                row.and_then(|row| row.get(start + i))
                    .map_or(0, |x| u32::from(x.to_bf16().to_bits()))
            };
            for (i, lane) in lanes[(whole.len() * steps + step) * ROWS..][..ROWS]
                .iter_mut()
                .enumerate()
            {
                *lane = bits(Some(first), i) | bits(second, i) << 16;
            }
        }
    }
}
