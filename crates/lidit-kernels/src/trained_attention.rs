//! The trained network's attention, with its own backward: scores are never in memory at once.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, FloatDType, Tensor};
use burn_autodiff::NodeId;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_flex::FlexTensor;

use crate::attention_chunks::{self, Tape};
use crate::autodiff::{kept, register, values_of};
use crate::flex::{is_bf16_on_flex, is_on_gpu, is_trained_on_flex, narrowed, widened};
use crate::trained_attention_flex::{backward, forward};
use crate::visible_keys::{MaskKind, VisibleKeys};

/// Scaled dot-product attention, `softmax(q k^T / sqrt(d)) v`.
///
/// `q` is `[B, N, H, d]`, `k` and `v` are `[B, T, H, d]`; the result is `[B, N, H, d]` in the type of `v`. Scores and
/// softmax are f32. A query that sees no key gets exactly zero. Source: Vaswani et al., arXiv 1706.03762, section 3.2;
/// without scores in memory, forward and backward: Dao et al., arXiv 2205.14135. Values and gradients within 1e-5 of
/// [`trained_attention_reference`] in f32; with values in bf16 the CPU rounds the result alone.
pub fn trained_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, visible: Option<&VisibleKeys>) -> Tensor<4> {
    let [batch, num_queries, num_heads, head_dim] = q.dims();
    let num_keys = k.dims()[1];
    assert_eq!(k.dims(), [batch, num_keys, num_heads, head_dim], "keys like queries");
    assert_eq!(k.dims(), v.dims(), "one value for each key");
    if let Some(visible) = visible {
        let rows = if visible.kind == MaskKind::Pairs {
            num_queries
        } else {
            1
        };
        assert_eq!(visible.bias.dims(), [batch, 1, rows, num_keys], "a mask for these keys");
    }
    // On a GPU in the type of `v`, whichever; on the CPU there is a fused operation for f32 queries and keys.
    let [q, k] = if is_on_gpu(&v) {
        [q, k].map(|x| x.cast(v.dtype()))
    } else {
        [q, k]
    };
    let on_flex = (is_trained_on_flex(&v) || is_bf16_on_flex(&v)) && [&q, &k].into_iter().all(is_trained_on_flex);
    if !on_flex && !is_on_gpu(&v) {
        return trained_attention_reference(q, k, v, visible);
    }
    let (bias, kind) = match visible {
        Some(visible) => (visible.bias.clone(), visible.kind),
        None => (Tensor::zeros([1, 1, 1, 1], &q.device()), MaskKind::Open),
    };
    let [q, k, v, bias] = [q, k, v, bias].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as AttentionOps>::attend(q, k, v, bias, kind))
}

/// The same in plain burn, with all scores in memory.
pub fn trained_attention_reference(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    visible: Option<&VisibleKeys>,
) -> Tensor<4> {
    let dtype = v.dtype();
    let [.., head_dim] = q.dims();
    let [q, k, v] = [q, k, v].map(|x| x.swap_dims(1, 2)); // [B, H, N or T, d]
    let q = q.mul_scalar((head_dim as f32).sqrt().recip());
    let mut scores = q
        .cast(dtype)
        .matmul(k.cast(dtype).swap_dims(2, 3))
        .cast(FloatDType::F32); // [B, H, N, T]
    if let Some(visible) = visible {
        scores = scores + visible.bias.clone();
    }
    // The largest score only keeps `exp` in range: a constant to the gradient.
    let largest = scores.clone().detach().max_dim(3); // [B, H, N, 1]
    let weights = (scores - largest).exp();
    let sum = weights.clone().sum_dim(3); // [B, H, N, 1]
    // Dividing after the product touches N x d numbers instead of N x T.
    let mut share = sum.recip();
    if let Some(visible) = visible {
        share = share * visible.any_key.clone();
    }
    let y = weights.cast(dtype).matmul(v).cast(FloatDType::F32); // [B, H, N, d]
    (y * share).cast(dtype).swap_dims(1, 2)
}

/// The fused operation and its derivatives, per backend. `bias` is `[B, 1, N or 1, T]` as `kind` says, 0 for a visible
/// key and -1e9 for a hidden one; of an open attention any number.
///
/// What a backend does not have a kernel for is made of its matrix products, chunk by chunk.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait AttentionOps: Backend {
    /// The mixed values, `[B, N, H, d]`.
    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kind: MaskKind,
    ) -> FloatTensor<Self> {
        Self::attend_with_sums(q, k, v, bias, kind).0
    }
    /// The same, and the logarithm of each query's sum of exponentials, f32, laid out as the backend likes.
    fn attend_with_sums(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kind: MaskKind,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let _ = kind; // the bias's shape says it
        attention_chunks::forward::<Self>(&q, &k, &v, &bias)
    }
    /// The gradients of queries, keys and values from what the forward pass took and gave and the gradient of `mixed`.
    #[allow(
        clippy::too_many_arguments,
        reason = "what a backward pass needs; the macro copies this to where no lint looks"
    )]
    fn attend_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        mixed: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        kind: MaskKind,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let _ = kind;
        attention_chunks::backward(Tape::<Self> {
            q,
            k,
            v,
            bias,
            output: mixed,
            lse: sums,
            gradient,
        })
    }
}

