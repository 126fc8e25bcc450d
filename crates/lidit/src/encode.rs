//! `lidit encode`: a frozen language model's states of prompts or token ids, into a safetensors file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::Device;
use clap::ValueEnum;
use lidit_encoders::{LayerChoice, Llm, ModelFiles, PromptEncoder, TemplateConfig};
use lidit_train::RunConfig;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use crate::device::DeviceArg;
use crate::fetch;
use crate::outcome::Outcome;

/// Arguments of `lidit encode`.
#[derive(clap::Args)]
pub struct Args {
    /// A folder in the Hugging Face layout, a GGUF file, or a fetched name: smollm2, gemma3.
    #[arg(long)]
    pub model: String,
    /// A text, taken exactly, after the tokenizer's BOS; may be repeated.
    #[arg(long = "prompt", value_name = "TEXT", required_unless_present = "token_ids")]
    pub prompts: Vec<String>,
    /// Token ids, taken exactly, without a BOS; may be repeated.
    #[arg(long, value_name = "ID,ID,..", conflicts_with_all = ["prompts", "config"])]
    pub token_ids: Vec<TokenIds>,
    /// Index into Hugging Face's `hidden_states`: 0 the embedding, -1 the last, after the final norm.
    #[arg(long, default_value_t = -3, allow_hyphen_values = true)]
    pub layer: i32,
    /// A mixture of all layers instead of one.
    #[arg(long, value_enum, conflicts_with = "layer")]
    pub layers: Option<Layers>,
    /// A run's config, whose template (instruction, caption limit) is put around each prompt.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// The file to write: `hidden.0 [tokens, dim]` f32 and `ids.0 [tokens]` i64 for the first prompt, and so on.
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
    /// cpu, cuda or cuda:NUMBER.
    #[arg(long, default_value = "cpu")]
    pub device: DeviceArg,
    /// What the matrix products are computed in.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
}

/// One prompt's token ids.
#[derive(Clone, Debug)]
pub struct TokenIds(Vec<u32>);

/// A mixture of layers.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Layers {
    /// The mean over all layers, each layer-normed without gain.
    Mean,
}

/// What the matrix products are computed in; the states written are f32 either way.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 16-bit brain floats.
    Bf16,
}

/// A prompt's ids and states.
struct Encoded {
    ids: Vec<u32>,
    states: Vec<f32>, // [ids, dim]
    dim: usize,
}

impl Args {
    fn choice(&self) -> LayerChoice {
        match self.layers {
            Some(Layers::Mean) => LayerChoice::Mean,
            None => LayerChoice::Layer(self.layer),
        }
    }
}

/// Encodes every prompt and writes one file.
pub fn run(args: &Args) -> Result<Outcome> {
    let path = fetch::resolve_model(&args.model)?;
    let device = args.device.open(0)?;
    let encoded = if args.prompts.is_empty() {
        encode_ids(args, &path, &device)?
    } else {
        encode_prompts(args, &path, &device)?
    };
    write(&args.out, &encoded)?;
    let tokens: Vec<_> = encoded.iter().map(|prompt| prompt.ids.len()).collect();
    let dim = encoded.first().map_or(0, |prompt| prompt.dim);
    let text = format!(
        "{} prompts, {} tokens of {dim} numbers",
        tokens.len(),
        tokens.iter().sum::<usize>()
    );
    Ok(Outcome::done(
        text,
        json!({ "model": args.model, "tokens": tokens, "dim": dim, "out": args.out }),
    ))
}

fn encode_prompts(args: &Args, path: &Path, device: &Device) -> Result<Vec<Encoded>> {
    let template = match &args.config {
        Some(config) => RunConfig::load(config, &[])?.encoders.template(),
        None => TemplateConfig::bare(),
    };
    let encoder = PromptEncoder::load(path, args.choice(), template, args.precision.into(), device)?;
    let prompts: Vec<_> = args.prompts.iter().map(String::as_str).collect();
    let results = encoder.encode(&prompts)?.into_iter();
    Ok(results
        .map(|prompt| Encoded {
            ids: prompt.ids,
            states: prompt.states,
            dim: prompt.dim,
        })
        .collect())
}

