//! Elementwise operations and their backward out of a backend's own operations: what a GPU runs, where burn-fusion joins
//! them into few kernels.
//!
//! Against the plain reference under autodiff they keep their inputs alone for the backward, not each step's result.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Shape;

use crate::gelu::{CUBIC, LINEAR};

/// `x sigmoid(x (LINEAR + CUBIC x^2))`.
pub fn gelu<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let share = gelu_share::<B>(&x);
    B::float_mul(x, share)
}

/// The gradient of [`gelu`]'s input.
pub fn gelu_backward<B: Backend>(x: FloatTensor<B>, gradient: FloatTensor<B>) -> FloatTensor<B> {
    let share = gelu_share::<B>(&x);
    let slope = gelu_polynomial::<B>(&x, 3.0 * CUBIC);
    let others = B::float_add_scalar(B::float_neg(share.clone()), 1.0.into()); // 1 - sigmoid
    let bend = B::float_mul(B::float_mul(x, others), slope);
    B::float_mul(gradient, B::float_mul(share, B::float_add_scalar(bend, 1.0.into())))
}

fn gelu_share<B: Backend>(x: &FloatTensor<B>) -> FloatTensor<B> {
    let inner = B::float_mul(x.clone(), gelu_polynomial::<B>(x, CUBIC));
    B::float_recip(B::float_add_scalar(B::float_exp(B::float_neg(inner)), 1.0.into()))
}

/// `LINEAR + cubic x^2`.
fn gelu_polynomial<B: Backend>(x: &FloatTensor<B>, cubic: f32) -> FloatTensor<B> {
    let square = B::float_mul(x.clone(), x.clone());
    B::float_add_scalar(B::float_mul_scalar(square, cubic.into()), LINEAR.into())
}

/// `(x - mean(x)) / sqrt(var(x) + eps)` over the last axis.
pub fn layer_norm<B: Backend>(x: FloatTensor<B>, eps: f32) -> FloatTensor<B> {
    Normed::centred::<B>(x, eps).value
}

/// The gradient of [`layer_norm`]'s input.
pub fn layer_norm_backward<B: Backend>(x: FloatTensor<B>, gradient: FloatTensor<B>, eps: f32) -> FloatTensor<B> {
    let normed = Normed::centred::<B>(x, eps);
    let mean = mean::<B>(gradient.clone());
    normed.backward::<B>(B::float_sub(gradient, mean))
}

/// `layer_norm(x) * (1 + scale) + shift` of `x [B, N, D]` with `[B, 1, D]` each.
pub fn norm_modulate<B: Backend>(
    x: FloatTensor<B>,
    shift: FloatTensor<B>,
    scale: FloatTensor<B>,
    eps: f32,
) -> FloatTensor<B> {
    let scaled = B::float_mul(layer_norm::<B>(x, eps), B::float_add_scalar(scale, 1.0.into()));
    B::float_add(scaled, shift)
}

/// The gradients of [`norm_modulate`]'s `x`, `shift` and `scale`.
pub fn norm_modulate_backward<B: Backend>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    gradient: FloatTensor<B>,
    eps: f32,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let normed = Normed::centred::<B>(x, eps);
    let of_scale = B::float_sum_dim(B::float_mul(gradient.clone(), normed.value.clone()), 1);
    let of_shift = B::float_sum_dim(gradient.clone(), 1);
    let gradient = B::float_mul(gradient, B::float_add_scalar(scale, 1.0.into()));
    let mean = mean::<B>(gradient.clone());
    let of_x = normed.backward::<B>(B::float_sub(gradient, mean));
    (of_x, of_shift, of_scale)
}

/// `x / sqrt(mean(x^2) + eps) * gain` over the last axis.
pub fn rms_norm<B: Backend>(x: FloatTensor<B>, gain: FloatTensor<B>, eps: f32) -> FloatTensor<B> {
    let gain = beside::<B>(gain, &x);
    B::float_mul(Normed::of::<B>(x, eps).value, gain)
}

/// The gradients of [`rms_norm`]'s `x` and `gain`.
pub fn rms_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    gain: FloatTensor<B>,
    gradient: FloatTensor<B>,
    eps: f32,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (rows, width) = (x.shape().num_elements() / gain.shape()[0], gain.shape()[0]);
    let gain = beside::<B>(gain, &x);
    let normed = Normed::of::<B>(x, eps);
    let of_gain = B::float_mul(gradient.clone(), normed.value.clone());
    let of_gain = B::float_sum_dim(B::float_reshape(of_gain, Shape::new([rows, width])), 0);
    let of_x = normed.backward::<B>(B::float_mul(gradient, gain));
    (of_x, B::float_reshape(of_gain, Shape::new([width])))
}