/// A GPU, where burn-fusion joins the steps between the matrix products.
#[cfg(feature = "cuda")]
impl AttentionOps for burn::backend::Cube {}

impl AttentionOps for Flex {
    fn attend(q: FlexTensor, k: FlexTensor, v: FlexTensor, bias: FlexTensor, kind: MaskKind) -> FlexTensor {
        Self::attend_with_sums(q, k, v, bias, kind).0
    }

    fn attend_with_sums(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        bias: FlexTensor,
        kind: MaskKind,
    ) -> (FlexTensor, FlexTensor) {
        let dtype = v.dtype();
        let (mixed, sums) = forward([q, k, widened(v)], &bias, kind);
        (in_type(mixed, dtype), sums)
    }

    fn attend_backward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        bias: FlexTensor,
        mixed: FlexTensor,
        sums: FlexTensor,
        gradient: FlexTensor,
        kind: MaskKind,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let dtype = v.dtype();
        let given = [widened(mixed), sums, widened(gradient)];
        let [of_q, of_k, of_v] = backward([q, k, widened(v)], &bias, given, kind);
        (of_q, of_k, in_type(of_v, dtype))
    }
}

fn in_type(x: FlexTensor, dtype: DType) -> FlexTensor {
    if dtype == DType::BF16 { narrowed(x) } else { x }
}

impl<B: AttentionOps, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kind: MaskKind,
    ) -> FloatTensor<Self> {
        let bias = bias.into_primitive();
        match Backward::<B, 3>::prepare::<C>(Attention, [q.node(), k.node(), v.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let inputs = [&q, &k, &v].map(|x| prep.checkpoint(x));
                let [q, k, v] = values_of::<B, C, _>([q, k, v]);
                let (mixed, sums) = B::attend_with_sums(q, k, v, bias.clone(), kind);
                let state = Kept {
                    inputs,
                    bias,
                    mixed: mixed.clone(),
                    sums,
                    kind,
                };
                prep.finish(state, mixed)
            }
            OpsKind::UnTracked(prep) => {
                let [q, k, v] = values_of::<B, C, _>([q, k, v]);
                prep.finish(B::attend(q, k, v, bias, kind))
            }
        }
    }

    fn attend_with_sums(
        _q: FloatTensor<Self>,
        _k: FloatTensor<Self>,
        _v: FloatTensor<Self>,
        _bias: FloatTensor<Self>,
        _kind: MaskKind,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        panic!("the sums of an attention have no gradient")
    }

    fn attend_backward(
        _q: FloatTensor<Self>,
        _k: FloatTensor<Self>,
        _v: FloatTensor<Self>,
        _bias: FloatTensor<Self>,
        _mixed: FloatTensor<Self>,
        _sums: FloatTensor<Self>,
        _gradient: FloatTensor<Self>,
        _kind: MaskKind,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        panic!("the gradient of an attention has no gradient")
    }
}

#[derive(Debug)]
struct Attention;

/// What the backward pass needs of the forward pass. Neither mask nor sums have a gradient.
#[derive(Debug, Clone)]
struct Kept<B: Backend> {
    inputs: [NodeId; 3],
    bias: FloatTensor<B>,
    mixed: FloatTensor<B>,
    sums: FloatTensor<B>,
    kind: MaskKind,
}

