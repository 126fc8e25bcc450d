//! A training step of an exported network that others can repeat.

use std::borrow::Cow;
use std::path::Path;

use anyhow::Result;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use lidit_data::{SampleRng, Stream};
use lidit_model::{Conditioning, LiDit, LossBatch, Objective, PromptBatch, PromptRow};
use safetensors::tensor::{Dtype, View};

use crate::config::Precision;
use crate::digest::write_tensors;
use crate::layout::{FlatGradients, FlatLayout};
use crate::network_spec::NetworkSpec;
use crate::optimizer::{host, upload};
use crate::pytorch_layout::ForPyTorch;
use crate::saved_weights::SavedWeights;

/// Image tokens of a picture: rows and columns.
const GRID: [usize; 2] = [4, 6];

/// Tokens of each picture's prompt, and where its caption begins.
const PROMPTS: [(usize, usize); 3] = [(7, 2), (4, 2), (2, 2)];

/// Of each picture in the loss; the second is as one that could not be read.
const WEIGHTS: [f32; 3] = [1.0, 0.0, 1.0];

/// The inputs of a training step.
pub(crate) struct Example {
    /// Pictures, noise and draws.
    pub batch: LossBatch,
    /// One an encoder.
    pub prompts: Vec<PromptBatch>,
}

/// What a network and its objective say to an example.
pub(crate) struct Answers {
    /// `[B, C, H, W]`: the noisy input.
    pub x: Tensor<4>,
    /// `[B]`, 0..1000.
    pub timesteps: Tensor<1>,
    /// `[B, C, H, W]`.
    pub prediction: Tensor<4>,
    /// One element: the weighted sum over pictures.
    pub loss: Tensor<1>,
    /// Of all parameters, in flat space.
    pub gradients: Tensor<1>,
}

impl Example {
    /// Pictures, noise and prompts of random numbers on `device`, which has autodiff: the same on every machine.
    pub fn random(network: &NetworkSpec, device: &Device) -> Self {
        let [rows, columns] = GRID.map(|side| side * network.model.patch_size);
        let shape = [PROMPTS.len(), network.model.in_channels, rows, columns];
        let picture = |stream| {
            Tensor::from_data(
                TensorData::new(normal(stream, 0, shape.iter().product()), shape),
                device,
            )
        };
        let mut times = SampleRng::new(0, 0, 0, Stream::Timestep);
        Self {
            batch: LossBatch {
                images: picture(Stream::Generation),
                noise: picture(Stream::Noise),
                draws: PROMPTS.map(|_| [times.uniform(), times.uniform()]).to_vec(),
                weights: WEIGHTS.to_vec(),
                image_tokens: GRID.iter().product(),
            },
            prompts: random_prompts(&network.conditioning, device),
        }
    }

    /// One training step's forward and backward.
    pub fn answers(&self, model: &LiDit, layout: &FlatLayout, objective: &Objective) -> Answers {
        let noised = objective.noise(&self.batch);
        let prediction = model.forward(noised.input.clone(), noised.timesteps.clone(), &self.prompts);
        let loss = objective.loss_of(&noised, prediction.clone(), &self.batch.weights).sum;
        let mut gradients = FlatGradients::new(layout, model);
        gradients.take(&mut loss.backward());
        Answers {
            x: noised.input.inner(),
            timesteps: noised.timesteps.inner(),
            prediction: prediction.inner(),
            gradients: gradients.into_flat(&self.batch.images.device().inner()),
            loss: loss.inner(),
        }
    }

