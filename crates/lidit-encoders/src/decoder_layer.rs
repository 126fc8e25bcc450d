//! One layer of a decoder: attention and a gated feed-forward part, each with its norms.

use std::f32::consts::{FRAC_2_SQRT_PI, SQRT_2};

use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};

use crate::Precision;
use crate::decoder_config::{Activation, DecoderConfig, LayerAttention};
use crate::rope::Rope;

/// A layer's weights. States stay f32; only the matrix products run in the weights' precision.
#[derive(Clone, Debug)]
pub struct DecoderLayer {
    /// Before the attention.
    pub attention_norm: RmsNorm,
    /// Self-attention.
    pub attention: Attention,
    /// After the attention, where the family has it.
    pub attention_output_norm: Option<RmsNorm>,
    /// Before the feed-forward part.
    pub mlp_norm: RmsNorm,
    /// The feed-forward part.
    pub mlp: GatedMlp,
    /// After the feed-forward part, where the family has it.
    pub mlp_output_norm: Option<RmsNorm>,
}

/// Causal self-attention with grouped queries.
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

/// `down(activation(gate(x)) * up(x))`.
#[derive(Clone, Debug)]
pub struct GatedMlp {
    /// The gated branch.
    pub gate: Linear,
    /// The linear branch.
    pub up: Linear,
    /// Back to the width of the states.
    pub down: Linear,
    /// On the gated branch.
    pub activation: Activation,
}

/// A bias-free linear map.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor<2>, // [in, out]
    precision: Precision,
}

/// `x / sqrt(mean(x^2) + eps) * gain` over the last axis.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    gain: Tensor<1>,
    eps: f32,
}

/// What attention needs to know about positions; layers with equal [`LayerAttention`] share it.
#[derive(Clone, Debug)]
pub struct Positions {
    query: Rope,
    key: Rope,
    bias: Tensor<4>, // [1, 1, T, T]: 0 where a query may look, else so low that its weight is exactly 0
}

impl DecoderLayer {
    /// `x [B * T, D]`, the rows of a batch one prompt after the other.
    pub fn forward(&self, x: Tensor<2>, config: &DecoderConfig, positions: &Positions) -> Tensor<2> {
        let attended = self
            .attention
            .forward(self.attention_norm.forward(x.clone()), config, positions);
        let x = x + apply(self.attention_output_norm.as_ref(), attended);
        let mixed = self.mlp.forward(self.mlp_norm.forward(x.clone()));
        x + apply(self.mlp_output_norm.as_ref(), mixed)
    }
}

impl Attention {
    fn forward(&self, x: Tensor<2>, config: &DecoderConfig, positions: &Positions) -> Tensor<2> {
        let DecoderConfig {
            num_heads,
            num_kv_heads,
            head_dim,
            ..
        } = *config;
        let len = positions.bias.dims()[3];
        let batch = x.dims()[0] / len;
        let group = num_heads / num_kv_heads;
        let heads = |x: Tensor<2>, n: usize| x.reshape([batch, len, n, head_dim]);

        let query = heads(self.query.forward(x.clone()), num_heads); // [B, T, H, d]
        let key = heads(self.key.forward(x.clone()), num_kv_heads); // [B, T, K, d]
        let value = heads(self.value.forward(x), num_kv_heads).swap_dims(1, 2); // [B, K, T, d]
        let [query, key] = match &self.qk_norm {
            Some([query_norm, key_norm]) => [query_norm.forward(query), key_norm.forward(key)],
            None => [query, key],
        };
        let query = positions.query.rotate(query).swap_dims(1, 2); // [B, H, T, d]
        let query = query.reshape([batch, num_kv_heads, group * len, head_dim]); // [B, K, G * T, d]
        let key = positions.key.rotate(key).swap_dims(1, 2).swap_dims(2, 3); // [B, K, d, T]

        let scores = query.matmul(key).reshape([batch, num_heads, len, len]);
        let weights = softmax(scores + positions.bias.clone(), 3);
        let weights = weights.reshape([batch, num_kv_heads, group * len, len]);
        let mixed = weights.matmul(value).reshape([batch, num_heads, len, head_dim]);
        let mixed = mixed.swap_dims(1, 2).reshape([batch * len, num_heads * head_dim]);
        self.output.forward(mixed)
    }
}

impl GatedMlp {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let gate = self.gate.forward(x.clone());
        let gate = match self.activation {
            Activation::Silu => sigmoid(gate.clone()) * gate,
            Activation::GeluTanh => gelu_tanh(gate),
        };
        self.down.forward(gate * self.up.forward(x))
    }
}

impl Linear {
    /// `weight` is `[num_out, num_in]`, row-major, as files store it.
    pub fn new(weight: Vec<f32>, [num_out, num_in]: [usize; 2], precision: Precision, device: &Device) -> Self {
        let data = TensorData::new(weight, [num_out, num_in]);
        let weight = Tensor::<2>::from_data(data, (device, precision.dtype()));
        Self {
            weight: weight.transpose(),
            precision,
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self.precision {
            Precision::F32 => x.matmul(self.weight.clone()),
            Precision::Bf16 => x
                .cast(FloatDType::BF16)
                .matmul(self.weight.clone())
                .cast(FloatDType::F32),
        }
    }
}

impl RmsNorm {
    /// `gain` multiplies as it is: importers add Gemma's 1 where a file leaves it out.
    pub fn new(gain: Vec<f32>, eps: f32, device: &Device) -> Self {
        let shape = [gain.len()];
        Self {
            gain: Tensor::from_data(TensorData::new(gain, shape), (device, DType::F32)),
            eps,
        }
    }

    /// Any shape whose last axis is the gain's.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mean_square = x.clone().square().mean_dim(D - 1);
        let scale = (mean_square + self.eps).sqrt().recip();
        x * scale * self.gain.clone().unsqueeze()
    }
}

impl Positions {
    /// Tables and mask for prompts of `len` tokens, padded on the right: a real token never looks at
    /// padding, because padding comes after it.
    pub fn new(attention: LayerAttention, config: &DecoderConfig, len: usize, device: &Device) -> Self {
        let key = Rope::new(attention.rope_base, config.head_dim, len, device);
        let window = attention.window.unwrap_or(len);
        let bias: Vec<f32> = (0..len)
            .flat_map(|query| (0..len).map(move |key| (query, key)))
            .map(|(query, key)| {
                if key <= query && query - key < window {
                    0.0
                } else {
                    -1e30
                }
            })
            .collect();
        Self {
            query: key.scaled(config.score_scale),
            key,
            bias: Tensor::from_data(TensorData::new(bias, [1, 1, len, len]), (device, DType::F32)),
        }
    }
}

fn apply(norm: Option<&RmsNorm>, x: Tensor<2>) -> Tensor<2> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}

/// `x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))`: equal to the tanh form and several times faster on flex.
fn gelu_tanh(x: Tensor<2>) -> Tensor<2> {
    const SLOPE: f32 = FRAC_2_SQRT_PI * SQRT_2; // 2 sqrt(2 / pi)
    let inner = (x.clone().square() * (0.044_715 * SLOPE) + SLOPE) * x.clone();
    sigmoid(inner) * x
}
