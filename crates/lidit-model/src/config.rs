//! `ModelConfig`: the table `[model]` of a run, and what the encoders hand to the network.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Shape of the network and the paper's switches. Every key must be given; there are no defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Width of tokens, refiners and backbone.
    pub hidden_size: usize,
    /// Number of backbone blocks.
    pub depth: usize,
    /// Heads of every attention; divides `hidden_size`.
    pub num_heads: usize,
    /// The feed-forward sublayers are this many times wider inside.
    pub mlp_ratio: usize,
    /// Side of an image token in pixels (or latents).
    pub patch_size: usize,
    /// Channels of the image: 3 for pixels, 16 for the paper's latents.
    pub in_channels: usize,
    /// How first weights and rates follow the width.
    pub parametrization: Parametrization,
    /// How several LLMs are joined.
    pub fusion: Fusion,
    /// The refiner of each LLM.
    pub refiner: RefinerConfig,
}

/// The token refiner's switches (ablations of section 5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefinerConfig {
    /// Blocks per LLM, 0 to 3; the paper's choice is 2.
    pub blocks: usize,
    /// What a token of the refiner sees.
    pub attention: RefinerAttention,
    /// Whether timestep and text gate the refiner's sublayers.
    pub gate: RefinerGate,
}

/// How first weights and learning rates follow the width of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Parametrization {
    /// One rate for all widths' matrices: the best rate falls as the network gets wider.
    Standard,
    /// The maximal update parametrization (Yang et al., arXiv 2203.03466, table 3; for diffusion transformers arXiv
    /// 2505.15270): a rate found at `base_width` stays good at every width. There it is the standard one, bit for bit.
    Mup {
        /// The width at which nothing is scaled.
        base_width: usize,
    },
}

/// How the refined states of several LLMs become one text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fusion {
    /// Side by side, along the tokens. The only choice for one LLM.
    Concatenate,
    /// Through the collaborative refiner, then side by side.
    Collaborative,
}

/// What a token of the refiner sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefinerAttention {
    /// Every token, also later ones: the paper's cure for the LLM's positional bias.
    Full,
    /// Earlier tokens only: the control of the same capacity.
    Causal,
}

/// Whether timestep and text gate the refiner's sublayers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefinerGate {
    /// Gates from timestep and pooled text, zero at the start.
    Adaptive,
    /// Plain residual sublayers.
    None,
}

/// What is done to LLM states before projection and pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputNorm {
    /// `x / rms(x)` of each token, without a gain: the first token's norm is 5 to 50 times the others' and would drown them.
    Rms,
    /// [`Rms`](Self::Rms), then each feature clipped to 3 and the token normalised again. One or two fixed features of
    /// an LLM's states (massive activations, arXiv 2402.17762) hold up to 86 % of a token's energy: without the clip,
    /// the pooled states of `a red apple` and `an elephant` have cosine 0.94 (`SmolLM2`) and 0.98 (`Gemma 3`), with it
    /// 0.76 and 0.74.
    RmsClipped,
    /// Nothing.
    None,
}

/// Over which tokens LLM states are averaged for the conditioning vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The caption's.
    Caption,
    /// The whole prompt's, with system prompt and instruction.
    All,
}

/// What the network must know of its encoders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conditioning {
    /// Width of each LLM's states, in the order of the prompts.
    pub context_dims: Vec<usize>,
    /// What is done to the states first.
    pub input_norm: InputNorm,
    /// Over which tokens they are averaged.
    pub pooling: Pooling,
}

/// A value that no network can be built with; names the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidConfig {
    /// The key's path in the run's configuration, `model.num_heads`.
    pub key: &'static str,
    /// What is wrong and what to do.
    pub reason: String,
}

impl InvalidConfig {
    pub(crate) fn new(key: &'static str, reason: impl Into<String>) -> Self {
        Self {
            key,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.reason)
    }
}

impl std::error::Error for InvalidConfig {}

