//! A frozen language model, up to the layer whose states are asked for.

use burn::tensor::{DType, Device, Tensor, TensorData};
use lidit_kernels::{AttentionMask, AttentionScores, Reach};

use crate::embedding::EmbeddingTable;
use crate::layer::{Batch, KeysValues, Layer, Positions, RmsNorm};
use crate::model_files::ModelFiles;
use crate::relative_bias::RelativeBias;
use crate::rope::Rope;
use crate::shape::{LayerAttention, LlmShape, Position};
use crate::weights::Weights;
use crate::{EncoderError, LayerChoice, Precision};

/// Added to the variance where the layers are averaged.
const MEAN_EPS: f32 = 1e-5;

/// A language model without its head. Layers after the one asked for are neither loaded nor computed.
pub struct Llm {
    shape: LlmShape,
    embedding: EmbeddingTable,
    layers: Vec<Layer>,
    /// For each layer the table of its biases by distance; empty where positions rotate.
    relative_biases: Vec<RelativeBias>,
    final_norm: Option<RmsNorm>,
    is_mean: bool,
    device: Device,
}

/// What prompts begin with: tokens, and what every layer made of them.
pub struct Beginning {
    /// The tokens.
    pub ids: Vec<u32>,
    /// `[ids.len(), hidden_size]`, row-major, on the host.
    pub states: Vec<f32>,
    layers: Vec<KeysValues>,
}

/// Leading tokens of a [`Beginning`] that all prompts of a batch share.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    /// Where they come from.
    pub beginning: &'a Beginning,
    /// How many.
    pub count: usize,
}

impl Llm {
    /// Reads the weights, one tensor at a time.
    pub fn load(
        files: &ModelFiles,
        choice: LayerChoice,
        precision: Precision,
        device: &Device,
    ) -> Result<Self, EncoderError> {
        let shape = files.shape()?;
        let depth = choice.depth(&shape)?;
        let weights = Weights::new(files, &shape, precision, device);
        let embedding = weights.embedding()?;
        let layers = (0..depth).map(|index| weights.layer(index)).collect::<Result<_, _>>()?;
        let relative_biases = relative_biases(&weights, &shape, depth)?;
        let final_norm = if depth == shape.num_layers() {
            Some(weights.final_norm()?)
        } else {
            None
        };
        weights.refuse_unknown(depth)?;
        Ok(Self {
            embedding,
            layers,
            relative_biases,
            final_norm,
            is_mean: choice == LayerChoice::Mean,
            device: device.clone(),
            shape,
        })
    }

    /// The shape.
    pub fn shape(&self) -> &LlmShape {
        &self.shape
    }

    /// Number of layers that are computed.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// The states of a batch of prompts, each `[tokens, hidden_size]`, row-major, on the host. With `shared`, `prompts`
    /// are what follows the shared tokens, and so are the states.
    ///
    /// Prompts are padded on the right to the longest; the padding is cut off again.
    pub fn forward(&self, prompts: &[&[u32]], shared: Option<Shared>) -> Result<Vec<Vec<f32>>, EncoderError> {
        let len = prompts.iter().map(|ids| ids.len()).max().unwrap_or(0);
        if len == 0 {
            return Ok(vec![Vec::new(); prompts.len()]);
        }
        let (states, _) = self.run(prompts, len, shared)?;
        let dim = self.shape.hidden_size;
        let rows = states.chunks(len * dim).zip(prompts);
        Ok(rows.map(|(rows, ids)| rows[..ids.len() * dim].to_vec()).collect())
    }

    /// Computes once what prompts begin with.
    pub fn begin(&self, ids: &[u32]) -> Result<Beginning, EncoderError> {
        let (states, layers) = if ids.is_empty() {
            Default::default()
        } else {
            self.run(&[ids], ids.len(), None)?
        };
        Ok(Beginning {
            ids: ids.to_vec(),
            states,
            layers,
        })
    }

