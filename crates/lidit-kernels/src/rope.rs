//! Rotary positions. For frozen networks: there is no fused backward, tensors with gradients take the reference.

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::flex::{CHUNK, from_flex, into_flex, is_flex, map_owned, values};
use crate::simd::dispatch;

/// Turns the pairs `(i, i + d / 2)` of every head of `x [B, T, H, d]` by angles given as their cosines and sines.
///
/// `cos` and `sin` are `[T, d / 2]`, alike for every row of the batch, or `[B * T, d / 2]`. Tables that were multiplied
/// by a factor multiply `x` too. Source: Su et al., arXiv 2104.09864, with the halves of transformers' Llama. Within
/// 1e-6 of [`rotate_reference`].
pub fn rotate(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let tables = Tables::of(&x, &cos, &sin);
    if !is_flex(&x) || !is_flex(&cos) || !is_flex(&sin) {
        return rotate_reference(x, cos, sin);
    }
    let [_, _, num_heads, dim] = x.dims();
    let (cos, sin) = (into_flex(cos).to_contiguous(), into_flex(sin).to_contiguous());
    let width = num_heads * dim;
    let tokens = (CHUNK / width).max(1);
    from_flex(map_owned(into_flex(x), |x| {
        x.par_chunks_mut(tokens * width).enumerate().for_each(|(chunk, x)| {
            for (i, heads) in x.chunks_exact_mut(width).enumerate() {
                let row = (chunk * tokens + i) % tables.num_rows * (dim / 2);
                turn(heads, &values(&cos)[row..][..dim / 2], &values(&sin)[row..][..dim / 2]);
            }
        });
    }))
}

/// The same in plain burn.
pub fn rotate_reference(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let [_, len, _, dim] = x.dims();
    let tables = Tables::of(&x, &cos, &sin);
    let table = |table: Tensor<2>| table.reshape([tables.num_rows / len, len, 1, dim / 2]);
    let (cos, sin) = (table(cos), table(sin));
    let first = x.clone().narrow(3, 0, dim / 2);
    let second = x.narrow(3, dim / 2, dim / 2);
    let turned = vec![
        first.clone() * cos.clone() - second.clone() * sin.clone(),
        second * cos + first * sin,
    ];
    Tensor::cat(turned, 3)
}

/// The shape of the tables, once it is known to fit.
struct Tables {
    num_rows: usize,
}

impl Tables {
    fn of(x: &Tensor<4>, cos: &Tensor<2>, sin: &Tensor<2>) -> Self {
        let [batch, len, _, dim] = x.dims();
        let [num_rows, half] = cos.dims();
        assert_eq!(cos.dims(), sin.dims(), "one sine for each cosine");
        assert_eq!(half * 2, dim, "one angle for each pair of features");
        assert!(
            num_rows == len || num_rows == batch * len,
            "{num_rows} rows of angles for {batch} rows of {len} tokens"
        );
        Self { num_rows }
    }
}

dispatch!(turn, turn_body, (heads: &mut [f32], cos: &[f32], sin: &[f32]));

#[inline(always)]
fn turn_body(heads: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for head in heads.chunks_exact_mut(2 * half) {
        let (first, second) = head.split_at_mut(half);
        for (((first, second), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            let (a, b) = (*first, *second);
            *first = a * cos - b * sin;
            *second = b * cos + a * sin;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::testing::{assert_close, tensor};

    #[test]
    fn shared_and_own_tables_equal_the_reference() {
        for [batch, len, num_heads, dim] in [[1, 1, 1, 2], [3, 7, 3, 10], [5, 33, 9, 64]] {
            let x = tensor([batch, len, num_heads, dim], 1);
            for num_rows in [len, batch * len] {
                let (cos, sin) = (tensor([num_rows, dim / 2], 2), tensor([num_rows, dim / 2], 3));
                let right = rotate_reference(x.clone(), cos.clone(), sin.clone());
                assert_close(rotate(x.clone(), cos, sin), right, 1e-6);
            }
        }
    }

    #[test]
    fn own_tables_turn_each_row_by_its_own() {
        let x = tensor([2, 3, 1, 4], 1);
        let (cos, sin) = (tensor([6, 2], 2), tensor([6, 2], 3));
        let both = rotate_reference(x.clone(), cos.clone(), sin.clone());
        let second = rotate_reference(x.narrow(0, 1, 1), cos.narrow(0, 3, 3), sin.narrow(0, 3, 3));
        assert_close(both.narrow(0, 1, 1), second, 0.0);
    }

    #[test]
    fn a_view_of_joined_projections_keeps_them() {
        let joined = tensor([2, 5, 7, 8], 1);
        let kept = joined.clone() + 0.0;
        let (cos, sin) = (tensor([5, 4], 2), tensor([5, 4], 3));
        let view = joined.clone().narrow(2, 3, 3);
        let right = rotate_reference(view.clone(), cos.clone(), sin.clone());
        assert_close(rotate(view, cos, sin), right, 1e-6);
        assert_close(joined, kept, 0.0);
    }
}
