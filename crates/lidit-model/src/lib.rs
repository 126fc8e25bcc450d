//! The trainable network of LI-DiT and its maths: refiners, backbone, objectives, samplers, prices. No I/O.
//!
//! Section numbers in the documentation refer to Ma et al., "Exploring the Role of Large Language Models in Prompt
//! Encoding for Diffusion Models", arXiv 2406.11831 v3; "open" marks what that paper does not say and we had to choose.
//!
//! # Precision
//! The network computes in the types of its weights. [`Linear`] and the convolutions cast their input to the type of
//! their weight; norms, softmax, activations, modulation, the residual stream and the loss are f32 whatever the weights
//! are. Whoever loads bf16 weights gets mixed precision; parameters for which [`is_f32_parameter`] holds stay f32.

mod attention;
mod block;
mod collaborative;
mod config;
mod cost;
mod diffusion;
mod final_layer;
#[cfg(test)]
mod golden;
mod guidance;
mod initialize;
mod lidit;
mod linear;
mod loss_weighting;
mod mlp;
mod modulation;
mod noise_level;
mod norm;
mod objective;
mod parameter;
mod patchify;
mod probe;
mod prompts;
mod recompute;
mod refiner;
mod res_block;
mod sampler;
mod solver;
mod timestep;
mod timestep_density;
mod timestep_shift;

pub use attention::{CrossAttention, QkNorm, SelfAttention};
pub use block::LiDitBlock;
pub use collaborative::{CollaborativeBranch, CollaborativeRefiner};
pub use config::{
    Conditioning, Fusion, InputNorm, InvalidConfig, ModelConfig, Parametrization, Pooling, RefinerAttention,
    RefinerConfig, RefinerGate,
};
pub use cost::{ImageTokens, ParameterCounts, TextTokens, forward_flops, parameter_counts};
pub use diffusion::{BetaSchedule, Diffusion};
pub use final_layer::FinalLayer;
pub use initialize::initialize;
pub use lidit::{Encoded, LiDit, PromptBranch};
pub use lidit_kernels::VisibleKeys;
pub use linear::Linear;
pub use loss_weighting::LossWeighting;
pub use mlp::{Mlp, silu};
pub use modulation::{Gate, Modulated, Modulation};
pub use noise_level::NoiseLevel;
pub use norm::{RmsNorm, layer_norm, rms_norm};
pub use objective::{LossBatch, Losses, Noised, Objective, RectifiedFlow};
pub use parameter::{Kind, Part, Role, is_f32_parameter};
pub use patchify::{Patchify, unpatchify};
pub use prompts::{PromptBatch, PromptRow};
pub use refiner::{RefinerBlock, TokenRefiner};
pub use res_block::{Conv3x3, ResBlock};
pub use sampler::{Sampler, SamplerKind, Start};
pub use timestep::{PooledEmbedder, TimestepEmbedder, timestep_embedding};
pub use timestep_density::TimestepDensity;
pub use timestep_shift::TimestepShift;
