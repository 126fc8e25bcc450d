//! Attention: one function, and the two sublayers that use it.

use burn::module::Module;
use burn::tensor::{Bool, Device, FloatDType, Tensor};

use crate::linear::Linear;
use crate::norm::RmsNorm;

/// Added to the score of a key that must not be seen. Far below any real score, far above the least f32.
const HIDDEN: f32 = -1e9;

/// Which keys a query may see.
#[derive(Debug, Clone)]
pub struct AttentionMask {
    /// `[B, 1, N or 1, T]`, zero for a visible key and a large negative for a hidden one.
    bias: Tensor<4>,
    /// `[B, 1, N or 1, 1]`, one if the query sees any key and zero if it sees none.
    any_key: Tensor<4>,
}

impl AttentionMask {
    /// Every query sees the keys of its row for which `valid` `[B, T]` is true.
    pub fn keys(valid: Tensor<2, Bool>) -> Self {
        Self::from_visible(valid.unsqueeze_dims(&[1, 2])) // [B, 1, 1, T]
    }

    /// As [`keys`](Self::keys), and a query sees no key after itself. Queries and keys are the same `T` tokens.
    pub fn causal_keys(valid: Tensor<2, Bool>) -> Self {
        let [_, t] = valid.dims();
        let future = Tensor::<2, Bool>::tril_mask([t, t], 0, &valid.device()); // true above the diagonal
        let past = future.bool_not().unsqueeze::<4>(); // [1, 1, T, T]
        let valid = valid.unsqueeze_dims::<4>(&[1, 2]).repeat_dim(2, t); // [B, 1, T, T]
        let [b, ..] = valid.dims();
        Self::from_visible(valid.bool_and(past.repeat_dim(0, b)))
    }

    fn from_visible(visible: Tensor<4, Bool>) -> Self {
        let visible = visible.float().cast(FloatDType::F32);
        Self {
            any_key: visible.clone().max_dim(3),
            bias: visible.sub_scalar(1.0).mul_scalar(-HIDDEN),
        }
    }
}

/// Scaled dot-product attention, `softmax(q k^T / sqrt(head_dim)) v`: the one place that attends.
///
/// # Shapes
/// `q` `[B, H, N, head_dim]`, `k` and `v` `[B, H, T, head_dim]`; the result is `[B, H, N, head_dim]` in the type of
/// `v`. Scores and softmax are f32. A query that sees no key gets exactly zero.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: Option<&AttentionMask>) -> Tensor<4> {
    let dtype = v.dtype();
    let [.., head_dim] = q.dims();
    let q = q.mul_scalar((head_dim as f32).sqrt().recip());
    let mut scores = q
        .cast(dtype)
        .matmul(k.cast(dtype).swap_dims(2, 3))
        .cast(FloatDType::F32); // [B, H, N, T]
    if let Some(mask) = mask {
        scores = scores + mask.bias.clone();
    }
    // The largest score only keeps `exp` in range: a constant to the gradient.
    let largest = scores.clone().detach().max_dim(3); // [B, H, N, 1]
    let weights = (scores - largest).exp();
    let sum = weights.clone().sum_dim(3); // [B, H, N, 1]
    // Dividing after the product touches N x head_dim numbers instead of N x T.
    let mut share = sum.recip();
    if let Some(mask) = mask {
        share = share * mask.any_key.clone();
    }
    let y = weights.cast(dtype).matmul(v).cast(FloatDType::F32); // [B, H, N, head_dim]
    (y * share).cast(dtype)
}

/// `RmsNorm` on queries and on keys, over `head_dim` (section 3).
#[derive(Module, Debug)]
pub struct QkNorm {
    /// Gain of the queries, `[head_dim]`.
    pub query: RmsNorm,
    /// Gain of the keys, `[head_dim]`.
    pub key: RmsNorm,
}

impl QkNorm {
    /// Norms over `head_dim`; [`initialize`](crate::initialize()) sets the gains to one.
    pub fn zeros(head_dim: usize, device: &Device) -> Self {
        Self {
            query: RmsNorm::zeros(head_dim, device),
            key: RmsNorm::zeros(head_dim, device),
        }
    }

    /// Features of one head.
    fn head_dim(&self) -> usize {
        self.query.gain.dims()[0]
    }
}

/// Attention of a sequence to itself.
///
/// Three matrices rather than one wide one: cutting a wide result in three copies it forward and backward.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// `[hidden, hidden]`.
    pub query: Linear,
    /// `[hidden, hidden]`.
    pub key: Linear,
    /// `[hidden, hidden]`.
    pub value: Linear,
    /// Norms of queries and keys.
    pub norm: QkNorm,
    /// `[hidden, hidden]`.
    pub output: Linear,
}

/// Attention of a sequence to another one.
#[derive(Module, Debug)]
pub struct CrossAttention {
    /// `[hidden, hidden]`, of the attending sequence.
    pub query: Linear,
    /// `[hidden, hidden]`, of the attended sequence.
    pub key: Linear,
    /// `[hidden, hidden]`, of the attended sequence.
    pub value: Linear,
    /// Norms of queries and keys.
    pub norm: QkNorm,
    /// `[hidden, hidden]`.
    pub output: Linear,
}

