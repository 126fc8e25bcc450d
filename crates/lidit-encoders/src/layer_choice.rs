//! Which of a language model's layers the states come from.

use serde::{Deserialize, Serialize};

use crate::{EncoderError, LlmShape};

/// One frozen language model of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmConfig {
    /// A folder in the Hugging Face layout, a GGUF file, or a fetched name.
    pub model: String,
    /// Index into Hugging Face's `hidden_states`; the paper takes -3. Either this or `layers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<i32>,
    /// A mixture of all layers. Either this or `layer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
}

/// A mixture of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layers {
    /// The mean over all layers' outputs, each layer-normed without gain (arXiv 2506.08210).
    Mean,
}

/// The states that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerChoice {
    /// Hugging Face's `hidden_states[k]`: 0 the embedding, `k` the output of block `k`, the last one after the final
    /// norm; negative ones count from the end.
    Layer(i32),
    /// The mean over `hidden_states[1..]`, each layer-normed without gain (arXiv 2506.08210).
    Mean,
}

impl LlmConfig {
    /// What `layer` and `layers` say together.
    ///
    /// # Errors
    /// Both are given, or neither is.
    pub fn choice(&self) -> Result<LayerChoice, EncoderError> {
        match (self.layer, self.layers) {
            (Some(layer), None) => Ok(LayerChoice::Layer(layer)),
            (None, Some(Layers::Mean)) => Ok(LayerChoice::Mean),
            (None, None) | (Some(_), Some(_)) => Err(EncoderError::LayerChoice {
                model: self.model.clone(),
            }),
        }
    }
}

impl LayerChoice {
    /// How many layers have to be computed.
    pub fn depth(self, shape: &LlmShape) -> Result<usize, EncoderError> {
        match self {
            Self::Layer(layer) => shape.resolve_layer(layer),
            Self::Mean => Ok(shape.num_layers()),
        }
    }

    /// What fingerprints hash: the same for `-3` and the count that it resolves to.
    pub fn canonical(self, shape: &LlmShape) -> Result<String, EncoderError> {
        match self {
            Self::Layer(_) => Ok(self.depth(shape)?.to_string()),
            Self::Mean => Ok("mean".to_owned()),
        }
    }
}
