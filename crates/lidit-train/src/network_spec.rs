//! What weights mean.

use anyhow::{Context, Result};
use lidit_model::{Conditioning, ModelConfig, Objective, Parametrization};
use serde_json::{Value, json};

use crate::config::RunConfig;
use crate::difference::Difference;
use crate::features::EncoderIdentity;
use crate::layout::Entry;

/// A network without its weights: everything without which their numbers mean nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkSpec {
    /// Its shape and the paper's switches.
    pub model: ModelConfig,
    /// What it knows of the encoders' states.
    pub conditioning: Conditioning,
    /// The frozen encoders that it was trained with.
    pub encoders: Vec<EncoderIdentity>,
    /// What it predicts.
    pub objective: Objective,
    /// What it draws in: the fingerprint of its [`LatentSpace`](crate::LatentSpace).
    pub vae: String,
}

impl NetworkSpec {
    /// The network of a run with the parameters `layout`, and encoders and a VAE of these fingerprints.
    pub(crate) fn of(config: &RunConfig, layout: &[Entry], fingerprints: &[String], vae: &str) -> Result<Self> {
        let encoders = &config.encoders;
        let identities = encoders.llm.iter().zip(fingerprints).enumerate();
        let identities = identities.map(|(i, (llm, fingerprint))| {
            let projection = format!("encoders.{i}.projection.weight");
            let projection = layout.iter().find(|entry| entry.name == projection);
            let projection =
                projection.with_context(|| format!("encoders.llm.{i} has no parameters in the network"))?;
            Ok(EncoderIdentity {
                llm: llm.clone(),
                precision: encoders.precision,
                template: encoders.template(),
                dim: projection.shape[0],
                fingerprint: fingerprint.clone(),
            })
        });
        let identities: Vec<EncoderIdentity> = identities.collect::<Result<_>>()?;
        Ok(Self {
            model: config.model.clone(),
            conditioning: Conditioning {
                context_dims: identities.iter().map(|encoder| encoder.dim).collect(),
                input_norm: encoders.input_norm,
                pooling: encoders.pooling,
            },
            encoders: identities,
            objective: config.objective.clone(),
            vae: vae.to_owned(),
        })
    }

    /// Where weights of `self` and of `here` mean different things, with the parameters that this concerns.
    pub(crate) fn differences(&self, here: &Self) -> Result<Vec<Mismatch>> {
        let num_encoders = [self, here].map(|spec| spec.encoders.len());
        let mut found = Vec::new();
        if num_encoders[0] != num_encoders[1] {
            let text = format!(
                "encoders.llm has {} entries there and {} here",
                num_encoders[0], num_encoders[1]
            );
            let least = num_encoders[0].min(num_encoders[1]);
            found.push(Mismatch::new(text, Concerns::EncodersFrom(least)));
        }
        for (i, (theirs, ours)) in self.encoders.iter().zip(&here.encoders).enumerate() {
            if theirs.fingerprint != ours.fingerprint {
                found.push(Mismatch::new(encoder_text(i, theirs, ours), Concerns::Encoder(i)));
            }
        }
        found.extend(Difference::all(&self.rest()?, &here.rest()?).iter().map(Mismatch::of));
        Ok(found)
    }

    /// All but the encoders, whose fingerprints stand for them, and the parametrization, which is about first weights
    /// and rates.
    fn rest(&self) -> Result<Value> {
        let objective = serde_json::to_value(&self.objective)?;
        let model = ModelConfig {
            parametrization: Parametrization::Standard,
            ..self.model.clone()
        };
        Ok(json!({
            "model": model,
            "encoders": { "input_norm": self.conditioning.input_norm, "pooling": self.conditioning.pooling },
            "objective": { "kind": objective["kind"] },
            "vae": self.vae,
        }))
    }
}

/// Something in which two networks differ.
pub(crate) struct Mismatch {
    /// The key with both values.
    pub text: String,
    concerns: Concerns,
}

/// Parameters whose numbers mean something else when a key differs.
enum Concerns {
    All,
    /// Those that read one encoder.
    Encoder(usize),
    /// Those of all encoders from this one on.
    EncodersFrom(usize),
    /// Backbone blocks from this one on.
    BlocksFrom(usize),
    /// Blocks of each token refiner from this one on.
    RefinerBlocksFrom(usize),
    /// Those below any of these paths.
    Below(&'static [&'static str]),
    /// Those whose path has a part that ends so.
    Parts(&'static str),
}

impl Mismatch {
    fn new(text: String, concerns: Concerns) -> Self {
        Self { text, concerns }
    }

    fn of(difference: &Difference) -> Self {
        let sides = [&difference.there, &difference.here];
        let least = sides.iter().filter_map(|side| side.as_u64()).min().unwrap_or(0) as usize;
        let concerns = match difference.key.as_str() {
            "model.depth" => Concerns::BlocksFrom(least),
            "model.num_heads" => Concerns::Parts("attention"),
            "model.mlp_ratio" => Concerns::Parts("mlp"),
            "model.patch_size" | "model.in_channels" | "vae" => Concerns::Below(&["patchify", "final_layer"]),
            "model.fusion" => Concerns::Below(&["collaborative"]),
            "model.refiner.blocks" => Concerns::RefinerBlocksFrom(least),
            "model.refiner.attention" => Concerns::Parts("refiner"),
            "model.refiner.gate" => Concerns::Parts("_gate"),
            "encoders.input_norm" => Concerns::Below(&["encoders"]),
            "encoders.pooling" => Concerns::Parts("pooled"),
            "objective.kind" => Concerns::Below(&["final_layer"]),
            _ => Concerns::All,
        };
        Self::new(difference.to_string(), concerns)
    }

    /// Whether the parameter at `path` means something else on the two sides.
    pub fn concerns(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split('.').collect();
        let number = |at: usize| parts.get(at).and_then(|part| part.parse::<usize>().ok());
        let reaches = |at: usize, least: usize| number(at).is_some_and(|i| i >= least);
        match &self.concerns {
            Concerns::All => true,
            Concerns::Encoder(i) => parts[0] == "encoders" && number(1) == Some(*i),
            Concerns::EncodersFrom(least) => {
                parts[0] == "encoders" && reaches(1, *least) || parts[0] == "collaborative" && reaches(2, *least)
            }
            Concerns::BlocksFrom(least) => parts[0] == "blocks" && reaches(1, *least),
            Concerns::RefinerBlocksFrom(least) => parts[0] == "encoders" && reaches(4, *least),
            Concerns::Below(prefixes) => prefixes.contains(&parts[0]),
            Concerns::Parts(end) => parts.iter().any(|part| part.ends_with(end)),
        }
    }
}

/// Both fingerprints, and the first thing that tells a reader why they differ.
fn encoder_text(i: usize, theirs: &EncoderIdentity, ours: &EncoderIdentity) -> String {
    let readable = |encoder: &EncoderIdentity| {
        json!({
            "template": encoder.template,
            "precision": encoder.precision,
            "layer": encoder.llm.layer,
            "layers": encoder.llm.layers,
        })
    };
    let first = Difference::all(&readable(theirs), &readable(ours)).into_iter().next();
    let why = match first {
        Some(difference) => format!("{difference}"),
        None => format!("the model is {} there and {} here", theirs.llm.model, ours.llm.model),
    };
    format!(
        "encoders.llm.{i} has fingerprint {} there and {} here ({why})",
        theirs.fingerprint, ours.fingerprint
    )
}
