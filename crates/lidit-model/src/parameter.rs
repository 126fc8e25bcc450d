//! What each parameter is to initialisation and optimizer, told from its path.

use serde::{Deserialize, Serialize};

/// Place and kind of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Where it belongs.
    pub part: Part,
    /// What it does.
    pub kind: Kind,
}

/// The two halves of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Patchify, `ResBlock`, timestep embedder, blocks and final layer.
    Backbone,
    /// Projections and embedders of the LLMs' states, token refiners, collaborative refiner.
    Refiners,
}

/// What a parameter does, and how its size grows with the width of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Matrix or convolution kernel from width to width.
    Hidden,
    /// Matrix from a fixed number of features (patch, frequencies, LLM states) to the width.
    Input,
    /// Matrix from the width to the patch that is predicted.
    Output,
    /// Matrix from the width to shifts, scales and gates. It takes the place of a norm's gain and bias and starts at zero.
    Modulation,
    /// Bias of a layer or gain of a norm.
    Vector,
}

impl Role {
    /// The role of the parameter at `path`, such as `blocks.0.self_attention.query.weight`.
    pub fn of(path: &str) -> Self {
        let part = match path.split('.').next() {
            Some("encoders" | "collaborative") => Part::Refiners,
            _ => Part::Backbone,
        };
        Self {
            part,
            kind: Kind::of(path),
        }
    }
}

impl Kind {
    fn of(path: &str) -> Self {
        let has = |part: &str| {
            path.split('.')
                .any(|name| name == part || name.ends_with(&format!("_{part}")))
        };
        let inputs = [
            "patchify.linear",
            "timestep.linear_in",
            "pooled.linear_in",
            "projection",
        ];
        let layer = path.rsplit_once('.').map_or(path, |(layer, _)| layer);
        if has("bias") || has("gain") {
            Self::Vector
        } else if has("modulation") || has("gate") {
            Self::Modulation
        } else if layer == "final_layer.linear" {
            Self::Output
        } else if inputs.iter().any(|input| layer.ends_with(input)) {
            Self::Input
        } else {
            Self::Hidden
        }
    }

    /// Whether the number of inputs grows with the width.
    pub fn has_wide_input(self) -> bool {
        matches!(self, Self::Hidden | Self::Output | Self::Modulation)
    }
}

/// Whether the parameter at `path` stays f32 where the network computes in bf16.
///
/// Gains of norms, and the layers that are small beside the blocks' and feed all of them: what enters the network, what
/// leaves it, the embedders of timestep and pooled text, modulation and gates, which run once a sample and not once a
/// token. Rounding them too takes the loss four times as far from f32's while a run is smooth (docs/training.md).
pub fn is_f32_parameter(path: &str) -> bool {
    let (layer, name) = path.rsplit_once('.').unwrap_or(("", path));
    let kind = Kind::of(&format!("{layer}.weight"));
    name == "gain"
        || matches!(kind, Kind::Input | Kind::Output | Kind::Modulation)
        || path.starts_with("timestep.")
        || path.contains(".pooled.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_part_and_kind() {
        use Kind::{Hidden, Input, Modulation, Output, Vector};
        use Part::{Backbone, Refiners};
        for (path, part, kind) in [
            ("patchify.linear.weight", Backbone, Input),
            ("patchify.linear.bias", Backbone, Vector),
            ("timestep.linear_in.weight", Backbone, Input),
            ("timestep.linear_out.weight", Backbone, Hidden),
            ("res_block.conv_in.weight", Backbone, Hidden),
            ("blocks.11.self_attention.query.weight", Backbone, Hidden),
            ("blocks.0.self_attention.norm.query.gain", Backbone, Vector),
            ("blocks.0.mlp.linear_in.weight", Backbone, Hidden),
            ("blocks.0.mlp_modulation.linear.weight", Backbone, Modulation),
            ("blocks.0.mlp_modulation.linear.bias", Backbone, Vector),
            ("final_layer.modulation.weight", Backbone, Modulation),
            ("final_layer.linear.weight", Backbone, Output),
            ("encoders.1.projection.weight", Refiners, Input),
            ("encoders.1.pooled.linear_in.weight", Refiners, Input),
            ("encoders.1.pooled.linear_out.weight", Refiners, Hidden),
            ("encoders.0.refiner.blocks.1.mlp.linear_in.weight", Refiners, Hidden),
            (
                "encoders.0.refiner.blocks.1.mlp_gate.linear.weight",
                Refiners,
                Modulation,
            ),
            (
                "collaborative.branches.0.cross_attention.output.weight",
                Refiners,
                Hidden,
            ),
        ] {
            assert_eq!(Role::of(path), Role { part, kind }, "{path}");
        }
    }
    #[test]
    fn what_runs_once_a_token_inside_the_network_may_be_rounded_and_nothing_else() {
        for path in [
            "blocks.0.self_attention.norm.query.gain",
            "blocks.0.mlp_modulation.linear.weight",
            "blocks.0.mlp_modulation.linear.bias",
            "encoders.0.refiner.blocks.0.attention_gate.linear.bias",
            "timestep.linear_out.weight",
            "encoders.1.pooled.linear_out.bias",
            "encoders.1.projection.bias",
            "patchify.linear.weight",
            "final_layer.linear.bias",
            "final_layer.modulation.weight",
        ] {
            assert!(is_f32_parameter(path), "{path}");
        }
        for path in [
            "blocks.0.self_attention.query.weight",
            "blocks.0.mlp.linear_in.bias",
            "encoders.0.refiner.blocks.0.attention.output.weight",
            "collaborative.branches.1.mlp.linear_out.weight",
            "res_block.conv_in.weight",
        ] {
            assert!(!is_f32_parameter(path), "{path}");
        }
    }
}
