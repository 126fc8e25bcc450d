//! Gated activations. For frozen networks: there is no fused backward, tensors with gradients take the reference.

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use rayon::prelude::*;

use crate::flex::{CHUNK, from_flex, into_flex, is_flex, map_owned, values};
use crate::gelu::{gelu_reference, gelu_value};
use crate::simd::{dispatch, logistic};

/// `silu(gate) * up` of two tensors of equal shape.
///
/// Source: Shazeer, arXiv 2002.05202, equation 6. Within 1e-6 of [`gated_silu_reference`].
pub fn gated_silu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    if is_flex(&gate) && is_flex(&up) {
        fused(gate, up, silu)
    } else {
        gated_silu_reference(gate, up)
    }
}

/// `gelu(gate) * up` of two tensors of equal shape, with GELU's tanh form.
///
/// Source: Shazeer, arXiv 2002.05202, equation 6. Within 1e-6 of [`gated_gelu_reference`].
pub fn gated_gelu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    if is_flex(&gate) && is_flex(&up) {
        fused(gate, up, gelu)
    } else {
        gated_gelu_reference(gate, up)
    }
}

/// [`gated_silu`] in plain burn.
pub fn gated_silu_reference(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    sigmoid(gate.clone()) * gate * up
}

/// [`gated_gelu`] in plain burn.
pub fn gated_gelu_reference(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    gelu_reference(gate) * up
}

fn fused(gate: Tensor<2>, up: Tensor<2>, f: fn(&mut [f32], &[f32])) -> Tensor<2> {
    assert_eq!(gate.dims(), up.dims(), "a gate is as large as what it gates");
    let up = into_flex(up).to_contiguous();
    from_flex(map_owned(into_flex(gate), |gate| {
        gate.par_chunks_mut(CHUNK)
            .zip(values(&up).par_chunks(CHUNK))
            .for_each(|(gate, up)| f(gate, up));
    }))
}

dispatch!(silu, silu_body, (gate: &mut [f32], up: &[f32]));
dispatch!(gelu, gelu_body, (gate: &mut [f32], up: &[f32]));

#[inline(always)]
fn silu_body(gate: &mut [f32], up: &[f32]) {
    for (gate, &up) in gate.iter_mut().zip(up) {
        *gate = *gate * logistic(*gate) * up;
    }
}

#[inline(always)]
fn gelu_body(gate: &mut [f32], up: &[f32]) {
    for (gate, &up) in gate.iter_mut().zip(up) {
        *gate = gelu_value(*gate) * up;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::testing::{assert_close, tensor};

    #[test]
    fn odd_shapes_equal_the_reference() {
        for shape in [[1, 1], [3, 7], [37, 1001], [2, CHUNK + 5]] {
            let (gate, up) = (tensor(shape, 1) * 4.0, tensor(shape, 2));
            let right = gated_silu_reference(gate.clone(), up.clone());
            assert_close(gated_silu(gate.clone(), up.clone()), right, 1e-6);
            let right = gated_gelu_reference(gate.clone(), up.clone());
            assert_close(gated_gelu(gate, up), right, 1e-6);
        }
    }

    #[test]
    fn views_of_one_tensor_keep_it() {
        let joined = tensor([9, 26], 1);
        let kept = joined.clone() + 0.0;
        let (gate, up) = (joined.clone().narrow(1, 0, 13), joined.clone().narrow(1, 13, 13));
        let right = gated_silu_reference(gate.clone(), up.clone());
        assert_close(gated_silu(gate.clone(), up.clone()), right.clone(), 1e-6);
        assert_close(gated_silu(gate.transpose(), up.transpose()), right.transpose(), 1e-6);
        assert_close(joined, kept, 0.0);
    }
}
