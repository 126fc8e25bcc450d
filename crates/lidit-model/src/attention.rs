//! The two attention sublayers.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use lidit_kernels::{VisibleKeys, trained_attention};

use crate::linear::Linear;
use crate::norm::RmsNorm;

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
    pub fn forward(&self, x: Tensor<3>, visible: Option<&VisibleKeys>) -> Tensor<3> {
        let q = self.norm.query.heads(self.query.forward_wide(x.clone()));
        let k = self.norm.key.heads(self.key.forward_wide(x.clone()));
        let v = cut_heads(self.value.forward(x), self.norm.head_dim());
        self.output
            .forward_wide(trained_attention(q, k, v, visible).flatten(2, 3))
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
    pub fn forward(&self, x: Tensor<3>, context: Tensor<3>, visible: Option<&VisibleKeys>) -> Tensor<3> {
        let q = self.norm.query.heads(self.query.forward_wide(x));
        let k = self.norm.key.heads(self.key.forward_wide(context.clone()));
        let v = cut_heads(self.value.forward(context), self.norm.head_dim());
        self.output
            .forward_wide(trained_attention(q, k, v, visible).flatten(2, 3))
    }
}

impl RmsNorm {
    /// `[B, N, D]` to normalised heads `[B, N, H, head_dim]`; the gain's length is the head's.
    fn heads(&self, x: Tensor<3>) -> Tensor<4> {
        self.forward(cut_heads(x, self.gain.dims()[0]))
    }
}

/// `[B, N, D]` to `[B, N, H, head_dim]`.
fn cut_heads(x: Tensor<3>, head_dim: usize) -> Tensor<4> {
    let [b, n, d] = x.dims();
    x.reshape([b, n, d / head_dim, head_dim])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;

    /// With heads before tokens, as the goldens have them.
    fn attention(q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>, visible: Option<&VisibleKeys>) -> Tensor<4> {
        let [q, k, v] = [q, k, v].map(|x| x.clone().swap_dims(1, 2));
        trained_attention(q, k, v, visible).swap_dims(1, 2)
    }

    #[test]
    fn attention_matches_pytorch() {
        let golden = Golden::open("attention");
        let [q, k, v] = ["in.q", "in.k", "in.v"].map(|name| golden.tensor::<4>(name));
        let run = |visible: Option<&VisibleKeys>| attention(&q, &k, &v, visible);
        golden.check("out.open", run(None), 1e-5);
        golden.check("out.keys", run(Some(&VisibleKeys::keys(golden.mask("in.valid")))), 1e-5);
        golden.check(
            "out.causal",
            run(Some(&VisibleKeys::causal_keys(golden.mask("in.valid")))),
            1e-5,
        );
    }

    #[test]
    fn a_query_without_keys_gets_exactly_zero() {
        let golden = Golden::open("attention");
        let [q, k, v] = ["in.q", "in.k", "in.v"].map(|name| golden.tensor::<4>(name));
        let mask = VisibleKeys::keys(golden.mask("in.valid")); // the last row sees nothing
        let y = attention(&q, &k, &v, Some(&mask)).slice_dim(0, 2..3);
        let values: Vec<f32> = y.into_data().try_into_vec().unwrap_or_default();
        assert!(values.len() == 40 && values.iter().all(|&y| y == 0.0));
    }

    #[test]
    fn attention_layers_match_pytorch() {
        let device = Device::flex();
        let golden = Golden::open("self_attention");
        let layer = golden.load(SelfAttention::zeros(8, 2, &device));
        let mask = VisibleKeys::keys(golden.mask("in.valid"));
        golden.check("out.y", layer.forward(golden.tensor("in.x"), Some(&mask)), 1e-5);

        let golden = Golden::open("cross_attention");
        let layer = golden.load(CrossAttention::zeros(8, 2, &device));
        let mask = VisibleKeys::keys(golden.mask("in.valid"));
        let y = layer.forward(golden.tensor("in.x"), golden.tensor("in.context"), Some(&mask));
        golden.check("out.y", y, 1e-5);
    }
}
