//! f32 to bf16.

use burn::tensor::{Bytes, DType, FloatDType, Tensor};
use burn_flex::{FlexTensor, Layout};
use rayon::prelude::*;

use crate::flex::{CHUNK, from_flex, into_flex, is_flex, values};
use crate::simd::dispatch;

/// `x` rounded to bf16, to the nearest and ties to even: the bits of `x.cast(FloatDType::BF16)` for all that is no NaN. On
/// the CPU in one pass on all cores. Without autodiff.
pub fn round_to_bf16(x: Tensor<1>) -> Tensor<1> {
    if !is_flex(&x) {
        return x.cast(FloatDType::BF16);
    }
    let x = into_flex(x).to_contiguous();
    let mut out = vec![0u16; x.layout().num_elements()];
    out.par_chunks_mut(CHUNK)
        .zip(values(&x).par_chunks(CHUNK))
        .for_each(|(out, x)| round(x, out));
    let layout = Layout::contiguous(x.layout().shape().clone());
    from_flex(FlexTensor::new(Bytes::from_elems(out), layout, DType::BF16))
}

dispatch!(round, round_body, (x: &[f32], out: &mut [u16]));

#[inline(always)]
fn round_body(x: &[f32], out: &mut [u16]) {
    for (out, x) in out.iter_mut().zip(x) {
        let bits = x.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
        // Rounding could carry a NaN's mantissa over: it keeps its upper bits and becomes a quiet one.
        *out = if x.is_nan() {
            (bits >> 16) as u16 | 0x40
        } else {
            rounded
        };
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

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
