//! The types in which numbers lie in memory; all computing is in f32.

use burn::tensor::{Element, bf16};
use bytemuck::Pod;

/// A number that becomes f32 and comes from it.
pub trait Number: Element + Pod {
    /// Exact.
    fn wide(self) -> f32;

    /// The nearest, ties to even.
    fn from_f32(x: f32) -> Self;

    /// The nearest bf16, ties to even.
    fn to_bf16(self) -> bf16;

    /// `row` itself where it is in bf16 already.
    fn as_bf16(row: &[Self]) -> Option<&[bf16]>;
}

impl Number for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn to_bf16(self) -> bf16 {
        <bf16 as Number>::from_f32(self)
    }

    fn as_bf16(_: &[Self]) -> Option<&[bf16]> {
        None
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// Without branches, unlike the type's own, so that loops become vectors.
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        // A NaN that lost its low bits must not become an infinity.
        let bits = if x.is_nan() { bits | 0x0040_0000 } else { rounded };
        Self::from_bits((bits >> 16) as u16)
    }

    #[inline(always)]
    fn to_bf16(self) -> bf16 {
        self
    }

    fn as_bf16(row: &[Self]) -> Option<&[bf16]> {
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_type_itself() {
        for high in 0..=u16::MAX {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(u32::from(high) << 16 | low);
                let right = bf16::from_f32(x);
                assert_eq!(<bf16 as Number>::from_f32(x).to_bits(), right.to_bits(), "{x:e}");
                assert_eq!(Number::wide(right).to_bits(), right.to_f32().to_bits(), "{x:e}");
            }
        }
    }
}