    /// Writes inputs and answers for the weights `saved`; `docs/export.md` names the tensors.
    pub fn write(&self, path: &Path, saved: &SavedWeights) -> Result<()> {
        let network = &saved.network;
        let device = self.batch.images.device();
        let model = LiDit::zeros(&network.model, &network.conditioning, &device);
        let layout = FlatLayout::of(&model);
        let mut weights = Vec::with_capacity(layout.len());
        for entry in layout.entries() {
            weights.extend_from_slice(saved.parameter(entry)?);
        }
        let weights = upload(&weights, &device.clone().inner());
        let model = layout.load(&weights, Precision::F32, model);
        let answers = self.answers(&model, &layout, &network.objective);
        let gradients = host(&answers.gradients);
        let mut tensors = self.inputs();
        tensors.extend(answers.outputs());
        tensors.extend(layout.entries().iter().map(|entry| {
            let gradient = ForPyTorch::new(&entry.shape, &gradients[entry.range()]);
            (format!("grad.{}", entry.name), Stored::of(&gradient))
        }));
        write_tensors(path, tensors)
    }

    fn inputs(&self) -> Vec<(String, Stored)> {
        let batch = &self.batch;
        let draws: Vec<f32> = batch.draws.iter().flatten().copied().collect();
        let mut tensors = vec![
            ("in.images".to_owned(), Stored::floats(&batch.images)),
            ("in.noise".to_owned(), Stored::floats(&batch.noise)),
            ("in.draws".to_owned(), Stored::f32(vec![batch.draws.len(), 2], &draws)),
            (
                "in.weights".to_owned(),
                Stored::f32(vec![batch.weights.len()], &batch.weights),
            ),
        ];
        for (i, prompt) in self.prompts.iter().enumerate() {
            tensors.push((format!("in.states.{i}"), Stored::floats(&prompt.states)));
            tensors.push((format!("in.valid.{i}"), Stored::mask(&prompt.valid)));
            tensors.push((format!("in.caption.{i}"), Stored::mask(&prompt.caption)));
        }
        tensors
    }
}

impl Answers {
    fn outputs(&self) -> [(String, Stored); 4] {
        [
            ("out.x".to_owned(), Stored::floats(&self.x)),
            ("out.timesteps".to_owned(), Stored::floats(&self.timesteps)),
            ("out.prediction".to_owned(), Stored::floats(&self.prediction)),
            ("out.loss".to_owned(), Stored::floats(&self.loss)),
        ]
    }
}

fn random_prompts(conditioning: &Conditioning, device: &Device) -> Vec<PromptBatch> {
    let batch = |(encoder, &dim): (usize, &usize)| {
        let states: Vec<Vec<f32>> = PROMPTS
            .iter()
            .enumerate()
            .map(|(i, (tokens, _))| normal(Stream::Caption, (encoder * PROMPTS.len() + i) as u64, tokens * dim))
            .collect();
        let rows: Vec<PromptRow<'_>> = PROMPTS
            .iter()
            .zip(&states)
            .map(|(&(tokens, start), states)| PromptRow {
                states,
                caption: start..tokens,
            })
            .collect();
        PromptBatch::from_rows(&rows, dim, device)
    };
    conditioning.context_dims.iter().enumerate().map(batch).collect()
}

fn normal(stream: Stream, sample: u64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    SampleRng::new(0, 0, sample, stream).fill_normal(&mut values);
    values
}

/// A tensor of a safetensors file.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    fn f32(shape: Vec<usize>, values: &[f32]) -> Self {
        Self {
            dtype: Dtype::F32,
            shape,
            bytes: bytemuck::cast_slice(values).to_vec(),
        }
    }

    fn floats<const D: usize>(tensor: &Tensor<D>) -> Self {
        let values: Vec<f32> = tensor.to_data().iter::<f32>().collect();
        Self::f32(tensor.dims().to_vec(), &values)
    }

    fn mask(tensor: &Tensor<2, Bool>) -> Self {
        Self {
            dtype: Dtype::U8,
            shape: tensor.dims().to_vec(),
            bytes: tensor.to_data().iter::<bool>().map(u8::from).collect(),
        }
    }

    fn of(view: &impl View) -> Self {
        Self {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().into_owned(),
        }
    }
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