    /// `[B * T, D]` on the host, and the first prompt's keys and values of every layer.
    fn run(
        &self,
        prompts: &[&[u32]],
        len: usize,
        shared: Option<Shared>,
    ) -> Result<(Vec<f32>, Vec<KeysValues>), EncoderError> {
        let kinds = self.kinds(prompts, len, shared);
        let mut x = self.embed(prompts, len)?; // [B * T, D]
        let mut sum: Option<Tensor<2>> = None;
        let mut keys_values = Vec::with_capacity(self.depth());
        for (index, layer) in self.layers.iter().enumerate() {
            let before = shared.filter(|shared| shared.count > 0);
            let before = before.map(|shared| shared.beginning.layers[index].first(shared.count));
            let batch = Batch {
                size: prompts.len(),
                shape: &self.shape,
                positions: kinds.of(index),
            };
            let (y, own) = layer.forward(x, batch, before);
            keys_values.push(own);
            x = y;
            if self.is_mean && index + 1 < self.shape.num_layers() {
                sum = Some(add(sum, layer_norm(x.clone())));
            }
        }
        if let Some(norm) = &self.final_norm {
            x = norm.forward(x);
        }
        if self.is_mean {
            x = add(sum, layer_norm(x)) / self.depth() as f32;
        }
        let wrong = |e: String| EncoderError::Device { reason: e };
        let states = x.try_into_data().map_err(|e| wrong(e.to_string()))?;
        let states = states.try_into_vec::<f32>().map_err(|e| wrong(e.to_string()))?;
        Ok((states, keys_values))
    }

    fn embed(&self, prompts: &[&[u32]], len: usize) -> Result<Tensor<2>, EncoderError> {
        let dim = self.shape.hidden_size;
        let mut rows = Vec::with_capacity(prompts.len() * len * dim);
        for (index, ids) in prompts.iter().enumerate() {
            rows.extend(self.embedding.gather(ids)?);
            rows.resize((index + 1) * len * dim, 0.0);
        }
        let data = TensorData::new(rows, [prompts.len() * len, dim]);
        let x = Tensor::from_data(data, (&self.device, DType::F32));
        Ok(x * self.shape.embedding_scale)
    }

    /// What the layers' attentions need to know of a batch, once for each kind of layer.
    fn kinds(&self, prompts: &[&[u32]], len: usize, shared: Option<Shared>) -> Kinds {
        let num_shared = shared.map_or(0, |shared| shared.count);
        let mut distinct: Vec<(&LayerAttention, Option<&RelativeBias>)> = Vec::new();
        let of_layer = (0..self.depth()).map(|index| {
            let bias = self.relative_biases.get(index);
            let kind = (&self.shape.layers[index], bias);
            let same = |known: &(&LayerAttention, Option<&RelativeBias>)| *known == kind;
            distinct.iter().position(same).unwrap_or_else(|| {
                distinct.push(kind);
                distinct.len() - 1
            })
        });
        let of_layer = of_layer.collect();
        let positions = |(layer, bias): &(&LayerAttention, Option<&RelativeBias>)| Positions {
            rope: (!layer.frequencies.is_empty()).then(|| Rope::new(&layer.frequencies, num_shared, len, &self.device)),
            scores: AttentionScores {
                scale: self.shape.score_scale,
                softcap: self.shape.score_cap,
                bias: bias.map(|bias| bias.scores(len, &self.device)),
            },
            mask: AttentionMask::new(
                Reach {
                    causal: self.shape.is_causal(),
                    window: layer.window,
                },
                prompts.iter().map(|ids| ids.len()).collect(),
                vec![num_shared; prompts.len()],
            ),
        };
        Kinds {
            of_layer,
            positions: distinct.iter().map(positions).collect(),
        }
    }
}

/// The kinds of layers in a batch: most share theirs.
struct Kinds {
    /// For each layer an index into `positions`.
    of_layer: Vec<usize>,
    positions: Vec<Positions>,
}

impl Kinds {
    fn of(&self, layer: usize) -> &Positions {
        &self.positions[self.of_layer[layer]]
    }
}

/// The first layer's table serves every layer that has none of its own.
fn relative_biases(weights: &Weights, shape: &LlmShape, depth: usize) -> Result<Vec<RelativeBias>, EncoderError> {
    let Position::Relative {
        num_buckets,
        max_distance,
    } = shape.position
    else {
        return Ok(Vec::new());
    };
    let mut biases: Vec<RelativeBias> = Vec::with_capacity(depth);
    for index in 0..depth {
        let own = weights.relative_bias(index)?;
        let own = own.map(|table| RelativeBias::new(table, num_buckets, max_distance));
        biases.extend(own.or_else(|| biases.first().cloned()));
    }
    Ok(biases)
}

/// `(x - mean) / sqrt(variance + eps)` over the last axis.
fn layer_norm(x: Tensor<2>) -> Tensor<2> {
    let centred = x.clone() - x.mean_dim(1);
    let scale = (centred.clone().square().mean_dim(1) + MEAN_EPS).sqrt();
    centred / scale
}

fn add(sum: Option<Tensor<2>>, term: Tensor<2>) -> Tensor<2> {
    match sum {
        Some(sum) => sum + term,
        None => term,
    }
}
