//! What fused loops share: compiling a body for several instruction sets, and functions that a vector unit can compute.

/// Compiles one body for AVX-512, AVX2 and the baseline, and takes the best that the CPU has.
macro_rules! dispatch {
    ($name:ident $(<$($kind:ident: $bound:path),+>)?, $body:ident, ($($arg:ident: $type:ty),*)) => {
        fn $name $(<$($kind: $bound),+>)? ($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,fma")]
                fn avx512 $(<$($kind: $bound),+>)? ($($arg: $type),*) {
                    $body($($arg),*);
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2 $(<$($kind: $bound),+>)? ($($arg: $type),*) {
                    $body($($arg),*);
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
            $body($($arg),*);
        }
    };
}
pub(crate) use dispatch;

/// Numbers in the widest vector; loops over arrays of so many stay in registers.
pub const LANES: usize = 16;

/// Whether the functions that [`dispatch`] compiles for AVX-512 may be called.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn has_avx512() -> bool {
    use std::is_x86_feature_detected as has;
    has!("avx512f") && has!("avx512dq") && has!("avx512vl") && has!("avx512bw") && has!("fma")
}

/// Whether the functions that [`dispatch`] compiles for AVX2 may be called.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn has_avx2() -> bool {
    use std::is_x86_feature_detected as has;
    has!("avx2") && has!("fma")
}

/// `1 / (1 + exp(-u))`.
#[inline(always)]
pub fn logistic(u: f32) -> f32 {
    1.0 / (1.0 + exp(-u))
}

/// `exp` for a vector unit: `2^n` from the exponent bits times a polynomial in the rest. Relative error below 3e-7.
///
/// The polynomial is the Taylor series of degree 6 on |r| <= ln 2 / 2.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to an integer and leaves that integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0))))));
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// `tanh` for a vector unit: a rational function, the one that Eigen uses. Relative error below 5e-7.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    const ODD: [f32; 7] = [
        -2.760_768_5e-16,
        2.000_188e-13,
        -8.604_672e-11,
        5.122_297e-8,
        1.485_722_4e-5,
        6.372_619_3e-4,
        4.893_524_6e-3,
    ];
    const EVEN: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3];
    let x = x.clamp(-9.0, 9.0);
    let square = x * x;
    let odd = ODD.into_iter().fold(0.0, |sum, c| sum * square + c);
    let even = EVEN.into_iter().fold(0.0, |sum, c| sum * square + c);
    x * odd / even
}

/// The sum of `f` over `x`, in [`LANES`] interleaved partial sums.
#[inline(always)]
pub fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    lanes.iter().sum()
}

/// The sum of `f` over `x` and `y` side by side, in [`LANES`] interleaved partial sums.
#[inline(always)]
pub fn sum_of_two(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let ((blocks, rest), (other_blocks, other_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (block, other) in blocks.iter().zip(other_blocks) {
        for ((lane, &x), &y) in lanes.iter_mut().zip(block).zip(other) {
            *lane += f(x, y);
        }
    }
    for ((lane, &x), &y) in lanes.iter_mut().zip(rest).zip(other_rest) {
        *lane += f(x, y);
    }
    lanes.iter().sum()
}

/// The greatest of `x`, or `f32::MIN`.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let greater = |a: f32, b: f32| if a > b { a } else { b };
    let mut lanes = [f32::MIN; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &x) in lanes.iter_mut().zip(block) {
            *lane = greater(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = greater(*lane, x);
    }
    lanes.into_iter().fold(f32::MIN, greater)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_tanh_are_right_to_a_few_units_in_the_last_place() {
        for i in -40_000_i32..=40_000 {
            let x = i as f32 / 1000.0;
            let wide = f64::from(x);
            let off = |got: f32, right: f64| (f64::from(got) - right).abs() / right.abs().max(1e-30);
            assert!(off(exp(x), wide.exp()) < 3e-7, "exp({x})");
            assert!(
                off(tanh(x), wide.tanh()) < 5e-7,
                "tanh({x}) = {} and {}",
                tanh(x),
                wide.tanh()
            );
        }
    }

    #[test]
    fn sums_and_maxima_take_every_element() {
        for len in 0..70_u8 {
            let x: Vec<f32> = (0..len).map(|i| f32::from(i) - 100.0).collect();
            let right: f32 = x.iter().map(|x| x * 2.0).sum();
            assert!((sum(&x, |x| x * 2.0) - right).abs() <= 0.0);
            assert!((sum_of_two(&x, &x, |x, y| x + y) - right).abs() <= 0.0);
            assert!((max(&x) - x.iter().copied().fold(f32::MIN, f32::max)).abs() <= 0.0);
        }
    }
}
