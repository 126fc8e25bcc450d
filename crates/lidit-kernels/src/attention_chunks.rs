//! Attention with a backward of its own, out of matrix products: what a GPU runs.
//!
//! The scores of a chunk of rows and queries are in memory at once, never all of them, and none are kept for the backward,
//! which makes them again from the log-sum-exp. A backend's matrix products do the work (tensor cores), and burn-fusion
//! joins the elementwise steps between them. Source: Dao, arXiv 2307.08691, equations of sections 2.3 and 3.1.

use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, Shape, Slice};

/// Scores of one chunk, at most: 512 MiB of them in f32, of which a handful is alive at a time.
const MAX_SCORES: usize = 1 << 27;
/// Half of what hides a key: a query whose largest score is below it sees none.
const UNSEEN: f32 = -5e8;
/// The log-sum-exp of a query that sees no key: every weight made again from it is zero.
const NO_KEYS: f32 = 1e9;

/// Softmax attention of `q` `[B, N, H, d]` over `k` and `v` `[B, T, H, d]` under `bias` `[B or 1, 1, N or 1, T]` in f32,
/// which is added to the scores: zero for a visible key, at most -1e9 for a hidden one. Gives the output `[B, N, H, d]`
/// and the log-sum-exp of the scores `[B, H, N]` in f32, 1e9 for a query without keys, whose output is zero.
///
/// `q`, `k` and `v` have one type, in which the products are made; the softmax is f32.
pub fn forward<B: Backend>(
    q: &FloatTensor<B>,
    k: &FloatTensor<B>,
    v: &FloatTensor<B>,
    bias: &FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    forward_within::<B>(q, k, v, bias, MAX_SCORES)
}

fn forward_within<B: Backend>(
    q: &FloatTensor<B>,
    k: &FloatTensor<B>,
    v: &FloatTensor<B>,
    bias: &FloatTensor<B>,
    max_scores: usize,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let extent = Extent::of::<B>(q, k);
    let (mut rows_out, mut rows_lse) = (Vec::new(), Vec::new());
    for rows in extent.row_chunks(max_scores) {
        let [k, v] = [k, v].map(|x| heads::<B>(x, &rows, 0..extent.keys));
        let (mut outs, mut sums) = (Vec::new(), Vec::new());
        for queries in extent.query_chunks(rows.len(), max_scores) {
            let q = heads::<B>(q, &rows, queries.clone());
            let bias = bias_of::<B>(bias, &rows, &queries);
            let (out, lse) = forward_chunk::<B>(q, k.clone(), v.clone(), bias);
            outs.push(B::float_swap_dims(out, 1, 2)); // [b, n, H, d]
            sums.push(lse); // [b, H, n, 1]
        }
        rows_out.push(join::<B>(outs, 1));
        rows_lse.push(join::<B>(sums, 2));
    }
    let lse = join::<B>(rows_lse, 0);
    let shape = Shape::new([extent.rows, extent.heads, extent.queries]);
    (join::<B>(rows_out, 0), B::float_reshape(lse, shape))
}

/// What [`backward`] reads: what [`forward`] read and gave, and the gradient of its output `[B, N, H, d]`.
pub struct Tape<B: Backend> {
    /// `[B, N, H, d]`.
    pub q: FloatTensor<B>,
    /// `[B, T, H, d]`.
    pub k: FloatTensor<B>,
    /// `[B, T, H, d]`.
    pub v: FloatTensor<B>,
    /// `[B or 1, 1, N or 1, T]`.
    pub bias: FloatTensor<B>,
    /// `[B, N, H, d]`.
    pub output: FloatTensor<B>,
    /// `[B, H, N]`.
    pub lse: FloatTensor<B>,
    /// `[B, N, H, d]`.
    pub gradient: FloatTensor<B>,
}

/// The gradients of `q`, `k` and `v`.
pub fn backward<B: Backend>(tape: Tape<B>) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let [dq, dk, dv] = backward_within(tape, MAX_SCORES);
    (dq, dk, dv)
}