/// Needs no tokenizer in the file.
fn encode_ids(args: &Args, path: &Path, device: &Device) -> Result<Vec<Encoded>> {
    let llm = Llm::load(&ModelFiles::open(path)?, args.choice(), args.precision.into(), device)?;
    let dim = llm.shape().hidden_size;
    let prompts = args.token_ids.iter().map(|TokenIds(ids)| {
        let states = llm.forward(&[ids], None)?.pop().unwrap_or_default();
        Ok(Encoded {
            ids: ids.clone(),
            states,
            dim,
        })
    });
    prompts.collect()
}

fn write(path: &Path, encoded: &[Encoded]) -> Result<()> {
    let mut buffers = Vec::new();
    for (i, prompt) in encoded.iter().enumerate() {
        let tokens = prompt.ids.len();
        let states = prompt.states.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let ids = prompt
            .ids
            .iter()
            .flat_map(|&id| i64::from(id).to_le_bytes())
            .collect::<Vec<u8>>();
        buffers.push((format!("hidden.{i}"), Dtype::F32, vec![tokens, prompt.dim], states));
        buffers.push((format!("ids.{i}"), Dtype::I64, vec![tokens], ids));
    }
    let mut tensors = BTreeMap::new();
    for (name, dtype, shape, bytes) in &buffers {
        tensors.insert(name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?);
    }
    let bytes = safetensors::serialize(tensors, None)?;
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

impl std::str::FromStr for TokenIds {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let ids = text
            .split(',')
            .map(|id| id.trim().parse().with_context(|| format!("`{id}` is not a token id")));
        Ok(Self(ids.collect::<Result<_>>()?))
    }
}

impl From<Precision> for lidit_encoders::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use clap::Parser;
    use safetensors::SafeTensors;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn tiny(more: &[&str], out: &Path) -> Vec<String> {
        let model = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../datasets/fixtures/llm/tiny-gemma3.gguf"
        );
        let fixed = ["encode", "--model", model, "--out", out.to_str().unwrap()];
        fixed.iter().chain(more).map(|&arg| arg.to_owned()).collect()
    }

    #[test]
    fn prompts_and_their_ids_give_the_same_states() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("states.safetensors");
        let hidden = |more: &[&str]| {
            let args = Cli::parse_from(tiny(more, &out)).args;
            let outcome = run(&args).unwrap();
            assert_eq!(outcome.json["dim"], 48);
            let bytes = std::fs::read(&out).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let ids = file.tensor("ids.0").unwrap();
            let ids = ids
                .data()
                .chunks(8)
                .map(|b| i64::from_le_bytes(b.try_into().unwrap()).to_string());
            let ids = ids.collect::<Vec<_>>();
            let hidden = file.tensor("hidden.0").unwrap();
            assert_eq!(hidden.shape(), [ids.len(), 48]);
            (ids.join(","), hidden.data().to_vec())
        };
        let (ids, states) = hidden(&["--prompt", "ab", "--layer", "-2"]);
        assert!(ids.starts_with("2,"), "{ids} starts with the BOS");
        assert_eq!(hidden(&["--token-ids", &ids, "--layer", "-2"]).1, states);
        assert_ne!(hidden(&["--token-ids", &ids]).1, states);
    }

    #[test]
    fn wrong_usage_is_refused() {
        let out = Path::new("x.safetensors");
        for wrong in [&[][..], &["--token-ids", "1,x"], &["--token-ids", "1", "--prompt", "a"]] {
            assert!(Cli::try_parse_from(tiny(wrong, out)).is_err(), "{wrong:?}");
        }
    }
}
