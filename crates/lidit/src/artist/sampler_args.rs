//! Changes to a run's own sampler.

use anyhow::Result;
use lidit_model::{Sampler, SamplerKind};
use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};

/// What replaces the run's own `sample.sampler`.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplerArgs {
    /// ddpm, ddim, `dpm_solver_pp_2m` or euler; must suit the run's objective [default: the run's].
    #[arg(long, value_name = "KIND", value_parser = parse_kind)]
    #[serde(rename = "kind", skip_serializing_if = "Option::is_none")]
    pub sampler: Option<SamplerKind>,
    /// Steps from noise to picture [default: the run's].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Guidance scale; 1 is none [default: the run's].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f64>,
    /// Times, 0 (clean) to 1 (noise), between which guidance is used [default: the run's].
    #[arg(long, value_name = "FROM,TO", value_parser = parse_interval)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_interval: Option<[f64; 2]>,
    /// How far guided predictions are scaled back to the contrast of unguided ones, 0 to 1 [default: the run's].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_rescale: Option<f64>,
}

impl SamplerArgs {
    /// Puts them in the place of the run's own.
    pub fn apply(&self, sampler: &mut Sampler) {
        sampler.kind = self.sampler.unwrap_or(sampler.kind);
        sampler.steps = self.steps.unwrap_or(sampler.steps);
        sampler.guidance = self.guidance.unwrap_or(sampler.guidance);
        sampler.guidance_interval = self.guidance_interval.unwrap_or(sampler.guidance_interval);
        sampler.guidance_rescale = self.guidance_rescale.unwrap_or(sampler.guidance_rescale);
    }
}

fn parse_kind(text: &str) -> Result<SamplerKind, serde::de::value::Error> {
    SamplerKind::deserialize(text.into_deserializer())
}

fn parse_interval(text: &str) -> Result<[f64; 2], String> {
    let parsed = text
        .split_once(',')
        .and_then(|(from, to)| Some([from.trim().parse().ok()?, to.trim().parse().ok()?]));
    parsed.ok_or_else(|| "two numbers are needed, like 0.2,0.8".to_owned())
}
