//! Embeddings of the timestep and of the pooled text.

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};

use crate::linear::Linear;
use crate::mlp::silu;

/// Width of the sinusoidal embedding (`DiT`'s).
pub(crate) const FREQUENCIES: usize = 256;
/// Longest period of the sinusoids, in timesteps of 0..1000.
const MAX_PERIOD: f64 = 10_000.0;

/// Sinusoids of `timesteps` `[B]` (0..1000): `[B, dim]` of `cos(t f_i)` then `sin(t f_i)`, `f_i = 10000^(-i / (dim/2))`.
pub fn timestep_embedding(timesteps: Tensor<1>, dim: usize) -> Tensor<2> {
    let half = dim / 2;
    let frequencies: Vec<f32> = (0..half)
        .map(|i| (-MAX_PERIOD.ln() * i as f64 / half as f64).exp() as f32)
        .collect();
    let frequencies = Tensor::<1>::from_floats(frequencies.as_slice(), &timesteps.device());
    let angles = timesteps.cast(FloatDType::F32).unsqueeze_dim::<2>(1) * frequencies.unsqueeze(); // [B, dim / 2]
    Tensor::cat(vec![angles.clone().cos(), angles.sin()], 1) // [B, dim]
}

/// Sinusoids, then `Linear -> SiLU -> Linear`.
#[derive(Module, Debug)]
pub struct TimestepEmbedder {
    /// `[256, hidden]`.
    pub linear_in: Linear,
    /// `[hidden, hidden]`.
    pub linear_out: Linear,
}

impl TimestepEmbedder {
    /// An empty embedder; [`initialize`](crate::initialize()) fills it.
    pub fn zeros(hidden_size: usize, device: &Device) -> Self {
        Self {
            linear_in: Linear::zeros(FREQUENCIES, hidden_size, device),
            linear_out: Linear::zeros(hidden_size, hidden_size, device),
        }
    }

    /// `[B]` (0..1000) to `[B, D]`, f32.
    pub fn forward(&self, timesteps: Tensor<1>) -> Tensor<2> {
        let x = self.linear_in.forward(timestep_embedding(timesteps, FREQUENCIES));
        self.linear_out.forward(silu(x)).cast(FloatDType::F32)
    }
}

/// Brings a pooled prompt to the width of the conditioning vector: `Linear -> SiLU -> Linear` (open).
#[derive(Module, Debug)]
pub struct PooledEmbedder {
    /// `[context_dim, hidden]`.
    pub linear_in: Linear,
    /// `[hidden, hidden]`.
    pub linear_out: Linear,
}

impl PooledEmbedder {
    /// An empty embedder; [`initialize`](crate::initialize()) fills it.
    pub fn zeros(context_dim: usize, hidden_size: usize, device: &Device) -> Self {
        Self {
            linear_in: Linear::zeros(context_dim, hidden_size, device),
            linear_out: Linear::zeros(hidden_size, hidden_size, device),
        }
    }

    /// `[B, context_dim]` to `[B, D]`, f32.
    pub fn forward(&self, pooled: Tensor<2>) -> Tensor<2> {
        self.linear_out
            .forward(silu(self.linear_in.forward(pooled)))
            .cast(FloatDType::F32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;

    #[test]
    fn timesteps_match_pytorch() {
        let golden = Golden::open("timestep");
        let t: Tensor<1> = golden.tensor("in.t");
        golden.check("out.sinusoids", timestep_embedding(t.clone(), 16), 1e-4);
        let embedder = golden.load(TimestepEmbedder::zeros(8, &Device::flex()));
        golden.check("out.embedding", embedder.forward(t), 1e-4);
    }
}
