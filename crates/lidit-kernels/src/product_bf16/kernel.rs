//! The product of a few rows with a panel of columns, all sums in registers.

use burn::tensor::bf16;

use crate::simd::LANES;

/// Rows of a tile.
pub const ROWS: usize = 8;
/// Most vectors of columns in a tile: with [`ROWS`] rows they take 24 of AVX-512's 32 registers.
pub const VECTORS: usize = 3;

/// Sums of [`ROWS`] rows and up to [`VECTORS`] vectors of columns.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Tile(pub [[f32; VECTORS * LANES]; ROWS]);

impl Tile {
    /// No sums yet.
    pub const ZERO: Self = Self([[0.0; VECTORS * LANES]; ROWS]);
}

/// Rows of the left matrix over a part of the depth, in steps of two numbers.
#[derive(Clone, Copy)]
pub enum Strip<'a> {
    /// As they lie, all of one even length.
    Rows([&'a [bf16]; ROWS]),
    /// Pairs, `[steps, ROWS]`.
    Lanes(&'a [u32]),
}

/// Adds to `tile` the product of `strip` with `panel [steps, width]`.
pub fn multiply(strip: &Strip<'_>, panel: &[u32], width: usize, tile: &mut Tile) {
    let steps = panel.len() / width;
    match strip {
        Strip::Rows(rows) => {
            assert!(
                rows.iter().all(|row| row.len() == 2 * steps),
                "rows as long as the panel"
            );
            let rows = rows.map(|row| row.as_ptr().cast::<[bf16; 2]>());
            // SAFETY: a row holds so many pairs.
            let pair = |r: usize, s: usize| bytemuck::cast::<[bf16; 2], u32>(unsafe { *rows[r].add(s) });
            choose(pair, panel, width, tile);
        }
        Strip::Lanes(lanes) => {
            assert_eq!(lanes.len(), steps * ROWS, "a strip as long as the panel");
            let lanes = lanes.as_ptr();
            // SAFETY: the strip holds so many rows for each step.
            choose(|r, s| unsafe { *lanes.add(s * ROWS + r) }, panel, width, tile);
        }
    }
}

/// `lane` gives the pair of a row below [`ROWS`] at a step of the panel.
#[inline(always)]
fn choose(lane: impl Fn(usize, usize) -> u32 + Copy, panel: &[u32], width: usize, tile: &mut Tile) {
    #[cfg(target_arch = "x86_64")]
    {
        if crate::simd::has_avx512() && std::is_x86_feature_detected!("avx512bf16") {
            // SAFETY: the CPU has the instructions.
            return unsafe {
                match width / LANES {
                    1 => x86::avx512_bf16::<1>(lane, panel, tile),
                    2 => x86::avx512_bf16::<2>(lane, panel, tile),
                    _ => x86::avx512_bf16::<3>(lane, panel, tile),
                }
            };
        }
        if crate::simd::has_avx512() {
            // SAFETY: the CPU has the instructions.
            return unsafe { x86::avx512(lane, panel, width, tile) };
        }
        if crate::simd::has_avx2() {
            // SAFETY: the CPU has the instructions.
            return unsafe { x86::avx2(lane, panel, width, tile) };
        }
    }
    converted::<4, 8, false>(lane, panel, width, tile);
}

/// For CPUs that have no product of bf16: numbers become f32, `R` rows and `C` columns at a time.
#[inline(always)]
fn converted<const R: usize, const C: usize, const FUSED: bool>(
    lane: impl Fn(usize, usize) -> u32,
    panel: &[u32],
    width: usize,
    tile: &mut Tile,
) {
    let low = |lane: u32| f32::from_bits(lane << 16);
    let high = |lane: u32| f32::from_bits(lane & 0xffff_0000);
    let add = |a: f32, b: f32, sum: f32| if FUSED { a.mul_add(b, sum) } else { a * b + sum };
    for (first, start) in (0..ROWS)
        .step_by(R)
        .flat_map(|r| (0..width).step_by(C).map(move |c| (r, c)))
    {
        let mut sums = [[0.0; C]; R];
        for (sums, tile) in sums.iter_mut().zip(&tile.0[first..]) {
            sums.copy_from_slice(&tile[start..start + C]);
        }
        for (s, columns) in panel.chunks_exact(width).enumerate() {
            let columns = &columns[start..start + C];
            for (r, sums) in sums.iter_mut().enumerate() {
                let row = lane(first + r, s);
                for (sum, &column) in sums.iter_mut().zip(columns) {
                    *sum = add(high(row), high(column), add(low(row), low(column), *sum));
                }
            }
        }
        for (sums, tile) in sums.iter().zip(&mut tile.0[first..]) {
            tile[start..start + C].copy_from_slice(sums);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_epi32, _mm512_loadu_ps, _mm512_set1_epi32, _mm512_setzero_ps,
        _mm512_setzero_si512, _mm512_storeu_ps,
    };

    use super::{LANES, ROWS, Tile, converted};

    /// A panel of `V` vectors by the instruction for pairs.
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,fma,avx512bf16")]
    pub fn avx512_bf16<const V: usize>(lane: impl Fn(usize, usize) -> u32, panel: &[u32], tile: &mut Tile) {
        let mut sums = [[_mm512_setzero_ps(); V]; ROWS];
        for (sums, tile) in sums.iter_mut().zip(&tile.0) {
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a row of a tile holds as many vectors.
                *sum = unsafe { _mm512_loadu_ps(tile.as_ptr().add(v * LANES)) };
            }
        }
        for (s, step) in panel.chunks_exact(V * LANES).enumerate() {
            let mut columns = [pairs(_mm512_setzero_si512()); V];
            for (v, columns) in columns.iter_mut().enumerate() {
                // SAFETY: a step of the panel holds as many vectors.
                *columns = pairs(unsafe { _mm512_loadu_epi32(step.as_ptr().add(v * LANES).cast()) });
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let row = pairs(_mm512_set1_epi32(lane(r, s).cast_signed()));
                for (sum, &columns) in sums.iter_mut().zip(&columns) {
                    *sum = _mm512_dpbf16_ps(*sum, row, columns);
                }
            }
        }
        for (sums, tile) in sums.iter().zip(&mut tile.0) {
            for (v, sum) in sums.iter().enumerate() {
                // SAFETY: a row of a tile holds as many vectors.
                unsafe { _mm512_storeu_ps(tile.as_mut_ptr().add(v * LANES), *sum) };
            }
        }
    }

    fn pairs(lanes: __m512i) -> __m512bh {
        // SAFETY: both are 512 bits, and each value of them is valid.
        unsafe { std::mem::transmute(lanes) }
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,fma")]
    pub fn avx512(lane: impl Fn(usize, usize) -> u32, panel: &[u32], width: usize, tile: &mut Tile) {
        converted::<8, LANES, true>(lane, panel, width, tile);
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(lane: impl Fn(usize, usize) -> u32, panel: &[u32], width: usize, tile: &mut Tile) {
        converted::<4, LANES, true>(lane, panel, width, tile);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A strip and a panel of whole numbers, whose products and sums are exact in every order.
    fn inputs(steps: usize, width: usize) -> (Vec<u32>, Vec<u32>) {
        let number = |i: usize| u32::from(bf16::from_f32((i * 7919 % 17) as f32 - 8.0).to_bits());
        let lanes = |len: usize, seed: usize| {
            (0..len)
                .map(|i| number(i + seed) | number(3 * i + seed) << 16)
                .collect()
        };
        (lanes(steps * ROWS, 1), lanes(steps * width, 2))
    }

    #[test]
    fn every_instruction_set_gives_the_same() {
        for (steps, width) in [(1, 16), (5, 32), (40, 48)] {
            let (strip, panel) = inputs(steps, width);
            let mut best = Tile([[1.0; VECTORS * LANES]; ROWS]);
            let (mut plain, mut wide) = (best, best);
            multiply(&Strip::Lanes(&strip), &panel, width, &mut best);
            converted::<4, 8, false>(|r, s| strip[s * ROWS + r], &panel, width, &mut plain);
            converted::<8, LANES, true>(|r, s| strip[s * ROWS + r], &panel, width, &mut wide);
            for (r, sums) in best.0.iter().enumerate() {
                assert_eq!(sums[..width], plain.0[r][..width]);
                assert_eq!(sums[..width], wide.0[r][..width]);
                assert!(
                    sums[width..]
                        .iter()
                        .all(|&untouched| untouched.to_bits() == 1.0_f32.to_bits())
                );
            }
        }
    }
}
