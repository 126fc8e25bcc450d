//! `LiDit`: the whole trainable network.

use burn::module::Module;
use burn::tensor::{Bool, Device, FloatDType, Tensor};
use lidit_kernels::VisibleKeys;

use crate::block::LiDitBlock;
use crate::collaborative::CollaborativeRefiner;
use crate::config::{Conditioning, Fusion, InputNorm, ModelConfig, Pooling, RefinerAttention};
use crate::final_layer::FinalLayer;
use crate::initialize::{Width, initialize_at};
use crate::linear::Linear;
use crate::norm::{clipped_rms_norm, layer_norm, rms_norm};
use crate::patchify::{Patchify, unpatchify};
use crate::prompts::PromptBatch;
use crate::refiner::TokenRefiner;
use crate::res_block::ResBlock;
use crate::timestep::{PooledEmbedder, TimestepEmbedder};

/// Refiners and backbone: noisy image, timestep and the states of the LLMs in, prediction out.
///
/// Open, and chosen here: LLM states are projected to the backbone's width before the refiners; each LLM's pooled
/// states pass a small MLP; refiner i is steered by `timestep + pooled_i` and the backbone by `timestep + sum of
/// pooled_i`, with one timestep embedder for all; the joined text is normalised once, before the first block.
#[derive(Module, Debug)]
pub struct LiDit {
    /// Shared by refiners and backbone.
    pub timestep: TimestepEmbedder,
    /// One per LLM.
    pub encoders: Vec<PromptBranch>,
    /// Present when the fusion is collaborative.
    pub collaborative: Option<CollaborativeRefiner>,
    /// Image to tokens.
    pub patchify: Patchify,
    /// Position.
    pub res_block: ResBlock,
    /// The backbone.
    pub blocks: Vec<LiDitBlock>,
    /// Tokens to image.
    pub final_layer: FinalLayer,
    /// What is done to LLM states first.
    #[module(skip)]
    pub input_norm: InputNorm,
    /// Over which tokens they are averaged.
    #[module(skip)]
    pub pooling: Pooling,
    /// What a token of a refiner sees.
    #[module(skip)]
    pub refiner_attention: RefinerAttention,
}

/// The part of the network that belongs to one LLM.
#[derive(Module, Debug)]
pub struct PromptBranch {
    /// `[context_dim, hidden]`.
    pub projection: Linear,
    /// Of the averaged states.
    pub pooled: PooledEmbedder,
    /// Over the projected states.
    pub refiner: TokenRefiner,
}

/// What the backbone sees of timestep and prompts.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// `[B, D]`: timestep and pooled text.
    pub conditioning: Tensor<2>,
    /// `[B, T, D]`: the captions' tokens of all LLMs, normalised.
    pub text: Tensor<3>,
    /// `[B, T]`: which of them are captions'.
    pub caption: Tensor<2, Bool>,
}

/// The vectors `[B, D]` that steer the network's parts.
#[derive(Debug, Clone)]
pub(crate) struct Steering {
    /// Timestep and all pooled texts.
    pub backbone: Tensor<2>,
    /// Timestep and the LLM's own pooled text, one per LLM.
    pub encoders: Vec<Tensor<2>>,
}

impl LiDit {
    /// A fresh network: the same weights for the same `seed` on every device and in every process.
    ///
    /// `config` must have passed [`ModelConfig::validate`].
    pub fn init(config: &ModelConfig, conditioning: &Conditioning, seed: u64, device: &Device) -> Self {
        initialize_at(Self::zeros(config, conditioning, device), seed, Width::of(config))
    }

    /// The network with all weights zero: a frame to load weights into.
    pub fn zeros(config: &ModelConfig, conditioning: &Conditioning, device: &Device) -> Self {
        let d = config.hidden_size;
        let encoder = |&context_dim: &usize| PromptBranch {
            projection: Linear::zeros(context_dim, d, device),
            pooled: PooledEmbedder::zeros(context_dim, d, device),
            refiner: TokenRefiner::zeros(config, device),
        };
        let num_outputs = config.in_channels * config.patch_size * config.patch_size;
        Self {
            timestep: TimestepEmbedder::zeros(d, device),
            encoders: conditioning.context_dims.iter().map(encoder).collect(),
            collaborative: match config.fusion {
                Fusion::Concatenate => None,
                Fusion::Collaborative => Some(CollaborativeRefiner::zeros(
                    config,
                    conditioning.context_dims.len(),
                    device,
                )),
            },
            patchify: Patchify::zeros(config.in_channels, config.patch_size, d, device),
            res_block: ResBlock::zeros(d, device),
            blocks: (0..config.depth).map(|_| LiDitBlock::zeros(config, device)).collect(),
            final_layer: FinalLayer::zeros(d, num_outputs, device),
            input_norm: conditioning.input_norm,
            pooling: conditioning.pooling,
            refiner_attention: config.refiner.attention,
        }
    }

