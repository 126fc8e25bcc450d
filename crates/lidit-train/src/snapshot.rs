//! A training state on the host, and its way into files.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::checkpoint::OptimizerPart;
use crate::checkpoint_folder::CheckpointFolder;
use crate::digest::HashedFile;
use crate::manifest::{FORMAT_VERSION, FileEntry, MODEL_FILE, Manifest, ema_file, optimizer_file};
use crate::written_part::WrittenPart;

/// One rank's part of a training state on the host, ready to be written.
pub struct Snapshot {
    /// All but the files, which are yet to be written.
    pub manifest: Manifest,
    /// Weights and averages: rank 0 writes them.
    pub weights: Option<FlatWeights>,
    /// The optimizer's state that this rank writes; none where rank 0 writes the same.
    pub optimizer: Option<OptimizerPart>,
}

/// Weights in flat space.
pub struct FlatWeights {
    /// The f32 masters.
    pub masters: Vec<f32>,
    /// The averages, by half-life.
    pub ema: Vec<(u64, Vec<f32>)>,
}

impl Snapshot {
    /// Writes this rank's files and waits until they are on the disk. When that fails, they are removed again: on a full
    /// disk others need the room.
    pub(crate) fn write(self, folder: &CheckpointFolder, rank: usize) -> Result<WrittenPart> {
        let partial = folder.make_partial(self.manifest.step)?;
        match self.write_files(&partial, rank) {
            Ok(files) => {
                let part = WrittenPart::new(self.manifest, files);
                part.announce(&partial, rank)?;
                Ok(part)
            }
            Err(error) => {
                for path in self.paths(&partial, rank) {
                    // Those that were not begun are not there.
                    let _ = fs::remove_file(path);
                }
                Err(error)
            }
        }
    }

    fn write_files(&self, dir: &Path, rank: usize) -> Result<Vec<FileEntry>> {
        let mut files = Vec::new();
        if let Some(weights) = &self.weights {
            files.push(self.write_weights(dir, MODEL_FILE.to_owned(), &weights.masters)?);
            for (half_life, average) in &weights.ema {
                files.push(self.write_weights(dir, ema_file(*half_life), average)?);
            }
        }
        if let Some(optimizer) = &self.optimizer {
            files.push(write_optimizer(dir, optimizer_file(rank), optimizer)?);
        }
        Ok(files)
    }

    fn paths(&self, dir: &Path, rank: usize) -> Vec<PathBuf> {
        let weights = self.weights.iter().flat_map(|weights| {
            let ema = weights.ema.iter().map(|(half_life, _)| ema_file(*half_life));
            std::iter::once(MODEL_FILE.to_owned()).chain(ema)
        });
        let optimizer = self.optimizer.iter().map(|_| optimizer_file(rank));
        weights.chain(optimizer).map(|name| dir.join(name)).collect()
    }

    /// Parameters follow each other in a file as they do in flat space.
    fn write_weights(&self, dir: &Path, name: String, flat: &[f32]) -> Result<FileEntry> {
        let tensors = self.manifest.layout.iter();
        let tensors = tensors.map(|entry| (entry.name.clone(), entry.shape.clone(), entry.range()));
        write_tensors(dir, name, None, tensors, &[flat])
    }
}

fn write_optimizer(dir: &Path, name: String, part: &OptimizerPart) -> Result<FileEntry> {
    let metadata = HashMap::from([
        ("start".to_owned(), part.start.to_string()),
        ("time".to_owned(), part.moments.time.to_string()),
        ("format_version".to_owned(), FORMAT_VERSION.to_string()),
    ]);
    let (first, second) = (part.moments.first.as_slice(), part.moments.second.as_slice());
    let len = first.len();
    let tensors = [
        ("moment_1".to_owned(), vec![len], 0..len),
        ("moment_2".to_owned(), vec![len], len..2 * len),
    ];
    write_tensors(dir, name, Some(metadata), tensors, &[first, second])
}

/// Writes a safetensors file of f32 tensors, which lie one after another in `values`, each at its range of elements.
/// Nothing is copied on the way.
fn write_tensors(
    dir: &Path,
    name: String,
    metadata: Option<HashMap<String, String>>,
    tensors: impl IntoIterator<Item = (String, Vec<usize>, std::ops::Range<usize>)>,
    values: &[&[f32]],
) -> Result<FileEntry> {
    let path = dir.join(&name);
    let info = |range: std::ops::Range<usize>, shape| TensorInfo {
        dtype: Dtype::F32,
        shape,
        data_offsets: (4 * range.start, 4 * range.end),
    };
    let tensors = tensors
        .into_iter()
        .map(|(name, shape, range)| (name, info(range, shape)));
    let header =
        Metadata::new(metadata, tensors.collect()).with_context(|| format!("the header of {}", path.display()))?;
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = HashedFile::create(&path)?;
    file.append(&(header.len() as u64).to_le_bytes())?;
    file.append(&header)?;
    for values in values {
        file.append(bytemuck::cast_slice(values))?;
    }
    let (bytes, sha256) = file.finish()?;
    Ok(FileEntry { name, bytes, sha256 })
}

/// Any state, of 12 parameters in two tensors.
#[cfg(test)]
impl Snapshot {
    pub(crate) fn example(step: u64) -> Self {
        use crate::layout::Entry;
        use crate::manifest::DataPosition;
        use crate::optimizer::Moments;
        let role = lidit_model::Role::of("blocks.0.mlp.up.weight");
        let entry = |name: &str, shape: [usize; 2], offset| Entry {
            name: name.to_owned(),
            shape: shape.to_vec(),
            offset,
            group: role,
        };
        let values = |factor: f32| (0..12).map(|i| factor * i as f32).collect::<Vec<_>>();
        Self {
            manifest: Manifest {
                format_version: FORMAT_VERSION,
                lidit_version: "0".to_owned(),
                step,
                world_size: 1,
                data: DataPosition {
                    position: step,
                    digest: String::new(),
                    dataset: String::new(),
                },
                encoders: Vec::new(),
                vae: "identity".to_owned(),
                ema_half_lives: vec![7],
                layout: vec![entry("a", [2, 3], 0), entry("b", [3, 2], 6)],
                files: Vec::new(),
            },
            weights: Some(FlatWeights {
                masters: values(1.0),
                ema: vec![(7, values(0.5))],
            }),
            optimizer: Some(OptimizerPart {
                start: 0,
                moments: Moments {
                    time: 3,
                    first: values(2.0),
                    second: values(3.0),
                },
            }),
        }
    }
}