/// Rows of unit scale, and what each was multiplied by.
struct Normed<T> {
    value: T,
    factor: T,
}

impl<T> Normed<T> {
    /// Rows over the root of their mean square.
    fn of<B: Backend<FloatTensorPrimitive = T>>(x: T, eps: f32) -> Self
    where
        T: Clone,
    {
        let mean_square = mean::<B>(B::float_mul(x.clone(), x.clone()));
        let factor = B::float_recip(B::float_sqrt(B::float_add_scalar(mean_square, eps.into())));
        Self {
            value: B::float_mul(x, factor.clone()),
            factor,
        }
    }

    /// The same of rows less their mean.
    fn centred<B: Backend<FloatTensorPrimitive = T>>(x: T, eps: f32) -> Self
    where
        T: Clone,
    {
        let mean = mean::<B>(x.clone());
        Self::of::<B>(B::float_sub(x, mean), eps)
    }

    /// The gradient of the rows that [`of`](Self::of) took from that of its value.
    fn backward<B: Backend<FloatTensorPrimitive = T>>(self, gradient: T) -> T
    where
        T: Clone,
    {
        let along = mean::<B>(B::float_mul(gradient.clone(), self.value.clone()));
        B::float_mul(B::float_sub(gradient, B::float_mul(self.value, along)), self.factor)
    }
}

/// Over the last axis, which stays.
fn mean<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let last = x.shape().num_dims() - 1;
    B::float_mean_dim(x, last)
}

/// A row as wide as the last axis of `x`, with as many axes.
fn beside<B: Backend>(row: FloatTensor<B>, x: &FloatTensor<B>) -> FloatTensor<B> {
    let mut shape = vec![1; x.shape().num_dims()];
    shape[x.shape().num_dims() - 1] = row.shape()[0];
    B::float_reshape(row, Shape::from(shape))
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn_flex::FlexTensor;

    use super::*;
    use crate::flex::testing::{assert_close, tensor};
    use crate::flex::{from_flex, into_flex};
    use crate::gelu::GeluOps;
    use crate::layer_norm::LayerNormOps;
    use crate::rms_norm::RmsNormOps;

    const EPS: f32 = 1e-6;

    fn x<const D: usize>(shape: [usize; D], seed: usize) -> FlexTensor {
        into_flex(tensor(shape, seed))
    }

    fn check<const D: usize>(got: FlexTensor, right: FlexTensor) {
        assert_close(from_flex::<D>(got), from_flex::<D>(right), 2e-5);
    }

    #[test]
    fn gelu_equals_the_fused_one() {
        let (x, g) = (x([3, 77], 1), x([3, 77], 2));
        check::<2>(gelu::<Flex>(x.clone()), Flex::gelu_tanh(x.clone()));
        check::<2>(
            gelu_backward::<Flex>(x.clone(), g.clone()),
            Flex::gelu_tanh_backward(x, g),
        );
    }

    #[test]
    fn norms_equal_the_fused_ones() {
        let (input, g, gain) = (x([3, 5, 33], 1), x([3, 5, 33], 2), x([33], 3));
        check::<3>(
            layer_norm::<Flex>(input.clone(), EPS),
            Flex::normalised(input.clone(), EPS),
        );
        let right = Flex::normalised_backward(input.clone(), g.clone(), EPS);
        check::<3>(layer_norm_backward::<Flex>(input.clone(), g.clone(), EPS), right);
        let right = Flex::scaled_rms_norm(input.clone(), gain.clone(), EPS);
        check::<3>(rms_norm::<Flex>(input.clone(), gain.clone(), EPS), right);
        let (of_x, of_gain) = rms_norm_backward::<Flex>(input.clone(), gain.clone(), g.clone(), EPS);
        let right = Flex::scaled_rms_norm_backward(input, gain, g, EPS);
        check::<3>(of_x, right.0);
        check::<1>(of_gain, right.1);
    }

    #[test]
    fn norm_and_modulation_equal_the_fused_one() {
        let (input, g) = (x([3, 5, 33], 1), x([3, 5, 33], 2));
        let (shift, scale) = (x([3, 1, 33], 3), x([3, 1, 33], 4));
        let right = Flex::norm_modulate(input.clone(), shift.clone(), scale.clone(), EPS);
        check::<3>(norm_modulate::<Flex>(input.clone(), shift, scale.clone(), EPS), right);
        let got = norm_modulate_backward::<Flex>(input.clone(), scale.clone(), g.clone(), EPS);
        let right = Flex::norm_modulate_backward(input, scale, g, EPS);
        check::<3>(got.0, right.0);
        check::<3>(got.1, right.1);
        check::<3>(got.2, right.2);
    }
}