    /// Predicts noise or velocity.
    ///
    /// # Shapes
    /// `x` `[B, C, H, W]`, H and W multiples of the patch size; `timesteps` `[B]` in 0..1000; one [`PromptBatch`] per
    /// LLM, in the order of [`Conditioning::context_dims`]. The result is `[B, C, H, W]`, f32.
    pub fn forward(&self, x: Tensor<4>, timesteps: Tensor<1>, prompts: &[PromptBatch]) -> Tensor<4> {
        let encoded = self.encode(timesteps, prompts);
        let grid = self.grid(&x);
        let mask = VisibleKeys::keys(encoded.caption);
        let mut x = self.embed(x, grid); // [B, N, D]
        for block in &self.blocks {
            x = block.forward(x, encoded.conditioning.clone(), encoded.text.clone(), Some(&mask));
        }
        self.head(x, encoded.conditioning, grid) // [B, C, H, W]
    }

    /// Everything before the backbone: embeddings, refiners, cut of the instruction, concatenation.
    pub fn encode(&self, timesteps: Tensor<1>, prompts: &[PromptBatch]) -> Encoded {
        let states = self.normalised(prompts);
        let steering = self.steering(timesteps, prompts, &states);
        let refined = (0..prompts.len())
            .map(|i| self.refine(i, &prompts[i], states[i].clone(), &steering.encoders[i]))
            .collect();
        let (text, caption) = self.join(prompts, refined, &steering.encoders);
        Encoded {
            conditioning: steering.backbone,
            text,
            caption,
        }
    }

    /// Rows and columns of the tokens of an image `[B, C, H, W]`.
    pub(crate) fn grid(&self, image: &Tensor<4>) -> [usize; 2] {
        let [_, _, height, width] = image.dims();
        [height, width].map(|side| side / self.patchify.patch_size)
    }

    /// Image `[B, C, H, W]` to tokens that know their place, `[B, N, D]`.
    pub(crate) fn embed(&self, x: Tensor<4>, grid: [usize; 2]) -> Tensor<3> {
        self.res_block.forward(self.patchify.forward(x), grid)
    }

    /// Tokens `[B, N, D]` after the last block to the prediction, `[B, C, H, W]`.
    pub(crate) fn head(&self, x: Tensor<3>, conditioning: Tensor<2>, grid: [usize; 2]) -> Tensor<4> {
        unpatchify(
            self.final_layer.forward(x, conditioning),
            grid,
            self.patchify.patch_size,
        )
    }

    /// Each LLM's states `[B, T, context_dim]` after the input norm.
    pub(crate) fn normalised(&self, prompts: &[PromptBatch]) -> Vec<Tensor<3>> {
        assert_eq!(prompts.len(), self.encoders.len(), "one prompt batch per encoder");
        prompts.iter().map(|prompt| self.normalise(prompt)).collect()
    }

    /// One LLM's states `[B, T, context_dim]` after the input norm.
    pub(crate) fn normalise(&self, prompt: &PromptBatch) -> Tensor<3> {
        match self.input_norm {
            InputNorm::Rms => rms_norm(prompt.states.clone()),
            InputNorm::RmsClipped => clipped_rms_norm(prompt.states.clone()),
            InputNorm::None => prompt.states.clone(),
        }
    }

    /// The conditioning vectors, from the timestep and the [`normalised`](Self::normalised) states.
    pub(crate) fn steering(&self, timesteps: Tensor<1>, prompts: &[PromptBatch], states: &[Tensor<3>]) -> Steering {
        let timestep = self.timestep.forward(timesteps); // [B, D]
        let mut backbone = timestep.clone();
        let mut encoders = Vec::with_capacity(prompts.len());
        for ((encoder, prompt), states) in self.encoders.iter().zip(prompts).zip(states) {
            let pooled = encoder.pooled.forward(prompt.pool(states.clone(), self.pooling)); // [B, D]
            backbone = backbone + pooled.clone();
            encoders.push(timestep.clone() + pooled);
        }
        Steering { backbone, encoders }
    }

    /// LLM `i`'s normalised states, projected and through its token refiner: `[B, T, D]`.
    pub(crate) fn refine(&self, i: usize, prompt: &PromptBatch, states: Tensor<3>, steer: &Tensor<2>) -> Tensor<3> {
        let mask = self.refiner_mask(prompt);
        let encoder = &self.encoders[i];
        let x = encoder.projection.forward(states).cast(FloatDType::F32); // [B, T, D]
        encoder.refiner.forward(x, steer, &mask)
    }

    /// What a token of a refiner sees.
    pub(crate) fn refiner_mask(&self, prompt: &PromptBatch) -> VisibleKeys {
        match self.refiner_attention {
            RefinerAttention::Full => VisibleKeys::keys(prompt.valid.clone()),
            RefinerAttention::Causal => VisibleKeys::causal_keys(prompt.valid.clone()),
        }
    }

    /// The refined states of all LLMs as one text `[B, sum of T, D]`, and which of its tokens are captions'.
    pub(crate) fn join(
        &self,
        prompts: &[PromptBatch],
        mut refined: Vec<Tensor<3>>,
        steering: &[Tensor<2>],
    ) -> (Tensor<3>, Tensor<2, Bool>) {
        if let Some(collaborative) = &self.collaborative {
            let valid: Vec<_> = prompts.iter().map(|prompt| prompt.valid.clone()).collect();
            refined = collaborative.forward(&refined, &valid, steering);
        }
        let (text, caption): (Vec<_>, Vec<_>) = prompts
            .iter()
            .zip(refined)
            .map(|(prompt, x)| prompt.cut_instruction(x))
            .unzip();
        (layer_norm(Tensor::cat(text, 1)), Tensor::cat(caption, 1))
    }
}

#[cfg(test)]
pub(crate) mod tests;
