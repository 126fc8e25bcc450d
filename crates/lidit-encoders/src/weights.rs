//! Layers from files: reads tensors by name, one at a time, and knows which were never asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;

use burn::tensor::Device;

use crate::embedding::EmbeddingTable;
use crate::layer::{Attention, Layer, Linear, Mlp, RmsNorm};
use crate::model_files::ModelFiles;
use crate::rope::unpermuted_row;
use crate::shape::Position;
use crate::stored::Stored;
use crate::tensor_names::{Naming, Part};
use crate::{EncoderError, LlmArchitecture, LlmShape, Precision};

/// Reads the weights of one model onto a device.
pub struct Weights<'a> {
    files: &'a ModelFiles,
    shape: &'a LlmShape,
    naming: Naming,
    precision: Precision,
    device: &'a Device,
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Weights<'a> {
    /// Nothing is read yet.
    pub fn new(files: &'a ModelFiles, shape: &'a LlmShape, precision: Precision, device: &'a Device) -> Self {
        Self {
            files,
            shape,
            naming: files.naming(shape),
            precision,
            device,
            read: RefCell::default(),
        }
    }

    /// The embedding, which stays on the host.
    pub fn embedding(&self) -> Result<EmbeddingTable, EncoderError> {
        let name = self.naming.embedding(self.shape);
        let table = self
            .files
            .table(&name, [self.shape.vocab_size, self.shape.hidden_size])?;
        self.read.borrow_mut().insert(name);
        Ok(table)
    }

    /// The norm after the last layer.
    pub fn final_norm(&self) -> Result<RmsNorm, EncoderError> {
        self.gain(self.naming.final_norm(self.shape), self.shape.hidden_size)
    }

    /// One layer.
    pub fn layer(&self, index: usize) -> Result<Layer, EncoderError> {
        let shape = self.shape;
        let norm = |part| self.norm(index, part, shape.hidden_size);
        let output_norm = |part| shape.output_norms.then(|| norm(part)).transpose();
        let linear = |part, num_out, num_in| self.linear(index, part, [num_out, num_in], shape.biases.mlp);
        Ok(Layer {
            attention_norm: norm(Part::AttentionNorm)?,
            attention: self.attention(index)?,
            attention_output_norm: output_norm(Part::AttentionOutputNorm)?,
            mlp_norm: norm(Part::MlpNorm)?,
            mlp: Mlp {
                gate: if shape.gated {
                    Some(linear(Part::Gate, shape.mlp_size, shape.hidden_size)?)
                } else {
                    None
                },
                up: linear(Part::Up, shape.mlp_size, shape.hidden_size)?,
                down: linear(Part::Down, shape.hidden_size, shape.mlp_size)?,
                activation: shape.activation,
            },
            mlp_output_norm: output_norm(Part::MlpOutputNorm)?,
        })
    }

    /// A layer's own table of biases by distance, `[num_buckets, num_heads]`, where positions are relative.
    pub fn relative_bias(&self, index: usize) -> Result<Option<Vec<f32>>, EncoderError> {
        let Position::Relative { num_buckets, .. } = self.shape.position else {
            return Ok(None);
        };
        let name = self.naming.layer_part(self.shape, index, Part::RelativeBias) + ".weight";
        // The first layer's serves all that have none.
        if index > 0 && !self.files.has(&name) {
            return Ok(None);
        }
        let table = self.tensor(name, &[num_buckets, self.shape.num_heads])?;
        Ok(Some(table.into_f32()))
    }

    /// Refuses files with tensors that were neither read nor are known to be needless for the first `depth` layers:
    /// leaving them out would give wrong states in silence.
    pub fn refuse_unknown(&self, depth: usize) -> Result<(), EncoderError> {
        let read = self.read.borrow();
        let unknown = self
            .files
            .names()
            .into_iter()
            .find(|name| !read.contains(name) && !self.naming.is_unneeded(self.shape, depth, name));
        match unknown {
            None => Ok(()),
            Some(tensor) => Err(EncoderError::UnknownTensor {
                path: self.files.file_of(&tensor).to_owned(),
                tensor,
                architecture: self.shape.architecture.name().into(),
            }),
        }
    }

    fn attention(&self, index: usize) -> Result<Attention, EncoderError> {
        let shape = self.shape;
        let head_norm = |part| self.norm(index, part, shape.head_dim);
        let query_dim = shape.num_heads * shape.head_dim;
        let kv_dim = shape.num_kv_heads * shape.head_dim;
        let projection =
            |part, num_out| self.linear(index, part, [num_out, shape.hidden_size], shape.biases.query_key_value);
        Ok(Attention {
            query: projection(Part::Query, query_dim)?,
            key: projection(Part::Key, kv_dim)?,
            value: projection(Part::Value, kv_dim)?,
            output: self.linear(
                index,
                Part::AttentionOutput,
                [shape.hidden_size, query_dim],
                shape.biases.attention_output,
            )?,
            qk_norm: if shape.qk_norm {
                Some([head_norm(Part::QueryNorm)?, head_norm(Part::KeyNorm)?])
            } else {
                None
            },
        })
    }

    fn linear(&self, layer: usize, part: Part, shape: [usize; 2], has_bias: bool) -> Result<Linear, EncoderError> {
        let name = self.naming.layer_part(self.shape, layer, part);
        let weight = self.rotary_order(part, self.tensor(format!("{name}.weight"), &shape)?);
        let bias = if has_bias {
            let bias = self.tensor(format!("{name}.bias"), &shape[..1])?;
            Some(self.rotary_order(part, bias).into_f32())
        } else {
            None
        };
        Ok(Linear::new(weight, bias, shape, self.precision, self.device))
    }

    /// GGUF's llamas store the rows of queries and keys in another order.
    fn rotary_order(&self, part: Part, tensor: Stored) -> Stored {
        let num_heads = match part {
            Part::Query => self.shape.num_heads,
            Part::Key => self.shape.num_kv_heads,
            _ => return tensor,
        };
        if self.naming != Naming::Gguf || self.shape.architecture != LlmArchitecture::Llama {
            return tensor;
        }
        let head_dim = self.shape.head_dim;
        let columns = tensor.len() / (num_heads * head_dim);
        tensor.reorder_rows(columns, |row| unpermuted_row(row, head_dim))
    }

    fn norm(&self, layer: usize, part: Part, width: usize) -> Result<RmsNorm, EncoderError> {
        self.gain(self.naming.layer_part(self.shape, layer, part) + ".weight", width)
    }

    /// GGUF stores Gemma's gains as `1 + w`, folders as `w`.
    fn gain(&self, name: String, width: usize) -> Result<RmsNorm, EncoderError> {
        let mut gain = self.tensor(name, &[width])?.into_f32();
        if self.naming != Naming::Gguf && self.shape.architecture.gains_are_offsets() {
            for w in &mut gain {
                *w += 1.0;
            }
        }
        Ok(RmsNorm::new(gain, self.shape.norm_eps, self.device))
    }

    fn tensor(&self, name: String, shape: &[usize]) -> Result<Stored, EncoderError> {
        let tensor = self.files.tensor(&name, shape)?;
        self.read.borrow_mut().insert(name);
        Ok(tensor)
    }
}
