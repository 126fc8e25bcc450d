//! A frozen decoder, up to the layer whose states are asked for.

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::decoder_config::{DecoderConfig, LayerAttention};
use crate::decoder_layer::{Attention, DecoderLayer, GatedMlp, Linear, Positions, RmsNorm};
use crate::gguf::{GgufFile, QuantizedTable};
use crate::rope::unpermute;
use crate::{EncoderError, LlmArchitecture, Precision};

/// A decoder without its head. Layers after the one asked for are neither loaded nor computed.
pub struct Llm {
    config: DecoderConfig,
    embedding: QuantizedTable,
    layers: Vec<DecoderLayer>,
    final_norm: Option<RmsNorm>,
    device: Device,
}

impl Llm {
    /// Reads the weights from a GGUF file, one tensor at a time.
    ///
    /// `layer` is Hugging Face's index into `hidden_states`: 0 the embedding, `k` the output of block `k`, the
    /// last one after the final norm; negative ones count from the end.
    pub fn from_gguf(file: &GgufFile, layer: i32, precision: Precision, device: &Device) -> Result<Self, EncoderError> {
        let config = DecoderConfig::from_gguf(file)?;
        let depth = config.resolve_layer(layer)?;
        let weights = GgufWeights {
            file,
            config: &config,
            precision,
            device,
        };
        let embedding = file.table("token_embd.weight", [config.vocab_size, config.hidden_size])?;
        let layers = (0..depth).map(|index| weights.layer(index)).collect::<Result<_, _>>()?;
        let final_norm = if depth == config.num_layers() {
            Some(weights.norm("output_norm.weight", config.hidden_size)?)
        } else {
            None
        };
        file.ignore(|name| name == "output.weight" || name == "output_norm.weight" || is_block_from(depth, name));
        if let Some(tensor) = file.unread_tensor() {
            return Err(EncoderError::UnknownTensor {
                path: file.path().to_owned(),
                tensor,
                architecture: config.architecture.name().into(),
            });
        }
        Ok(Self {
            config,
            embedding,
            layers,
            final_norm,
            device: device.clone(),
        })
    }

    /// The shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Number of layers that are computed.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// The states of a batch of prompts, each `[tokens, hidden_size]`, row-major, on the host.
    ///
    /// Prompts are padded on the right to the longest; the padding is cut off again.
    pub fn forward(&self, prompts: &[&[u32]]) -> Result<Vec<Vec<f32>>, EncoderError> {
        let len = prompts.iter().map(|ids| ids.len()).max().unwrap_or(0);
        if len == 0 {
            return Ok(vec![Vec::new(); prompts.len()]);
        }
        let positions = self.positions(len);
        let mut x = self.embed(prompts, len)?; // [B * T, D]
        for (layer, &kind) in self.layers.iter().zip(&positions.kinds) {
            x = layer.forward(x, &self.config, &positions.distinct[kind]);
        }
        if let Some(norm) = &self.final_norm {
            x = norm.forward(x);
        }
        let states = x
            .try_into_data()
            .map_err(|e| EncoderError::Device { reason: e.to_string() })?;
        let states = states
            .try_into_vec::<f32>()
            .map_err(|e| EncoderError::Device { reason: e.to_string() })?;
        let dim = self.config.hidden_size;
        let rows = states.chunks(len * dim).zip(prompts);
        Ok(rows.map(|(rows, ids)| rows[..ids.len() * dim].to_vec()).collect())
    }

    fn embed(&self, prompts: &[&[u32]], len: usize) -> Result<Tensor<2>, EncoderError> {
        let dim = self.config.hidden_size;
        let mut rows = Vec::with_capacity(prompts.len() * len * dim);
        for ids in prompts {
            rows.extend(self.embedding.gather(ids)?);
            rows.resize(rows.len().next_multiple_of(len * dim), 0.0);
        }
        let data = TensorData::new(rows, [prompts.len() * len, dim]);
        let x = Tensor::from_data(data, (&self.device, DType::F32));
        Ok(x * self.config.embedding_scale)
    }

