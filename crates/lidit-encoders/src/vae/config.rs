//! `config.json` of diffusers' `AutoencoderKL`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::EncoderError;
use crate::config_json::ConfigJson;

/// The class that is read.
const CLASS: &str = "AutoencoderKL";

/// Every key of the class in diffusers 0.42.
const KEYS: [&str; 20] = [
    "in_channels",
    "out_channels",
    "down_block_types",
    "up_block_types",
    "block_out_channels",
    "layers_per_block",
    "act_fn",
    "latent_channels",
    "norm_num_groups",
    "sample_size",
    "scaling_factor",
    "shift_factor",
    "latents_mean",
    "latents_std",
    "force_upcast",
    "use_quant_conv",
    "use_post_quant_conv",
    "mid_block_add_attention",
    // Written by older versions.
    "dtype",
    "torch_dtype",
];

/// What an autoencoder is made of, by the names of diffusers' `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Channels at each resolution, from the picture's down to the latents'; each further one halves the sides.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks at each resolution of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// A 1 x 1 convolution after the encoder.
    pub use_quant_conv: bool,
    /// A 1 x 1 convolution before the decoder.
    pub use_post_quant_conv: bool,
    /// Attention between the two residual blocks at the lowest resolution.
    pub mid_block_add_attention: bool,
}

/// An autoencoder's network, and how its latents are scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderConfig {
    /// What it is made of.
    pub network: NetworkConfig,
    /// Diffusion models see `(latents - shift_factor) * scaling_factor`.
    pub scaling_factor: f64,
    /// See `scaling_factor`.
    pub shift_factor: f64,
}

impl NetworkConfig {
    /// Pixels per latent along one side.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// Channels at the lowest resolution.
    pub(super) fn mid_channels(&self) -> usize {
        self.block_out_channels[self.block_out_channels.len() - 1]
    }
}

impl AutoencoderConfig {
    /// Reads `config.json` of a folder in diffusers' layout, or of the `vae` folder of a whole pipeline.
    pub fn open(folder: &Path) -> Result<Self, EncoderError> {
        Self::read(&ConfigJson::open(&super::autoencoder_folder(folder))?)
    }

    /// Reads the keys; one that is left out means what it means to diffusers.
    pub(crate) fn read(json: &ConfigJson) -> Result<Self, EncoderError> {
        refuse_others(json)?;
        let block_out_channels = json.counts("block_out_channels")?.unwrap_or_else(|| vec![64]);
        if block_out_channels.is_empty() {
            return Err(json.bad("block_out_channels", "a list of at least one number"));
        }
        for (key, block) in [
            ("down_block_types", "DownEncoderBlock2D"),
            ("up_block_types", "UpDecoderBlock2D"),
        ] {
            let blocks = json.texts(key)?.unwrap_or_else(|| vec![block]);
            if blocks.len() != block_out_channels.len() || blocks.iter().any(|name| *name != block) {
                let count = block_out_channels.len();
                return Err(json.bad(key, format!("`{block}` {count} times, as block_out_channels has it")));
            }
        }
        let norm_num_groups = json.count("norm_num_groups")?.unwrap_or(32);
        if let Some(channels) = block_out_channels.iter().find(|c| *c % norm_num_groups != 0) {
            return Err(json.bad(
                "norm_num_groups",
                format!(
                    "a divisor of every number in block_out_channels; {norm_num_groups} does not divide {channels}"
                ),
            ));
        }
        let network = NetworkConfig {
            block_out_channels,
            layers_per_block: json.count("layers_per_block")?.unwrap_or(1),
            latent_channels: json.count("latent_channels")?.unwrap_or(4),
            norm_num_groups,
            use_quant_conv: json.flag("use_quant_conv")?.unwrap_or(true),
            use_post_quant_conv: json.flag("use_post_quant_conv")?.unwrap_or(true),
            mid_block_add_attention: json.flag("mid_block_add_attention")?.unwrap_or(true),
        };
        Ok(Self {
            network,
            scaling_factor: match json.number("scaling_factor")? {
                None => 0.18215,
                Some(factor) if factor > 0.0 => factor,
                Some(_) => return Err(json.bad("scaling_factor", "a number above 0")),
            },
            shift_factor: json.number("shift_factor")?.unwrap_or(0.0),
        })
    }

    /// All that determines latents and pictures beside the weights, as one text.
    pub(super) fn canonical(&self) -> String {
        json!({
            "network": self.network,
            "scaling_factor": self.scaling_factor,
            "shift_factor": self.shift_factor,
        })
        .to_string()
    }
}

/// Refuses other classes, keys that nobody knows, and values that this network does not have.
fn refuse_others(json: &ConfigJson) -> Result<(), EncoderError> {
    let class = json.text("_class_name")?.unwrap_or("a model without a name");
    if class != CLASS {
        return Err(json.bad(
            "_class_name",
            format!("`{CLASS}`, the one class that is known; it is `{class}`"),
        ));
    }
    if let Some(key) = json.keys().find(|key| !key.starts_with('_') && !KEYS.contains(key)) {
        return Err(json.unknown(key, CLASS));
    }
    for key in ["in_channels", "out_channels"] {
        if json.count(key)?.is_some_and(|channels| channels != 3) {
            return Err(json.bad(key, "3: pictures are RGB"));
        }
    }
    if !matches!(json.text("act_fn")?, None | Some("silu" | "swish")) {
        return Err(json.bad("act_fn", "`silu`"));
    }
    // Their pipelines scale each channel by itself; ignoring that would give wrong latents in silence.
    for key in ["latents_mean", "latents_std"] {
        if json.keys().any(|known| known == key) && !json.is_null(key) {
            return Err(json.bad(key, "null: latents are scaled by scaling_factor and shift_factor alone"));
        }
    }
    Ok(())
}