impl SelfAttention {
    /// An empty layer of `num_heads` heads; [`initialize`](crate::initialize()) fills it.
    pub fn zeros(hidden_size: usize, num_heads: usize, device: &Device) -> Self {
        let square = || Linear::zeros(hidden_size, hidden_size, device);
        Self {
            query: square(),
            key: square(),
            value: square(),
            norm: QkNorm::zeros(hidden_size / num_heads, device),
            output: square(),
        }
    }

    /// `[B, N, D]` to `[B, N, D]`.
    pub fn forward(&self, x: Tensor<3>, mask: Option<&AttentionMask>) -> Tensor<3> {
        let q = self.norm.query.heads(self.query.forward(x.clone()));
        let k = self.norm.key.heads(self.key.forward(x.clone()));
        let v = split_heads(self.value.forward(x), self.norm.head_dim());
        self.output.forward(merge_heads(attention(q, k, v, mask)))
    }
}

impl CrossAttention {
    /// An empty layer of `num_heads` heads; [`initialize`](crate::initialize()) fills it.
    pub fn zeros(hidden_size: usize, num_heads: usize, device: &Device) -> Self {
        let square = || Linear::zeros(hidden_size, hidden_size, device);
        Self {
            query: square(),
            key: square(),
            value: square(),
            norm: QkNorm::zeros(hidden_size / num_heads, device),
            output: square(),
        }
    }

    /// `x` `[B, N, D]` attends to `context` `[B, T, D]`; the result is `[B, N, D]`.
    pub fn forward(&self, x: Tensor<3>, context: Tensor<3>, mask: Option<&AttentionMask>) -> Tensor<3> {
        let q = self.norm.query.heads(self.query.forward(x));
        let k = self.norm.key.heads(self.key.forward(context.clone()));
        let v = split_heads(self.value.forward(context), self.norm.head_dim());
        self.output.forward(merge_heads(attention(q, k, v, mask)))
    }
}

impl RmsNorm {
    /// `[B, N, D]` to normalised heads `[B, H, N, head_dim]`; the gain's length is the head's.
    fn heads(&self, x: Tensor<3>) -> Tensor<4> {
        self.forward(cut_heads(x, self.gain.dims()[0])).swap_dims(1, 2)
    }
}

/// `[B, N, D]` to `[B, N, H, head_dim]`.
fn cut_heads(x: Tensor<3>, head_dim: usize) -> Tensor<4> {
    let [b, n, d] = x.dims();
    x.reshape([b, n, d / head_dim, head_dim])
}

/// `[B, N, D]` to `[B, H, N, head_dim]`.
fn split_heads(x: Tensor<3>, head_dim: usize) -> Tensor<4> {
    cut_heads(x, head_dim).swap_dims(1, 2)
}

/// `[B, H, N, head_dim]` to `[B, N, D]`.
fn merge_heads(x: Tensor<4>) -> Tensor<3> {
    let [b, h, n, head_dim] = x.dims();
    x.swap_dims(1, 2).reshape([b, n, h * head_dim])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;

    #[test]
    fn attention_matches_pytorch() {
        let golden = Golden::open("attention");
        let [q, k, v] = ["in.q", "in.k", "in.v"].map(|name| golden.tensor::<4>(name));
        let run = |mask: Option<&AttentionMask>| attention(q.clone(), k.clone(), v.clone(), mask);
        golden.check("out.open", run(None), 1e-5);
        golden.check(
            "out.keys",
            run(Some(&AttentionMask::keys(golden.mask("in.valid")))),
            1e-5,
        );
        golden.check(
            "out.causal",
            run(Some(&AttentionMask::causal_keys(golden.mask("in.valid")))),
            1e-5,
        );
    }

    #[test]
    fn a_query_without_keys_gets_exactly_zero() {
        let golden = Golden::open("attention");
        let [q, k, v] = ["in.q", "in.k", "in.v"].map(|name| golden.tensor::<4>(name));
        let mask = AttentionMask::keys(golden.mask("in.valid")); // the last row sees nothing
        let y = attention(q, k, v, Some(&mask)).slice_dim(0, 2..3);
        let values: Vec<f32> = y.into_data().try_into_vec().unwrap_or_default();
        assert!(values.len() == 40 && values.iter().all(|&y| y == 0.0));
    }

    #[test]
    fn attention_layers_match_pytorch() {
        let device = Device::flex();
        let golden = Golden::open("self_attention");
        let layer = golden.load(SelfAttention::zeros(8, 2, &device));
        let mask = AttentionMask::keys(golden.mask("in.valid"));
        golden.check("out.y", layer.forward(golden.tensor("in.x"), Some(&mask)), 1e-5);

        let golden = Golden::open("cross_attention");
        let layer = golden.load(CrossAttention::zeros(8, 2, &device));
        let mask = AttentionMask::keys(golden.mask("in.valid"));
        let y = layer.forward(golden.tensor("in.x"), golden.tensor("in.context"), Some(&mask));
        golden.check("out.y", y, 1e-5);
    }
}