    fn positions(&self, len: usize) -> LayerPositions {
        let mut distinct: Vec<LayerAttention> = Vec::new();
        let kinds = self.config.layers.iter().map(|layer| {
            let known = distinct.iter().position(|known| known == layer);
            known.unwrap_or_else(|| {
                distinct.push(*layer);
                distinct.len() - 1
            })
        });
        let kinds = kinds.collect();
        let positions = |layer: &LayerAttention| Positions::new(*layer, &self.config, len, &self.device);
        LayerPositions {
            kinds,
            distinct: distinct.iter().map(positions).collect(),
        }
    }
}

/// Tables and masks of a batch: most layers share theirs.
struct LayerPositions {
    /// For each layer an index into `distinct`.
    kinds: Vec<usize>,
    distinct: Vec<Positions>,
}

/// Reads layers by the names that GGUF gives their tensors.
struct GgufWeights<'a> {
    file: &'a GgufFile,
    config: &'a DecoderConfig,
    precision: Precision,
    device: &'a Device,
}

impl GgufWeights<'_> {
    fn layer(&self, index: usize) -> Result<DecoderLayer, EncoderError> {
        let config = self.config;
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let norm = |part| self.norm(&name(part), config.hidden_size);
        let output_norm = |part| config.output_norms.then(|| norm(part)).transpose();
        let linear = |part, num_out, num_in| self.linear(&name(part), [num_out, num_in]);
        Ok(DecoderLayer {
            attention_norm: norm("attn_norm")?,
            attention: self.attention(name)?,
            attention_output_norm: output_norm("post_attention_norm")?,
            mlp_norm: norm("ffn_norm")?,
            mlp: GatedMlp {
                gate: linear("ffn_gate", config.mlp_size, config.hidden_size)?,
                up: linear("ffn_up", config.mlp_size, config.hidden_size)?,
                down: linear("ffn_down", config.hidden_size, config.mlp_size)?,
                activation: config.activation,
            },
            mlp_output_norm: output_norm("post_ffw_norm")?,
        })
    }

    fn attention(&self, name: impl Fn(&str) -> String) -> Result<Attention, EncoderError> {
        let config = self.config;
        let query_dim = config.num_heads * config.head_dim;
        let kv_dim = config.num_kv_heads * config.head_dim;
        let rotated = |part, num_heads| {
            let shape = [num_heads * config.head_dim, config.hidden_size];
            let weight = self.file.tensor(&name(part), &shape)?;
            let weight = match config.architecture {
                LlmArchitecture::Llama => unpermute(&weight, num_heads, config.head_dim),
                LlmArchitecture::Gemma3 => weight,
            };
            Ok(Linear::new(weight, shape, self.precision, self.device))
        };
        let qk_norm = if config.qk_norm {
            let norm = |part| self.norm(&name(part), config.head_dim);
            Some([norm("attn_q_norm")?, norm("attn_k_norm")?])
        } else {
            None
        };
        Ok(Attention {
            query: rotated("attn_q", config.num_heads)?,
            key: rotated("attn_k", config.num_kv_heads)?,
            value: self.linear(&name("attn_v"), [kv_dim, config.hidden_size])?,
            output: self.linear(&name("attn_output"), [config.hidden_size, query_dim])?,
            qk_norm,
        })
    }

    fn linear(&self, name: &str, shape: [usize; 2]) -> Result<Linear, EncoderError> {
        let weight = self.file.tensor(name, &shape)?;
        Ok(Linear::new(weight, shape, self.precision, self.device))
    }

    /// GGUF stores Gemma's gains as `1 + w`, so every family's multiply as they are.
    fn norm(&self, name: &str, width: usize) -> Result<RmsNorm, EncoderError> {
        let gain = self.file.tensor(name, &[width])?;
        Ok(RmsNorm::new(gain, self.config.norm_eps, self.device))
    }
}

/// Whether `name` is `blk.I.*` with `I >= first`.
fn is_block_from(first: usize, name: &str) -> bool {
    let index = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    index
        .and_then(|(index, _)| index.parse().ok())
        .is_some_and(|index: usize| index >= first)
}
