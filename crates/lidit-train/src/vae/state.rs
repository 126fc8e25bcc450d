//! Weights, Adam's moments and the position: all that a training goes on from.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer as _};
use burn::tensor::{Device, Tensor};
use lidit_data::{SampleRng, Stream};
use lidit_encoders::vae::Autoencoder;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::config::VaeTraining;
use crate::atomic::write_atomically;
use crate::config::Precision;
use crate::digest::hex;
use crate::layout::{Entry, FlatLayout};
use crate::optimizer::{host, upload};

const FORMAT_VERSION: u32 = 1;
const FILE: &str = "training.safetensors";
/// The key of the header's metadata.
const POSITION: &str = "position";

/// A training between two steps.
pub struct VaeState {
    /// Steps made.
    pub step: u64,
    /// Computes with the masters' values.
    pub network: Autoencoder,
    /// All parameters as one vector.
    pub layout: FlatLayout,
    masters: Tensor<1>,
    adam: AdamW,
    moments: Option<AdamWState<1>>,
    dataset: String,
}

/// What stands beside the tensors.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    format_version: u32,
    step: u64,
    /// Of names, shapes and places of the parameters.
    layout: String,
    /// Of the data set.
    dataset: String,
}

impl VaeState {
    /// The state that `out` holds, or a new one.
    pub fn open(out: &Path, config: &VaeTraining, dataset: &str, device: &Device) -> Result<Self> {
        let network = Autoencoder::zeros(&config.network, device);
        let layout = FlatLayout::of(&network);
        let train = &config.train;
        // Without weight decay AdamW is Adam.
        let adam = AdamWConfig::new()
            .with_beta_1(train.betas[0])
            .with_beta_2(train.betas[1])
            .with_epsilon(train.eps)
            .with_weight_decay(0.0)
            .build();
        let inner = device.clone().inner();
        let masters = upload(&first_values(&layout, train.seed), &inner);
        let mut state = Self {
            step: 0,
            network: layout.load(&masters, Precision::F32, network),
            layout,
            masters,
            adam,
            moments: None,
            dataset: dataset.to_owned(),
        };
        let path = out.join(FILE);
        if path.exists() {
            state
                .restore(&path, &inner)
                .with_context(|| format!("continuing from {}", path.display()))?;
        }
        Ok(state)
    }

    /// One step of Adam.
    pub fn update(&mut self, gradient: &Tensor<1>, lr: f64) {
        let (masters, moments) = self
            .adam
            .step(lr, self.masters.clone(), gradient.clone(), self.moments.take());
        self.moments = moments;
        self.network = self.layout.load(&masters, Precision::F32, self.network.clone());
        self.masters = masters;
        self.step += 1;
    }

    /// Writes everything as one file, which is always whole.
    pub fn save(&self, out: &Path) -> Result<()> {
        let position = Position {
            format_version: FORMAT_VERSION,
            step: self.step,
            layout: layout_digest(self.layout.entries())?,
            dataset: self.dataset.clone(),
        };
        let mut buffers = vec![("weights", bytes(&self.masters))];
        if let Some(state) = &self.moments {
            buffers.push(("first_moment", bytes(&state.momentum.moment_1)));
            buffers.push(("second_moment", bytes(&state.momentum.moment_2)));
        }
        let mut views = BTreeMap::new();
        for (name, bytes) in &buffers {
            views.insert(*name, TensorView::new(Dtype::F32, vec![self.layout.len()], bytes)?);
        }
        let metadata = HashMap::from([(POSITION.to_owned(), serde_json::to_string(&position)?)]);
        write_atomically(&out.join(FILE), &safetensors::serialize(views, Some(metadata))?)
    }

    fn restore(&mut self, path: &Path, device: &Device) -> Result<()> {
        let file = fs::read(path)?;
        let (_, header) = SafeTensors::read_metadata(&file)?;
        let position = header.metadata().as_ref().and_then(|metadata| metadata.get(POSITION));
        let position: Position = serde_json::from_str(position.context("it has no position")?)?;
        ensure!(
            position.format_version == FORMAT_VERSION,
            "format_version is {}, this lidit reads {FORMAT_VERSION}",
            position.format_version
        );
        ensure!(
            position.layout == layout_digest(self.layout.entries())?,
            "it holds another network than its config.toml describes"
        );
        ensure!(
            position.dataset == self.dataset,
            "it was trained on the data set {}, data.path now holds {}",
            position.dataset,
            self.dataset
        );
        let tensors = SafeTensors::deserialize(&file)?;
        let read = |name: &str| -> Result<Tensor<1>> {
            let values = tensors.tensor(name)?.data().as_chunks().0.iter();
            let values: Vec<f32> = values.map(|bytes| f32::from_le_bytes(*bytes)).collect();
            ensure!(
                values.len() == self.layout.len(),
                "tensor `{name}` has {} elements",
                values.len()
            );
            Ok(upload(&values, device))
        };
        let masters = read("weights")?;
        let moments = AdaptiveMomentumState {
            time: position.step as usize,
            moment_1: read("first_moment")?,
            moment_2: read("second_moment")?,
            max_moment_2: None,
        };
        self.network = self.layout.load(&masters, Precision::F32, self.network.clone());
        self.masters = masters;
        self.moments = Some(AdamWState::new(moments));
        self.step = position.step;
        Ok(())
    }
}

/// Gains 1, biases 0, all else uniform within `1 / sqrt(inputs)`, as `PyTorch` starts its convolutions; a pure function
/// of the seed.
fn first_values(layout: &FlatLayout, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; layout.len()];
    for (index, entry) in layout.entries().iter().enumerate() {
        let values = &mut values[entry.range()];
        if entry.name.ends_with("bias") {
            continue;
        }
        let inputs: usize = entry.shape.iter().skip(1).product();
        if entry.shape.len() == 1 {
            values.fill(1.0);
        } else {
            let bound = 1.0 / (inputs as f32).sqrt();
            let mut rng = SampleRng::new(seed, 0, index as u64, Stream::Generation);
            values.fill_with(|| (2.0 * rng.uniform() - 1.0) * bound);
        }
    }
    values
}

fn layout_digest(entries: &[Entry]) -> Result<String> {
    let places = entries.iter().map(|entry| (&entry.name, &entry.shape, entry.offset));
    let text = serde_json::to_vec(&places.collect::<Vec<_>>())?;
    Ok(hex(&Sha256::digest(text)))
}

fn bytes(tensor: &Tensor<1>) -> Vec<u8> {
    host(tensor).into_iter().flat_map(f32::to_le_bytes).collect()
}
