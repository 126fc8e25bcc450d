//! One layer of a language model: attention and a feed-forward part, each with its norms.

use burn::tensor::activation::{gelu, relu, silu};
use burn::tensor::{DType, Device, Tensor, TensorData};
use lidit_kernels::{AttentionMask, AttentionScores, FrozenMatrix, attention, gated_gelu, gated_silu, rms_norm};

use crate::Precision;
use crate::rope::Rope;
use crate::shape::{Activation, LlmShape};
use crate::stored::Stored;

/// A layer's weights. States stay f32; only the matrix products run in the weights' precision.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Before the attention.
    pub attention_norm: RmsNorm,
    /// Self-attention.
    pub attention: Attention,
    /// After the attention, where the family has it.
    pub attention_output_norm: Option<RmsNorm>,
    /// Before the feed-forward part.
    pub mlp_norm: RmsNorm,
    /// The feed-forward part.
    pub mlp: Mlp,
    /// After the feed-forward part, where the family has it.
    pub mlp_output_norm: Option<RmsNorm>,
}

/// Self-attention with grouped queries.
#[derive(Clone, Debug)]
pub struct Attention {
    /// To `num_heads * head_dim`.
    pub query: Linear,
    /// To `num_kv_heads * head_dim`.
    pub key: Linear,
    /// To `num_kv_heads * head_dim`.
    pub value: Linear,
    /// Back to the width of the states.
    pub output: Linear,
    /// Over each query head and each key head, where the family has them.
    pub qk_norm: Option<[RmsNorm; 2]>,
}

/// `down(activation(gate(x)) * up(x))`, or `down(activation(up(x)))` without a gate.
#[derive(Clone, Debug)]
pub struct Mlp {
    /// The gated branch, where the family has it.
    pub gate: Option<Linear>,
    /// The linear branch.
    pub up: Linear,
    /// Back to the width of the states.
    pub down: Linear,
    /// The nonlinearity.
    pub activation: Activation,
}

/// A linear map.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: FrozenMatrix, // [in, out]
    bias: Option<Tensor<1>>,
}

/// `x / sqrt(mean(x^2) + eps) * gain` over the last axis.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    gain: Tensor<1>,
    eps: f32,
}

/// What attention needs to know about a batch's tokens; layers of one kind share it.
#[derive(Clone, Debug)]
pub struct Positions {
    /// Absent where positions are relative.
    pub rope: Option<Rope>,
    /// How scores are made.
    pub scores: AttentionScores,
    /// Who sees whom.
    pub mask: AttentionMask,
}

/// A batch as every layer of one kind sees it.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Prompts in it.
    pub size: usize,
    /// The model's shape.
    pub shape: &'a LlmShape,
    /// Where its tokens are.
    pub positions: &'a Positions,
}

/// Rotated keys and values of one prompt in one layer: `[P, K, d]` each.
#[derive(Clone, Debug)]
pub struct KeysValues {
    /// Rotated keys.
    pub keys: Tensor<3>,
    /// Values.
    pub values: Tensor<3>,
}

impl KeysValues {
    /// Those of the first `count` tokens.
    pub fn first(&self, count: usize) -> Self {
        Self {
            keys: self.keys.clone().narrow(0, 0, count),
            values: self.values.clone().narrow(0, 0, count),
        }
    }
}

impl Layer {
    /// `x [B * T, D]`, the rows of a batch one prompt after the other; `before` is what all prompts began with. Also
    /// gives the keys and values of the first prompt.
    pub fn forward(&self, x: Tensor<2>, batch: Batch, before: Option<KeysValues>) -> (Tensor<2>, KeysValues) {
        let normed = self.attention_norm.forward(x.clone());
        let (attended, own) = self.attention.forward(normed, batch, before);
        let x = x + apply(self.attention_output_norm.as_ref(), attended);
        let mixed = self.mlp.forward(self.mlp_norm.forward(x.clone()));
        (x + apply(self.mlp_output_norm.as_ref(), mixed), own)
    }
}

impl Attention {
    fn forward(&self, x: Tensor<2>, batch: Batch, before: Option<KeysValues>) -> (Tensor<2>, KeysValues) {
        let Batch { size, shape, positions } = batch;
        let len = x.dims()[0] / size;
        let heads = |x: Tensor<2>, n: usize| x.reshape([size, len, n, shape.head_dim]);
        let query = heads(self.query.forward(x.clone()), shape.num_heads); // [B, T, H, d]
        let key = heads(self.key.forward(x.clone()), shape.num_kv_heads); // [B, T, K, d]
        let value = heads(self.value.forward(x), shape.num_kv_heads); // [B, T, K, d]
        let [query, key] = match &self.qk_norm {
            Some([query_norm, key_norm]) => [query_norm.forward(query), key_norm.forward(key)],
            None => [query, key],
        };
        let [query, key] = match &positions.rope {
            Some(rope) => [rope.rotate(query), rope.rotate(key)],
            None => [query, key],
        };
        let own = KeysValues {
            keys: key.clone().narrow(0, 0, 1).squeeze_dim(0), // [T, K, d]
            values: value.clone().narrow(0, 0, 1).squeeze_dim(0),
        };
        let before = before.map(|KeysValues { keys, values }| [keys, values]);
        let mixed = attention(query, key, value, before, &positions.scores, &positions.mask); // [B, T, H, d]
        let mixed = mixed.reshape([size * len, shape.num_heads * shape.head_dim]);
        (self.output.forward(mixed), own)
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let up = self.up.forward(x.clone());
        let mixed = match (&self.gate, self.activation) {
            (Some(gate), Activation::Silu) => gated_silu(gate.forward(x), up),
            (Some(gate), Activation::GeluTanh) => gated_gelu(gate.forward(x), up),
            (Some(gate), other) => other.apply(gate.forward(x)) * up,
            (None, activation) => activation.apply(up),
        };
        self.down.forward(mixed)
    }
}

impl Activation {
    fn apply(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Silu => silu(x),
            Self::GeluTanh => lidit_kernels::gelu(x),
            Self::Gelu => gelu(x),
            Self::Relu => relu(x),
        }
    }
}

impl Linear {
    /// `weight` is `[num_out, num_in]`, row-major, as files store it; `bias` has `num_out` values.
    pub fn new(
        weight: Stored,
        bias: Option<Vec<f32>>,
        [num_out, num_in]: [usize; 2],
        precision: Precision,
        device: &Device,
    ) -> Self {
        let data = match precision {
            Precision::F32 => TensorData::new(weight.into_f32(), [num_out, num_in]),
            Precision::Bf16 => TensorData::new(weight.into_bf16(), [num_out, num_in]),
        };
        let weight = Tensor::<2>::from_data(data, (device, precision.dtype()));
        let upload = |bias| Tensor::from_data(TensorData::new(bias, [num_out]), (device, DType::F32));
        Self {
            weight: FrozenMatrix::new(weight.transpose()),
            bias: bias.map(upload),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.weight.multiply(x, self.bias.as_ref())
    }
}

impl RmsNorm {
    /// `gain` multiplies as it is.
    pub fn new(gain: Vec<f32>, eps: f32, device: &Device) -> Self {
        let shape = [gain.len()];
        Self {
            gain: Tensor::from_data(TensorData::new(gain, shape), (device, DType::F32)),
            eps,
        }
    }

    /// Any shape whose last axis is the gain's.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        rms_norm(x, self.gain.clone(), self.eps)
    }
}

fn apply(norm: Option<&RmsNorm>, x: Tensor<2>) -> Tensor<2> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}
