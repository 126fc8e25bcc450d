//! The product at the heart of the others: a few rows with a panel of columns, all sums in registers.

use crate::simd::LANES;

/// Columns that lie together.
pub const PANEL: usize = 2 * LANES;
/// Rows a tile: with [`PANEL`] columns it takes 24 of AVX-512's 32 registers.
pub const TILE: usize = 12;

/// Compiles a body for each instruction set with the rows and columns that its registers hold, and whether it has fused
/// multiply-adds, as constants; takes the best that the CPU has.
macro_rules! dispatch_tiles {
    ($name:ident, $body:ident, ($($arg:ident: $type:ty),*)) => {
        fn $name($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,fma")]
                fn avx512($($arg: $type),*) {
                    $body::<12, 32, true>($($arg),*);
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) {
                    $body::<6, 16, true>($($arg),*);
                }
                if $crate::simd::has_avx512() {
                    // SAFETY: the CPU has every feature that the function was compiled for.
                    return unsafe { avx512($($arg),*) };
                }
                if $crate::simd::has_avx2() {
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            $body::<4, 8, false>($($arg),*);
        }
    };
}
pub(crate) use dispatch_tiles;

/// Adds to `tile` the products of the first `count` rows with `panel [depth, PANEL]`, `R` rows and `C` columns at once.
///
/// A sum is one chain over the depth, whatever `R` and `C` are.
#[inline(always)]
pub fn multiply_tile<'a, const R: usize, const C: usize, const FUSED: bool>(
    row: impl Fn(usize) -> &'a [f32],
    count: usize,
    panel: &[[f32; PANEL]],
    tile: &mut [[f32; PANEL]; TILE],
) {
    for r in (0..count).step_by(R) {
        // Rows after the last repeat it.
        let rows: [&[f32]; R] = std::array::from_fn(|i| &row((r + i).min(count - 1))[..panel.len()]);
        #[cfg(target_arch = "x86_64")]
        if let Ok(rows) = <&[&[f32]; TILE]>::try_from(&rows[..])
            && C == PANEL
        {
            // SAFETY: the whole tile at once is what `dispatch_tiles` asks of AVX-512 alone, after asking the CPU.
            unsafe { multiply_whole_avx512(rows, panel, tile) };
            return;
        }
        for c in (0..PANEL).step_by(C) {
            multiply_part::<R, C, FUSED>(&rows, panel, c, &mut tile[r..r + R]);
        }
    }
}

/// In intrinsics: what the compiler makes of [`multiply_part`] depends on where it is called.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn multiply_whole_avx512(rows: &[&[f32]; TILE], panel: &[[f32; PANEL]], tile: &mut [[f32; PANEL]; TILE]) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps};
    assert!(
        rows.iter().all(|row| row.len() == panel.len()),
        "a number for each row of the panel"
    );
    let mut sums = [[_mm512_setzero_ps(); 2]; TILE];
    for (sums, tile) in sums.iter_mut().zip(&*tile) {
        // SAFETY: a row of the tile is two vectors.
        *sums = unsafe { [_mm512_loadu_ps(tile.as_ptr()), _mm512_loadu_ps(tile[LANES..].as_ptr())] };
    }
    for (i, weights) in panel.iter().enumerate() {
        // SAFETY: so is a row of the panel.
        let [left, right] = unsafe {
            [
                _mm512_loadu_ps(weights.as_ptr()),
                _mm512_loadu_ps(weights[LANES..].as_ptr()),
            ]
        };
        for (sums, row) in sums.iter_mut().zip(rows) {
            // SAFETY: rows are as long as the panel, by the assertion.
            let x = _mm512_set1_ps(unsafe { *row.get_unchecked(i) });
            *sums = [_mm512_fmadd_ps(x, left, sums[0]), _mm512_fmadd_ps(x, right, sums[1])];
        }
    }
    for (sums, tile) in sums.iter().zip(tile) {
        // SAFETY: as when they were loaded.
        unsafe {
            _mm512_storeu_ps(tile.as_mut_ptr(), sums[0]);
            _mm512_storeu_ps(tile[LANES..].as_mut_ptr(), sums[1]);
        }
    }
}

#[inline(always)]
fn multiply_part<const R: usize, const C: usize, const FUSED: bool>(
    rows: &[&[f32]; R],
    panel: &[[f32; PANEL]],
    c: usize,
    tile: &mut [[f32; PANEL]],
) {
    let mut sums = [[0.0; C]; R];
    for (sums, tile) in sums.iter_mut().zip(&*tile) {
        sums.copy_from_slice(&tile[c..c + C]);
    }
    for (i, weights) in panel.iter().enumerate() {
        let weights = &weights[c..c + C];
        for (sums, row) in sums.iter_mut().zip(rows) {
            let x = row[i];
            for (sum, &weight) in sums.iter_mut().zip(weights) {
                *sum = if FUSED {
                    x.mul_add(weight, *sum)
                } else {
                    x * weight + *sum
                };
            }
        }
    }
    for (sums, tile) in sums.iter().zip(tile) {
        tile[c..c + C].copy_from_slice(sums);
    }
}
