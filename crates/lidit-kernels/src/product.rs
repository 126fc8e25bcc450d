//! Matrix products of f32 on the CPU.

use std::mem::MaybeUninit;

use gemm::Parallelism;

/// Multiply-adds from which on a product is worth several threads.
const PARALLEL: usize = 64 * 64 * 64;

/// A matrix in somebody's memory.
pub struct Matrix<'a> {
    values: &'a [f32],
    size: [usize; 2],
    strides: [isize; 2],
}

impl<'a> Matrix<'a> {
    /// Contiguous rows of `width`.
    pub fn new(values: &'a [f32], width: usize) -> Self {
        Self {
            values,
            size: [values.len() / width, width],
            strides: [width as isize, 1],
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
            a.strides[1],
            a.strides[0],
            b.values.as_ptr(),
            b.strides[1],
            b.strides[0],
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
