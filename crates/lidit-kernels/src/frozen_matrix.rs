//! The matrix of a frozen layer.

use std::sync::Arc;

use burn::tensor::{DType, FloatDType, Tensor, bf16};

use crate::flex::{elements, from_flex, into_flex, is_bf16_on_flex, is_flex, values, written};
use crate::product::Matrix;
use crate::product_bf16::{Output, PackedMatrix};

/// A matrix `[in, out]` that many inputs are multiplied with and nobody trains; in bf16 on the CPU it lies as its products
/// read it.
#[derive(Clone, Debug)]
pub struct FrozenMatrix(Kind);

#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one a layer, and the large one is the common one"
)]
enum Kind {
    Plain(Tensor<2>),
    Packed(Arc<PackedMatrix>),
}

impl FrozenMatrix {
    /// Of `weight [in, out]` without gradients.
    pub fn new(weight: Tensor<2>) -> Self {
        let is_bf16 = weight.dtype() == DType::BF16 && !weight.device().is_autodiff();
        if !is_bf16 || !is_bf16_on_flex(&weight) {
            return Self(Kind::Plain(weight));
        }
        let [num_inputs, _] = weight.dims();
        // Files store `[out, in]`, of which layers take the transpose: this is no copy.
        let stored = into_flex(weight.transpose()).to_contiguous();
        let matrix = Matrix::<bf16>::new(elements(&stored), num_inputs).transposed();
        Self(Kind::Packed(Arc::new(PackedMatrix::new(&matrix))))
    }

    /// `x [N, in]` times the matrix, plus `bias [out]`: multiplied in the matrix's type, f32 in and out.
    ///
    /// On the CPU sums are f32 and are not rounded.
    pub fn multiply(&self, x: Tensor<2>, bias: Option<&Tensor<1>>) -> Tensor<2> {
        match &self.0 {
            Kind::Packed(matrix) if is_flex(&x) => {
                let x = into_flex(x).to_contiguous();
                let bias = bias.map(|bias| into_flex(bias.clone()).to_contiguous());
                let [rows, depth] = [x.layout().shape()[0], x.layout().shape()[1]];
                let a = Matrix::with_size(values(&x), [rows, depth]);
                let fill = |out: &mut [_]| matrix.multiply(&a, bias.as_ref().map(values), Output::F32(out));
                // SAFETY: a product writes every element of its result.
                from_flex(unsafe { written([rows, matrix.columns()], fill) })
            }
            Kind::Packed(_) => panic!("a matrix on the CPU takes f32 tensors of the CPU without gradients"),
            Kind::Plain(matrix) => {
                let y = x.cast(matrix.dtype()).matmul(matrix.clone()).cast(FloatDType::F32);
                match bias {
                    Some(bias) => y + bias.clone().unsqueeze(),
                    None => y,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::testing::{assert_close, tensor};

    #[test]
    fn a_matrix_of_bf16_gives_what_the_same_numbers_give_in_f32() {
        for [rows, num_inputs, num_outputs] in [[1, 1, 1], [7, 33, 50], [130, 576, 192]] {
            let short = |shape, seed| tensor::<2>(shape, seed).cast(FloatDType::BF16);
            let (x, stored) = (short([rows, num_inputs], 1), short([num_outputs, num_inputs], 2));
            let bias = tensor::<1>([num_outputs], 3);
            let wide = |x: &Tensor<2>| x.clone().cast(FloatDType::F32);
            let plain = FrozenMatrix::new(wide(&stored).transpose());
            let packed = FrozenMatrix::new(stored.transpose());
            for bias in [None, Some(&bias)] {
                assert_close(packed.multiply(wide(&x), bias), plain.multiply(wide(&x), bias), 1e-4);
            }
        }
    }

    #[test]
    fn inputs_are_rounded_as_casts_round_them() {
        let (x, weight) = (tensor::<2>([5, 64], 1), tensor::<2>([64, 40], 2).cast(FloatDType::BF16));
        let packed = FrozenMatrix::new(weight.clone());
        let rounded = x.clone().cast(FloatDType::BF16).cast(FloatDType::F32);
        assert_close(packed.multiply(x, None), packed.multiply(rounded, None), 0.0);
    }
}
