#![allow(clippy::unwrap_used)]
use burn::backend::Flex;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor};

use super::*;
use crate::flex::testing::{assert_close, tensor};
use crate::flex::{from_flex, into_flex};

const HIDDEN: f32 = -1e9;

struct Case {
    rows: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    dim: usize,
    /// Rows and queries of the bias; zero rows: nothing is hidden.
    bias: [usize; 2],
    max_scores: usize,
    dtype: FloatDType,
}

/// Zeros, with about every third key hidden, and of the last row all.
fn bias(case: &Case) -> Tensor<4> {
    let [rows, queries] = case.bias.map(|size| size.max(1));
    let hidden = tensor([rows, 1, queries, case.keys], 5).lower_elem(-0.6);
    let bias = Tensor::<4>::zeros([rows, 1, queries, case.keys], &Device::flex()).mask_fill(hidden, HIDDEN);
    if case.bias[0] == 0 {
        return bias.zeros_like();
    }
    let last = Tensor::full([1, 1, queries, case.keys], HIDDEN, &Device::flex());
    bias.slice_assign([rows - 1..rows, 0..1, 0..queries, 0..case.keys], last)
}

/// Plain burn in f32: the output.
fn plain(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, bias: Tensor<4>) -> Tensor<4> {
    let dim = q.dims()[3] as f32;
    let [q, k, v] = [q, k, v].map(|x| x.swap_dims(1, 2));
    let seen = bias.clone().greater_elem(-1.0).float().max_dim(3);
    let weights = softmax(q.matmul(k.swap_dims(2, 3)) / dim.sqrt() + bias, 3);
    (weights.matmul(v) * seen).swap_dims(1, 2)
}

fn check(case: &Case, tolerance: f32) {
    let Case {
        rows,
        queries,
        keys,
        heads,
        dim,
        max_scores,
        dtype,
        ..
    } = *case;
    let rounded = |x: Tensor<4>| x.cast(dtype).cast(FloatDType::F32);
    // Scores as of normalised queries and keys.
    let q = rounded(tensor([rows, queries, heads, dim], 1) * 0.5);
    let [k, v] = [2, 3].map(|seed| rounded(tensor([rows, keys, heads, dim], seed)));
    let gradient = rounded(tensor([rows, queries, heads, dim], 4));
    let bias = bias(case);

    let inputs = [&q, &k, &v].map(|x| x.clone().autodiff().require_grad());
    let [tracked_q, tracked_k, tracked_v] = inputs.clone();
    let right = plain(tracked_q, tracked_k, tracked_v, bias.clone().autodiff());
    let gradients = (right.clone() * gradient.clone().autodiff()).sum().backward();

    let flex = |x: &Tensor<4>| into_flex(x.clone().cast(dtype));
    let [q, k, v, gradient] = [&q, &k, &v, &gradient].map(flex);
    let bias = into_flex(bias);
    let (output, lse) = forward_within::<Flex>(&q, &k, &v, &bias, max_scores);
    assert_eq!(lse.shape().to_vec(), [rows, heads, queries]);
    let f32_of = |x: FloatTensor<Flex>| from_flex::<4>(x).cast(FloatDType::F32);
    assert_close(f32_of(output.clone()), right.inner(), tolerance);
    let tape = Tape::<Flex> {
        q,
        k,
        v,
        bias,
        output,
        lse,
        gradient,
    };
    for (got, input) in backward_within::<Flex>(tape, max_scores).into_iter().zip(inputs) {
        assert_eq!(got.dtype(), DType::from(dtype));
        assert_close(f32_of(got), input.grad(&gradients).unwrap(), tolerance);
    }
}

const CASE: Case = Case {
    rows: 3,
    queries: 7,
    keys: 5,
    heads: 2,
    dim: 6,
    bias: [3, 1],
    max_scores: MAX_SCORES,
    dtype: FloatDType::F32,
};

#[test]
fn values_and_gradients_equal_plain_burn() {
    let biases = [[0, 1], [1, 1], [1, 7], [3, 1], [3, 7]];
    // All at once, a few rows at a time, a row at a time, a few queries, one query.
    for max_scores in [MAX_SCORES, 2 * 70, 70, 30, 1] {
        for bias in biases {
            check(
                &Case {
                    bias,
                    max_scores,
                    ..CASE
                },
                1e-5,
            );
        }
    }
    check(
        &Case {
            rows: 1,
            queries: 33,
            keys: 70,
            heads: 3,
            dim: 72,
            bias: [1, 33],
            ..CASE
        },
        1e-5,
    );
}

#[test]
fn half_precision_keeps_to_its_rounding() {
    check(
        &Case {
            dtype: FloatDType::BF16,
            dim: 72,
            ..CASE
        },
        2e-2,
    );
    check(
        &Case {
            dtype: FloatDType::BF16,
            max_scores: 30,
            ..CASE
        },
        2e-2,
    );
}

#[test]
fn a_query_without_keys_is_exactly_zero_and_moves_nothing() {
    let q = into_flex(tensor::<4>([1, 4, 2, 6], 1));
    let [k, v] = [2, 3].map(|seed| into_flex(tensor::<4>([1, 5, 2, 6], seed)));
    let bias = into_flex(Tensor::<4>::full([1, 1, 1, 5], HIDDEN, &Device::flex()));
    let (output, lse) = forward::<Flex>(&q, &k, &v, &bias);
    let largest = |x: FloatTensor<Flex>| from_flex::<4>(x).abs().max().into_scalar::<f32>();
    assert!(largest(output.clone()) <= 0.0);
    let tape = Tape::<Flex> {
        gradient: q.clone(),
        q,
        k,
        v,
        bias,
        output,
        lse,
    };
    let (dq, dk, dv) = backward::<Flex>(tape);
    assert!([dq, dk, dv].into_iter().all(|x| largest(x) <= 0.0));
}

#[test]
fn chunks_cover_everything_once_and_keep_to_the_limit() {
    for (len, limit) in [(7, 3), (8, 3), (1, 100), (5, 1), (5, 0), (256, 100)] {
        let parts = even(len, limit);
        assert!(parts.iter().cloned().flatten().eq(0..len), "{len} {limit}");
        assert!(parts.iter().all(|part| part.len() <= limit.max(1)), "{len} {limit}");
    }
}
