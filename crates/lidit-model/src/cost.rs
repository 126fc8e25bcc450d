//! The price of a network: parameters and arithmetic, from its configuration alone.

use crate::config::{Conditioning, Fusion, ModelConfig, RefinerGate};
use crate::timestep::FREQUENCIES;

/// Trainable parameters, by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterCounts {
    /// The blocks of the backbone.
    pub blocks: u64,
    /// Patchify, `ResBlock`, timestep embedder and final layer.
    pub frame: u64,
    /// Projections and embedders of the LLMs' states, token refiners, collaborative refiner.
    pub refiners: u64,
}

impl ParameterCounts {
    /// All trainable parameters.
    pub fn total(&self) -> u64 {
        self.blocks + self.frame + self.refiners
    }
}

/// Size of the image in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageTokens {
    /// Rows of the grid.
    pub rows: usize,
    /// Columns of the grid.
    pub columns: usize,
}

/// Tokens of one prompt in one LLM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextTokens {
    /// What the refiners see: instruction and caption.
    pub prompt: usize,
    /// What the backbone sees.
    pub caption: usize,
}

/// Counts the parameters of `LiDit::init(config, conditioning, ..)` without building it.
pub fn parameter_counts(config: &ModelConfig, conditioning: &Conditioning) -> ParameterCounts {
    let d = config.hidden_size;
    let num_encoders = conditioning.context_dims.len();
    let patch = config.in_channels * config.patch_size * config.patch_size;
    let attention = 4 * linear(d, d) + 2 * config.head_dim() as u64;
    let mlp = linear(d, config.mlp_ratio * d) + linear(config.mlp_ratio * d, d);
    let modulation = linear(d, 3 * d);
    let gate = match config.refiner.gate {
        RefinerGate::Adaptive => linear(d, d),
        RefinerGate::None => 0,
    };
    let refiner = config.refiner.blocks as u64 * (attention + mlp + 2 * gate);
    let inputs: u64 = conditioning
        .context_dims
        .iter()
        .map(|&c| 2 * linear(c, d) + linear(d, d))
        .sum();
    let collaborative = match config.fusion {
        Fusion::Concatenate => 0,
        Fusion::Collaborative => num_encoders as u64 * (attention + mlp + 2 * modulation),
    };
    let timestep = linear(FREQUENCIES, d) + linear(d, d);
    let convolution = 9 * (d * d) as u64 + d as u64;
    let final_layer = linear(d, 2 * d) + linear(d, patch);
    ParameterCounts {
        blocks: config.depth as u64 * (2 * attention + mlp + 3 * modulation),
        frame: linear(patch, d) + 2 * convolution + timestep + final_layer,
        refiners: inputs + num_encoders as u64 * refiner + collaborative,
    }
}

/// Floating-point operations of one forward pass of one image: two per multiply-add of every matrix product and
/// convolution; elementwise work is left out, as is usual. Training costs three times as much.
///
/// `text` has one entry per LLM. Padding of a batch to its longest prompt comes on top.
pub fn forward_flops(
    config: &ModelConfig,
    conditioning: &Conditioning,
    image: ImageTokens,
    text: &[TextTokens],
) -> u64 {
    let d = config.hidden_size;
    let n = image.rows * image.columns;
    let captions: usize = text.iter().map(|t| t.caption).sum();
    let patch = config.in_channels * config.patch_size * config.patch_size;
    let mlp = |tokens: usize| 2 * product(tokens, d, config.mlp_ratio * d);
    let modulation = product(1, d, 3 * d);

    let blocks = config.depth as u64 * (attend(d, n, n) + attend(d, n, captions) + mlp(n) + 3 * modulation);
    let frame = 2 * product(n, d, patch)
        + 2 * product(n, 9 * d, d)
        + product(1, FREQUENCIES, d)
        + product(1, d, d)
        + product(1, d, 2 * d);

    let prompts: usize = text.iter().map(|t| t.prompt).sum();
    let refiners: u64 = text
        .iter()
        .zip(&conditioning.context_dims)
        .map(|(t, &context_dim)| {
            let t = t.prompt;
            let gates = match config.refiner.gate {
                RefinerGate::Adaptive => 2 * product(1, d, d),
                RefinerGate::None => 0,
            };
            let inputs =
                product(t, context_dim, d) + product(1, t, context_dim) + product(1, context_dim, d) + product(1, d, d);
            let refiner = config.refiner.blocks as u64 * (attend(d, t, t) + mlp(t) + gates);
            let collaborative = match config.fusion {
                Fusion::Concatenate => 0,
                Fusion::Collaborative => attend(d, t, prompts - t) + mlp(t) + 2 * modulation,
            };
            inputs + refiner + collaborative
        })
        .sum();
    blocks + frame + refiners
}

