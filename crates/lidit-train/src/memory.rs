//! What training needs of a device's memory, from the config alone: an estimate by formulae that docs/features.md states.

use lidit_model::{Fusion, ImageTokens, ModelConfig, RefinerGate, TextTokens};
use serde::Serialize;

use crate::config::{Precision, Sharding, TrainConfig};

/// Bytes on one device while it trains. Buffers of kernels and what the allocator wastes are not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryEstimate {
    /// f32 masters of the owned range, and the weights that are computed with where they are others.
    pub weights: u64,
    /// One per parameter in the compute type, and their sum as one f32 vector.
    pub gradients: u64,
    /// Both moments of the owned range, f32.
    pub optimizer: u64,
    /// The averages of the owned range, f32.
    pub ema: u64,
    /// What a micro-batch's forward pass keeps for its backward pass; with recomputation the most it holds at once.
    pub activations: u64,
    /// Layers of the frozen language models, where they are loaded.
    pub encoders: u64,
}

/// What trains a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// How many, a device each.
    pub world_size: u64,
    /// Whether they compute on CPUs, which keep activations in f32 whatever type products have.
    pub on_cpu: bool,
}

impl MemoryEstimate {
    /// The estimate for `parameters` trainable parameters on one of the `ranks`.
    ///
    /// `text` has one entry an encoder: the tokens that a batch is padded to. `encoders` are the bytes of frozen layers.
    pub fn new(
        model: &ModelConfig,
        train: &TrainConfig,
        parameters: u64,
        ranks: Ranks,
        image: ImageTokens,
        text: &[TextTokens],
        encoders: u64,
    ) -> Self {
        let owned = match train.sharding {
            Sharding::None => parameters,
            Sharding::Zero1 => parameters.div_ceil(ranks.world_size),
        };
        let compute = match train.precision {
            Precision::F32 => 4,
            Precision::Bf16 => 2,
        };
        // In f32, an owner of everything computes with views of its masters.
        let shares_masters = train.precision == Precision::F32 && train.sharding == Sharding::None;
        let micro_batch = train
            .micro_batch
            .min((train.global_batch as u64).div_ceil(ranks.world_size) as usize) as u64;
        let kept = if ranks.on_cpu { 4 } else { compute };
        let computed = compute * parameters + (4 - compute) * f32_parameters(model, text.len());
        Self {
            weights: 4 * owned + if shares_masters { 0 } else { computed },
            gradients: computed + 4 * parameters,
            optimizer: 8 * owned,
            ema: 4 * owned * train.ema_half_lives.len() as u64,
            activations: micro_batch * activation_bytes(model, train.recompute_blocks, kept, image, text),
            encoders,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.optimizer + self.ema + self.activations + self.encoders
    }
}

/// Parameters that stay f32 when the network computes in bf16: the matrices of modulation and gates. Biases and what
/// else `is_f32_parameter` names is little beside them.
fn f32_parameters(model: &ModelConfig, num_encoders: usize) -> u64 {
    let gates = match model.refiner.gate {
        RefinerGate::Adaptive => 2 * model.refiner.blocks,
        RefinerGate::None => 0,
    };
    let collaborative = match model.fusion {
        Fusion::Concatenate => 0,
        Fusion::Collaborative => 6,
    };
    let squares = 9 * model.depth + 2 + num_encoders * (gates + collaborative);
    (squares * model.hidden_size * model.hidden_size) as u64
}

/// Bytes that the forward pass of one image keeps: the inputs and outputs of every product and norm of the blocks, in a
/// type of `kept` bytes. Attention keeps no scores.
///
/// With recomputation: the f32 input of every segment and the f32 states between the refiners, and what the largest part
/// keeps when it runs again.
fn activation_bytes(
    model: &ModelConfig,
    recompute_blocks: usize,
    kept: u64,
    image: ImageTokens,
    text: &[TextTokens],
) -> u64 {
    let d = model.hidden_size;
    let n = image.rows * image.columns;
    let captions: usize = text.iter().map(|text| text.caption).sum();
    let prompts: usize = text.iter().map(|text| text.prompt).sum();
    let mlp = 3 + 2 * model.mlp_ratio;
    // Of a token: self-attention 9 widths, cross-attention 6 and 3 a key.
    let block = n * d * (9 + 6 + mlp) + 3 * captions * d;
    let refiner = |text: &TextTokens| model.refiner.blocks * text.prompt * d * (9 + mlp);
    let collaborative = |text: &TextTokens| {
        let (t, others) = (text.prompt, prompts - text.prompt);
        match model.fusion {
            Fusion::Concatenate => 0,
            Fusion::Collaborative => t * d * (6 + mlp) + 3 * others * d,
        }
    };
    let joined: usize = text.iter().map(collaborative).sum();
    if recompute_blocks == 0 {
        let refiners: usize = text.iter().map(refiner).sum();
        return kept * (model.depth * block + refiners + joined) as u64;
    }
    let inputs = model.depth.div_ceil(recompute_blocks) * n * d + (prompts + captions) * d;
    let segment = recompute_blocks.min(model.depth) * block;
    let largest = text.iter().map(refiner).max().unwrap_or(0).max(joined).max(segment);
    4 * inputs as u64 + kept * largest as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunConfig;

    #[test]
    fn recomputation_lowers_the_activations_and_nothing_else() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/run/debug.toml");
        let sets = ["model.depth=12".to_owned()];
        let mut config = RunConfig::load(std::path::Path::new(path), &sets).unwrap();
        let text = [TextTokens {
            prompt: 24,
            caption: 16,
        }; 2];
        let image = ImageTokens { rows: 8, columns: 8 };
        let mut estimate = |recompute_blocks| {
            config.train.recompute_blocks = recompute_blocks;
            let alone = Ranks {
                world_size: 1,
                on_cpu: true,
            };
            MemoryEstimate::new(&config.model, &config.train, 1_000_000, alone, image, &text, 0)
        };
        let plain = estimate(0);
        let share = |blocks: MemoryEstimate| blocks.activations as f64 / plain.activations as f64;
        let [one, two, four] = [1, 2, 4].map(&mut estimate);
        assert!(share(one) < share(two) && share(two) < share(four) && share(four) < 0.45);
        assert!(share(one) > 0.05, "{one:?}");
        let rest = |estimate: MemoryEstimate| estimate.total() - estimate.activations;
        assert_eq!(rest(one), rest(plain));
    }

    #[test]
    fn in_bf16_a_gpu_keeps_half_the_activations_of_a_cpu() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/run/debug.toml");
        let config = |precision: &str| {
            let sets = [format!("train.precision={precision}")];
            RunConfig::load(std::path::Path::new(path), &sets).unwrap()
        };
        let text = [TextTokens {
            prompt: 24,
            caption: 16,
        }; 2];
        let image = ImageTokens { rows: 8, columns: 8 };
        let activations = |precision, on_cpu| {
            let (config, ranks) = (config(precision), Ranks { world_size: 1, on_cpu });
            MemoryEstimate::new(&config.model, &config.train, 1_000_000, ranks, image, &text, 0).activations
        };
        assert_eq!(activations("bf16", true), activations("f32", true));
        assert_eq!(2 * activations("bf16", false), activations("bf16", true));
        assert_eq!(activations("f32", false), activations("f32", true));
    }
}
