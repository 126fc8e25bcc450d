//! f32 to bf16.

use burn::tensor::{FloatDType, Tensor};

use crate::flex::{from_flex, into_flex, is_flex, narrowed};

/// `x` rounded to bf16, to the nearest and ties to even: the bits of `x.cast(FloatDType::BF16)` for all that is no NaN. On
/// the CPU in one pass on all cores. Without autodiff.
pub fn round_to_bf16(x: Tensor<1>) -> Tensor<1> {
    if !is_flex(&x) {
        return x.cast(FloatDType::BF16);
    }
    from_flex(narrowed(into_flex(x)))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData};

    use super::*;
    use crate::flex::CHUNK;

    #[test]
    fn bits_are_those_of_burns_cast() {
        let mut values: Vec<f32> = (0..3 * CHUNK as u32 + 7)
            .map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9)))
            .collect();
        values.extend([
            0.0,
            -0.0,
            f32::INFINITY,
            f32::MAX,
            f32::MIN_POSITIVE / 2.0,
            f32::NAN,
            1.003_906_3,
        ]);
        let x = Tensor::<1>::from_data(TensorData::new(values.clone(), [values.len()]), &Device::flex());
        let [ours, burns] = [round_to_bf16(x.clone()), x.cast(FloatDType::BF16)].map(|x| x.into_data());
        assert_eq!(ours.dtype(), DType::BF16);
        assert!(ours.as_bytes() == burns.as_bytes());
    }
}