/// Parameters of a linear layer with bias.
fn linear(num_inputs: usize, num_outputs: usize) -> u64 {
    (num_inputs * num_outputs + num_outputs) as u64
}

/// Operations of `[m, k] x [k, n]`.
fn product(m: usize, k: usize, n: usize) -> u64 {
    2 * (m * k * n) as u64
}

/// Operations of an attention of `n` queries to `t` keys: four projections, scores, mixture.
fn attend(d: usize, n: usize, t: usize) -> u64 {
    2 * product(n, d, d) + 2 * product(t, d, d) + 2 * product(n, d, t)
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::tensor::Device;

    use super::*;
    use crate::config::tests::tiny;
    use crate::config::{InputNorm, Pooling, RefinerAttention, RefinerConfig};
    use crate::lidit::LiDit;

    fn conditioning(context_dims: &[usize]) -> Conditioning {
        Conditioning {
            context_dims: context_dims.to_vec(),
            input_norm: InputNorm::Rms,
            pooling: Pooling::Caption,
        }
    }

    fn paper(hidden_size: usize, depth: usize, num_heads: usize) -> ParameterCounts {
        let config = ModelConfig {
            hidden_size,
            depth,
            num_heads,
            in_channels: 16,
            ..tiny()
        };
        parameter_counts(&config, &conditioning(&[4096, 4096]))
    }

    #[test]
    fn counts_equal_the_real_networks() {
        let refiner = |blocks, gate| RefinerConfig {
            blocks,
            attention: RefinerAttention::Full,
            gate,
        };
        for (config, context_dims) in [
            (tiny(), vec![5, 7]),
            (tiny(), vec![5, 7, 9]),
            (
                ModelConfig {
                    fusion: Fusion::Concatenate,
                    ..tiny()
                },
                vec![5, 7],
            ),
            (
                ModelConfig {
                    fusion: Fusion::Concatenate,
                    refiner: refiner(0, RefinerGate::Adaptive),
                    ..tiny()
                },
                vec![5],
            ),
            (
                ModelConfig {
                    refiner: refiner(3, RefinerGate::None),
                    mlp_ratio: 2,
                    patch_size: 4,
                    ..tiny()
                },
                vec![5, 6],
            ),
        ] {
            let conditioning = conditioning(&context_dims);
            let model = LiDit::zeros(&config, &conditioning, &Device::flex());
            let counts = parameter_counts(&config, &conditioning);
            assert_eq!(counts.total(), model.num_params() as u64, "{config:?}");
            assert_eq!(counts.blocks, model.blocks.num_params() as u64);
            let refiners = model.encoders.num_params() + model.collaborative.num_params();
            assert_eq!(counts.refiners, refiners as u64);
        }
    }

    #[test]
    fn the_papers_models_have_the_papers_sizes() {
        for (counts, blocks, total) in [
            (paper(1152, 28, 16), 0.929e9, 1.06e9),
            (paper(2816, 48, 44), 9.516e9, 10.27e9),
        ] {
            let off = |actual: u64, expected: f64| (actual as f64 / expected - 1.0).abs();
            assert!(off(counts.blocks, blocks) < 0.002, "{counts:?}");
            assert!(off(counts.total(), total) < 0.05, "{counts:?}: {}", counts.total());
        }
    }

    #[test]
    fn flops_follow_the_formula_of_a_block() {
        let shallow = ModelConfig { depth: 1, ..tiny() };
        let deep = ModelConfig { depth: 2, ..tiny() };
        let text = [
            TextTokens { prompt: 10, caption: 4 },
            TextTokens { prompt: 8, caption: 3 },
        ];
        let flops = |config: &ModelConfig| {
            forward_flops(
                config,
                &conditioning(&[5, 7]),
                ImageTokens { rows: 3, columns: 4 },
                &text,
            )
        };
        let (d, n, t) = (8, 12, 7);
        let self_attention = 2 * (4 * n * d * d + 2 * n * n * d);
        let cross_attention = 2 * (2 * n * d * d + 2 * t * d * d + 2 * n * t * d);
        let block = self_attention + cross_attention + 2 * 8 * n * d * d + 2 * 9 * d * d;
        assert_eq!(flops(&deep) - flops(&shallow), block);
    }
}