impl<B: AttentionOps> Backward<B, 3> for Attention {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Kept<B>, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let Kept {
            inputs,
            bias,
            mixed,
            sums,
            kind,
        } = ops.state.clone();
        let [q, k, v] = kept::<B, 3>(inputs, checkpointer);
        let gradient = gradients.consume::<B>(&ops.node);
        let (of_q, of_k, of_v) = B::attend_backward(q, k, v, bias, mixed, sums, gradient, kind);
        register::<B, _, 3>(gradients, ops, [of_q, of_k, of_v]);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Bool, Device, TensorData};

    use super::*;
    use crate::flex::testing::{assert_close, assert_same_gradients, tensor};

    /// Every row of the batch but the first has its own number of padding tokens, or holes; the last one sees nothing.
    fn valid(batch: usize, num_keys: usize) -> Tensor<2, Bool> {
        let of_row = |b: usize, t: usize| b == 0 || b + 1 < batch && (t * 7 + b) % 5 > 1 && t + b < num_keys;
        let values: Vec<bool> = (0..batch * num_keys)
            .map(|i| of_row(i / num_keys, i % num_keys))
            .collect();
        Tensor::from_data(TensorData::new(values, [batch, num_keys]), &Device::flex())
    }

    fn check([batch, num_queries, num_keys]: [usize; 3], [heads, dim]: [usize; 2], visible: Option<&VisibleKeys>) {
        // A thing with one length of axis 1 for all: queries and keys side by side.
        let joined = tensor([batch, num_queries + 2 * num_keys, heads, dim], 1);
        let split = |x: Tensor<4>| {
            let part = |start, len| x.clone().narrow(1, start, len);
            [
                part(0, num_queries),
                part(num_queries, num_keys),
                part(num_queries + num_keys, num_keys),
            ]
        };
        let fused = |[x]: [Tensor<4>; 1]| {
            let [q, k, v] = split(x);
            trained_attention(q, k, v, visible)
        };
        let reference = |[x]: [Tensor<4>; 1]| {
            let [q, k, v] = split(x);
            trained_attention_reference(q, k, v, visible)
        };
        assert_same_gradients(&[joined], fused, reference, 1e-5);
    }

    #[test]
    fn open_attention_equals_the_reference() {
        for (sizes, heads) in [
            ([1, 1, 1], [1, 1]),
            ([2, 33, 7], [3, 5]),
            ([3, 64, 64], [2, 64]),
            ([1, 100, 37], [2, 72]),
            ([2, 31, 260], [1, 33]),
        ] {
            check(sizes, heads, None);
        }
    }

    #[test]
    fn hidden_keys_equal_the_reference() {
        for (sizes, heads) in [([2, 3, 1], [1, 2]), ([4, 40, 29], [2, 16]), ([3, 70, 64], [1, 64])] {
            check(
                sizes,
                heads,
                Some(&VisibleKeys::keys(valid(sizes[0], sizes[2])).autodiff()),
            );
        }
    }

    #[test]
    fn causal_attention_equals_the_reference() {
        for (tokens, heads) in [(1, [1, 3]), (20, [2, 8]), (67, [1, 40])] {
            let visible = VisibleKeys::causal_keys(valid(3, tokens)).autodiff();
            check([3, tokens, tokens], heads, Some(&visible));
        }
    }

    #[test]
    fn values_in_bf16_are_mixed_in_f32_and_rounded_once() {
        let visible = VisibleKeys::keys(valid(3, 45)).autodiff();
        let leaves = || [1, 2, 3].map(|seed| tensor([3, 45, 2, 24], seed).autodiff().require_grad());
        let run = |[q, k, v]: [Tensor<4>; 3], dtype: FloatDType| {
            // The values are bf16's in both.
            let v_in = v.clone().cast(FloatDType::BF16).cast(dtype);
            let y = trained_attention(q.clone(), k.clone(), v_in, Some(&visible));
            assert_eq!(y.dtype(), dtype.into());
            let y = y.cast(FloatDType::F32);
            let mut gradients = (y.clone() * y.clone()).sum().backward();
            let of_inputs = [q, k, v].map(|x| x.grad_remove(&mut gradients).unwrap_or_else(|| panic!("no gradient")));
            (y.inner(), of_inputs)
        };
        let (narrow, of_narrow) = run(leaves(), FloatDType::BF16);
        let (wide, of_wide) = run(leaves(), FloatDType::F32);
        // Half a unit in the last place of bf16's eight bits, where nothing else was rounded.
        assert_close(narrow, wide, 2.0_f32.powi(-8));
        for (got, right) in of_narrow.into_iter().zip(of_wide) {
            let largest = right.clone().abs().max().into_scalar::<f32>();
            assert_close(got / largest, right / largest, 1e-2);
        }
    }

    #[test]
    fn a_query_without_keys_gets_exactly_zero_and_gives_no_gradient() {
        let [q, k, v] = [1, 2, 3].map(|seed| tensor([2, 9, 2, 16], seed).autodiff().require_grad());
        for visible in [VisibleKeys::keys(valid(2, 9)), VisibleKeys::causal_keys(valid(2, 9))] {
            let visible = visible.autodiff();
            let y = trained_attention(q.clone(), k.clone(), v.clone(), Some(&visible));
            let mut gradients = (y.clone() * 3.0).sum().backward();
            let blind = |x: Tensor<4>| x.narrow(0, 1, 1).abs().max().into_scalar::<f32>();
            assert!(blind(y.inner()) <= 0.0);
            for x in [&q, &k, &v] {
                assert!(
                    x.grad_remove(&mut gradients)
                        .is_some_and(|gradient| blind(gradient) <= 1e-30)
                );
            }
        }
    }

    impl VisibleKeys {
        fn autodiff(self) -> Self {
            Self {
                bias: self.bias.autodiff(),
                any_key: self.any_key.autodiff(),
                ..self
            }
        }
    }
}
