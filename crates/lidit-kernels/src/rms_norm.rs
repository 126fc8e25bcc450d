//! Root-mean-square norm. For frozen networks: there is no fused backward, a tensor with gradients takes the reference.

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::flex::{CHUNK, from_flex, into_flex, is_flex, map_owned, values};
use crate::simd::{dispatch, sum};

/// `x / sqrt(mean(x^2) + eps) * gain` over the last axis, whose length is the gain's.
///
/// Source: Zhang and Sennrich, arXiv 1910.07467, equation 4. Within 1e-6 of [`rms_norm_reference`].
pub fn rms_norm<const D: usize>(x: Tensor<D>, gain: Tensor<1>, eps: f32) -> Tensor<D> {
    if !is_flex(&x) || !is_flex(&gain) {
        return rms_norm_reference(x, gain, eps);
    }
    let [width] = gain.dims();
    assert_eq!(x.dims()[D - 1], width, "the gain is as wide as what it scales");
    let gain = into_flex(gain).to_contiguous();
    let rows = (CHUNK / width).max(1);
    from_flex(map_owned(into_flex(x), |x| {
        x.par_chunks_mut(rows * width)
            .for_each(|x| normalise(x, values(&gain), eps));
    }))
}

/// The same in plain burn.
pub fn rms_norm_reference<const D: usize>(x: Tensor<D>, gain: Tensor<1>, eps: f32) -> Tensor<D> {
    let mean_square = x.clone().square().mean_dim(D - 1);
    let scale = (mean_square + eps).sqrt().recip();
    x * scale * gain.unsqueeze()
}

dispatch!(normalise, normalise_body, (x: &mut [f32], gain: &[f32], eps: f32));

#[inline(always)]
fn normalise_body(x: &mut [f32], gain: &[f32], eps: f32) {
    for row in x.chunks_exact_mut(gain.len()) {
        let mean_square = sum(row, |x| x * x) / gain.len() as f32;
        let scale = (mean_square + eps).sqrt().recip();
        for (x, &gain) in row.iter_mut().zip(gain) {
            *x = *x * scale * gain;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::testing::{assert_close, tensor};

    #[test]
    fn any_width_and_number_of_axes_equals_the_reference() {
        for width in [1, 15, 64, 576, 1001] {
            let gain = tensor([width], 3);
            let x = tensor([3, 37, width], 1);
            let right = rms_norm_reference(x.clone(), gain.clone(), 1e-5);
            assert_close(rms_norm(x.clone(), gain.clone(), 1e-5), right.clone(), 1e-6);
            let flat = rms_norm(x.reshape([3 * 37, width]), gain, 1e-5);
            assert_close(flat, right.reshape([3 * 37, width]), 1e-6);
        }
    }

    #[test]
    fn a_view_and_a_shared_input_keep_their_values() {
        let (x, gain) = (tensor([5, 9, 24], 1), tensor([8], 2));
        let kept = x.clone() + 0.0;
        let view = x.clone().narrow(2, 8, 8).swap_dims(0, 1);
        let right = rms_norm_reference(view.clone(), gain.clone(), 1e-6);
        assert_close(rms_norm(view, gain, 1e-6), right, 1e-6);
        assert_close(x, kept, 0.0);
    }

    #[test]
    fn gradients_flow_through_the_reference() {
        let x = tensor([2, 6], 1).autodiff().require_grad();
        let gain = tensor([6], 2).autodiff();
        let gradients = rms_norm(x.clone(), gain, 1e-6).sum().backward();
        assert!(x.grad(&gradients).is_some());
    }
}