impl ModelConfig {
    /// Refuses shapes and switches that cannot work with `num_encoders` LLMs and images of `image_size` (pixels, or
    /// latents behind a VAE); the error names the key.
    pub fn validate(&self, num_encoders: usize, image_size: usize) -> Result<(), InvalidConfig> {
        for (key, value) in [
            ("model.hidden_size", self.hidden_size),
            ("model.depth", self.depth),
            ("model.num_heads", self.num_heads),
            ("model.mlp_ratio", self.mlp_ratio),
            ("model.patch_size", self.patch_size),
            ("model.in_channels", self.in_channels),
        ] {
            if value == 0 {
                return Err(InvalidConfig::new(key, "0 is too small, use at least 1"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_heads) {
            let reason = format!(
                "{} heads do not divide model.hidden_size = {}",
                self.num_heads, self.hidden_size
            );
            return Err(InvalidConfig::new("model.num_heads", reason));
        }
        if image_size == 0 || !image_size.is_multiple_of(self.patch_size) {
            let reason = format!("{} does not divide the image size {image_size}", self.patch_size);
            return Err(InvalidConfig::new("model.patch_size", reason));
        }
        if self.refiner.blocks > 3 {
            let reason = format!("{} is too many, use 0 to 3", self.refiner.blocks);
            return Err(InvalidConfig::new("model.refiner.blocks", reason));
        }
        if num_encoders == 0 {
            return Err(InvalidConfig::new("encoders.llm", "no encoder, name at least one"));
        }
        if self.parametrization == (Parametrization::Mup { base_width: 0 }) {
            let reason = "0 is too small, use the width whose rate is known";
            return Err(InvalidConfig::new("model.parametrization.mup.base_width", reason));
        }
        if self.fusion == Fusion::Collaborative && num_encoders < 2 {
            let reason = format!(
                "`collaborative` joins two or more encoders, here is {num_encoders}: add one or use `concatenate`"
            );
            return Err(InvalidConfig::new("model.fusion", reason));
        }
        Ok(())
    }

    /// Features of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// How many times wider the network is than the one that its rates are meant for; 1 unless the parametrization is muP.
    pub fn width_ratio(&self) -> f64 {
        match self.parametrization {
            Parametrization::Standard => 1.0,
            Parametrization::Mup { base_width } => self.hidden_size as f64 / base_width as f64,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The smallest network with every part: what the goldens are made of.
    pub(crate) fn tiny() -> ModelConfig {
        ModelConfig {
            hidden_size: 8,
            depth: 2,
            num_heads: 2,
            mlp_ratio: 4,
            patch_size: 2,
            in_channels: 2,
            parametrization: Parametrization::Standard,
            fusion: Fusion::Collaborative,
            refiner: RefinerConfig {
                blocks: 2,
                attention: RefinerAttention::Full,
                gate: RefinerGate::Adaptive,
            },
        }
    }

    #[test]
    fn impossible_networks_are_refused_with_the_key() {
        let plain = |blocks| RefinerConfig {
            blocks,
            ..tiny().refiner
        };
        assert_eq!(tiny().validate(2, 32), Ok(()));
        for (config, num_encoders, image_size, key) in [
            (
                ModelConfig {
                    hidden_size: 0,
                    ..tiny()
                },
                2,
                32,
                "model.hidden_size",
            ),
            (ModelConfig { depth: 0, ..tiny() }, 2, 32, "model.depth"),
            (ModelConfig { num_heads: 3, ..tiny() }, 2, 32, "model.num_heads"),
            (
                ModelConfig {
                    patch_size: 3,
                    ..tiny()
                },
                2,
                32,
                "model.patch_size",
            ),
            (
                ModelConfig {
                    refiner: plain(4),
                    ..tiny()
                },
                2,
                32,
                "model.refiner.blocks",
            ),
            (
                ModelConfig {
                    parametrization: Parametrization::Mup { base_width: 0 },
                    ..tiny()
                },
                2,
                32,
                "model.parametrization.mup.base_width",
            ),
            (tiny(), 1, 32, "model.fusion"),
            (tiny(), 0, 32, "encoders.llm"),
            (tiny(), 2, 0, "model.patch_size"),
        ] {
            assert_eq!(
                config.validate(num_encoders, image_size).map_err(|error| error.key),
                Err(key)
            );
        }
    }

    #[test]
    fn misspelt_and_missing_keys_are_refused() {
        let good = serde_json::json!({
            "hidden_size": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 4, "patch_size": 2, "in_channels": 2,
            "parametrization": "standard", "fusion": "collaborative", "refiner": {"blocks": 2, "attention": "full", "gate": "adaptive"},
        });
        let read = |value: serde_json::Value| serde_json::from_value::<ModelConfig>(value).map_err(|e| e.to_string());
        assert_eq!(read(good.clone()), Ok(tiny()));
        let mut misspelt = good.clone();
        misspelt["refiner"]["block"] = 1.into();
        assert!(read(misspelt).is_err_and(|error| error.contains("`block`")));
        let mut missing = good;
        missing.as_object_mut().map(|table| table.remove("mlp_ratio"));
        assert!(read(missing).is_err_and(|error| error.contains("`mlp_ratio`")));
    }
}
