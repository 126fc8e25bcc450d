//! Matrix products of f32 on the CPU.

use std::mem::MaybeUninit;

use burn::tensor::bf16;
use gemm::Parallelism;

use crate::number::Number;

/// Multiply-adds from which on a product is worth several threads.
const PARALLEL: usize = 64 * 64 * 64;

/// A matrix in somebody's memory.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T = f32> {
    values: &'a [T],
    size: [usize; 2],
    strides: [usize; 2],
}

impl<'a, T: Number> Matrix<'a, T> {
    /// Contiguous rows of `width`.
    pub fn new(values: &'a [T], width: usize) -> Self {
        Self::with_size(values, [values.len() / width, width])
    }

    /// Contiguous rows, also of no width.
    pub fn with_size(values: &'a [T], size: [usize; 2]) -> Self {
        assert_eq!(values.len(), size[0] * size[1], "the values of a matrix");
        Self {
            values,
            size,
            strides: [size[1], 1],
        }
    }

    /// The same memory with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        let ([rows, columns], [down, right]) = (self.size, self.strides);
        Self {
            size: [columns, rows],
            strides: [right, down],
            ..self
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.size[0]
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.size[1]
    }

    /// Whether the numbers of a row lie side by side.
    pub fn has_whole_rows(&self) -> bool {
        self.strides[1] == 1
    }

    /// A row of a matrix that [has whole rows](Self::has_whole_rows).
    #[inline(always)]
    pub fn row(&self, row: usize) -> &'a [T] {
        &self.values[row * self.strides[0]..][..self.size[1]]
    }

    /// One number.
    #[inline(always)]
    pub fn at(&self, row: usize, column: usize) -> T {
        self.values[row * self.strides[0] + column * self.strides[1]]
    }

    /// The matrix itself where it is in bf16 already.
    pub fn as_bf16(&self) -> Option<Matrix<'a, bf16>> {
        let values = T::as_bf16(self.values)?;
        let Self { size, strides, .. } = *self;
        Some(Matrix { values, size, strides })
    }
}

/// Writes `a b`, plus `bias` in each row where there is one, into `out`, row by row.
pub fn product(a: &Matrix<'_>, b: &Matrix<'_>, bias: Option<&[f32]>, out: &mut [MaybeUninit<f32>]) {
    let ([m, k], [_, n]) = (a.size, b.size);
    assert_eq!(k, b.size[0], "as many columns as the other has rows");
    assert_eq!(out.len(), m * n, "room for the result");
    if let Some(bias) = bias {
        assert_eq!(bias.len(), n, "a bias for each column");
        for row in out.chunks_exact_mut(n) {
            row.write_copy_of_slice(bias);
        }
    }
    let parallelism = if m * n * k < PARALLEL {
        Parallelism::None
    } else {
        Parallelism::Rayon(0)
    };
    // SAFETY: sizes and strides are those of the slices, whose lengths `Matrix` and the assertions above ensure; where the
    // result is read it has been filled with the bias.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr().cast::<f32>(),
            1,
            n as isize,
            bias.is_some(),
            a.values.as_ptr(),
            a.strides[1] as isize,
            a.strides[0] as isize,
            b.values.as_ptr(),
            b.strides[1] as isize,
            b.strides[0] as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