fn backward_within<B: Backend>(tape: Tape<B>, max_scores: usize) -> [FloatTensor<B>; 3] {
    let extent = Extent::of::<B>(&tape.q, &tape.k);
    let tape = Tape {
        lse: B::float_reshape(tape.lse, Shape::new([extent.rows, extent.heads, extent.queries, 1])),
        gradient: cast::<B>(tape.gradient, tape.v.dtype()),
        ..tape
    };
    let (mut all_dq, mut all_dk, mut all_dv) = (Vec::new(), Vec::new(), Vec::new());
    for rows in extent.row_chunks(max_scores) {
        let mut row_dq = Vec::new();
        let mut sums: Option<[FloatTensor<B>; 2]> = None;
        for queries in extent.query_chunks(rows.len(), max_scores) {
            let [dq, dk, dv] = backward_chunk(tape.part(&rows, &queries));
            row_dq.push(B::float_swap_dims(dq, 1, 2)); // [b, n, H, d]
            sums = Some(match sums {
                Some([k, v]) => [B::float_add(k, dk), B::float_add(v, dv)],
                None => [dk, dv],
            });
        }
        all_dq.push(join::<B>(row_dq, 1));
        if let Some(sums) = sums {
            let [dk, dv] = sums.map(|x| B::float_swap_dims(x, 1, 2)); // [b, T, H, d]
            all_dk.push(dk);
            all_dv.push(dv);
        }
    }
    [join::<B>(all_dq, 0), join::<B>(all_dk, 0), join::<B>(all_dv, 0)]
}

impl<B: Backend> Tape<B> {
    /// Some rows and queries, heads before tokens: `[b, H, n or T, d]`, and `lse` `[b, H, n, 1]`.
    fn part(&self, rows: &Range<usize>, queries: &Range<usize>) -> Self {
        let lse = self.lse.shape();
        let of_queries = |x| heads::<B>(x, rows, queries.clone());
        let of_keys = |x: &FloatTensor<B>| heads::<B>(x, rows, 0..x.shape()[1]);
        Self {
            q: of_queries(&self.q),
            k: of_keys(&self.k),
            v: of_keys(&self.v),
            bias: bias_of::<B>(&self.bias, rows, queries),
            output: of_queries(&self.output),
            lse: slice::<B>(&self.lse, &[rows.clone(), 0..lse[1], queries.clone(), 0..1]),
            gradient: of_queries(&self.gradient),
        }
    }
}

/// `q` `[b, H, n, d]`, `k` and `v` `[b, H, T, d]`: the output `[b, H, n, d]` and the log-sum-exp `[b, H, n, 1]`.
fn forward_chunk<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    bias: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = v.dtype();
    let scores = scores::<B>(q, k, bias);
    let largest = B::float_max_dim(scores.clone(), 3); // [b, H, n, 1]
    let weights = B::float_exp(B::float_sub(scores, largest.clone())); // [b, H, n, T]
    let sum = B::float_sum_dim(weights.clone(), 3);
    // One where a key is seen, else zero: scores are far smaller than what hides a key.
    let seen = B::float_clamp(
        B::float_sub_scalar(largest.clone(), UNSEEN.into()),
        0.0.into(),
        1.0.into(),
    );
    let share = B::float_mul(B::float_recip(sum.clone()), seen.clone());
    let lse = B::float_mul(B::float_add(largest, B::float_log(sum)), seen.clone());
    let none = B::float_mul_scalar(B::float_sub_scalar(seen, 1.0.into()), (-NO_KEYS).into());
    let lse = B::float_add(lse, none);
    // Dividing after the product touches n x d numbers instead of n x T.
    let mixed = cast::<B>(B::float_matmul(cast::<B>(weights, dtype), v), DType::F32);
    (cast::<B>(B::float_mul(mixed, share), dtype), lse)
}

/// The gradients of a chunk's queries, keys and values.
fn backward_chunk<B: Backend>(chunk: Tape<B>) -> [FloatTensor<B>; 3] {
    let Tape {
        q,
        k,
        v,
        bias,
        output,
        lse,
        gradient,
    } = chunk;
    let dtype = v.dtype();
    let scale = scale::<B>(&q);
    let weights = B::float_exp(B::float_sub(scores::<B>(q.clone(), k.clone(), bias), lse)); // [b, H, n, T]
    let dv = B::float_matmul(
        B::float_swap_dims(cast::<B>(weights.clone(), dtype), 2, 3),
        gradient.clone(),
    );
    let [output, gradient_f32] = [output, gradient.clone()].map(|x| cast::<B>(x, DType::F32));
    let mean = B::float_sum_dim(B::float_mul(output, gradient_f32), 3); // [b, H, n, 1]
    let dweights = cast::<B>(B::float_matmul(gradient, B::float_swap_dims(v, 2, 3)), DType::F32);
    let dscores = B::float_mul_scalar(B::float_mul(weights, B::float_sub(dweights, mean)), scale.into());
    let dscores = cast::<B>(dscores, dtype);
    let dq = B::float_matmul(dscores.clone(), k);
    let dk = B::float_matmul(B::float_swap_dims(dscores, 2, 3), q);
    [dq, dk, dv]
}

/// `q k^T / sqrt(d) + bias` in f32.
fn scores<B: Backend>(q: FloatTensor<B>, k: FloatTensor<B>, bias: FloatTensor<B>) -> FloatTensor<B> {
    let scale = scale::<B>(&q);
    let products = cast::<B>(B::float_matmul(q, B::float_swap_dims(k, 2, 3)), DType::F32);
    B::float_add(B::float_mul_scalar(products, scale.into()), bias)
}

fn scale<B: Backend>(q: &FloatTensor<B>) -> f32 {
    (q.shape()[3] as f32).sqrt().recip()
}

/// The sizes of one call.
struct Extent {
    rows: usize,
    queries: usize,
    heads: usize,
    keys: usize,
}

impl Extent {
    fn of<B: Backend>(q: &FloatTensor<B>, k: &FloatTensor<B>) -> Self {
        let (q, k) = (q.shape(), k.shape());
        Self {
            rows: q[0],
            queries: q[1],
            heads: q[2],
            keys: k[1],
        }
    }

    /// Rows of the batch, as many at a time as have at most `limit` scores, one at least.
    fn row_chunks(&self, limit: usize) -> Vec<Range<usize>> {
        even(self.rows, limit / (self.heads * self.queries * self.keys).max(1))
    }

    /// Queries of a chunk of `rows`, likewise.
    fn query_chunks(&self, rows: usize, limit: usize) -> Vec<Range<usize>> {
        even(self.queries, limit / (rows * self.heads * self.keys).max(1))
    }
}

/// `0..len` in as few parts of about the same length as keep to `limit` each: the kernels of one shape serve nearly all.
fn even(len: usize, limit: usize) -> Vec<Range<usize>> {
    let parts = len.div_ceil(limit.max(1)).max(1);
    let each = len.div_ceil(parts);
    (0..parts)
        .map(|part| (part * each).min(len)..((part + 1) * each).min(len))
        .filter(|part| !part.is_empty())
        .collect()
}

/// Part of `[B, N, H, d]` as `[b, H, n, d]`.
fn heads<B: Backend>(x: &FloatTensor<B>, rows: &Range<usize>, tokens: Range<usize>) -> FloatTensor<B> {
    let shape = x.shape();
    let part = slice::<B>(x, &[rows.clone(), tokens, 0..shape[2], 0..shape[3]]);
    B::float_swap_dims(part, 1, 2)
}

/// The bias of some rows and queries; where it is the same for all of them, it stays so.
fn bias_of<B: Backend>(bias: &FloatTensor<B>, rows: &Range<usize>, queries: &Range<usize>) -> FloatTensor<B> {
    let shape = bias.shape();
    let part = |size: usize, part: &Range<usize>| if size == 1 { 0..1 } else { part.clone() };
    slice::<B>(
        bias,
        &[part(shape[0], rows), 0..1, part(shape[2], queries), 0..shape[3]],
    )
}

fn slice<B: Backend>(x: &FloatTensor<B>, ranges: &[Range<usize>; 4]) -> FloatTensor<B> {
    if ranges
        .iter()
        .zip(x.shape().iter())
        .all(|(range, &size)| *range == (0..size))
    {
        return x.clone();
    }
    B::float_slice(x.clone(), &ranges.clone().map(Slice::from))
}

/// One tensor of the parts, along `dim`.
fn join<B: Backend>(mut parts: Vec<FloatTensor<B>>, dim: usize) -> FloatTensor<B> {
    if parts.len() == 1 {
        parts.remove(0)
    } else {
        B::float_cat(parts, dim)
    }
}

fn cast<B: Backend>(x: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if x.dtype() == dtype {
        x
    } else {
        B::float_cast(x, FloatDType::from(dtype))
    }
}

#[cfg(test)]
mod tests;
