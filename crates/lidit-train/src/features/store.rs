//! Features as a run reads them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use lidit_data::{
    Dataset, FeatureLoader, FeatureRow, FeatureSet, FeatureSource, LoadedStep, LoaderConfig, SampleFeatures,
    StoredLatents,
};
use lidit_encoders::{Prefix, PromptStates};

use super::folder::FeatureFolder;
use super::identity::{FeatureManifest, LatentIdentity};
use super::states::{unpack, unpack_latents, unpack_prefix};
use crate::config::RunConfig;
use crate::latents::LatentSpace;

/// A complete folder of features that a run may train on.
pub struct FeatureStore {
    folder: PathBuf,
    manifest: FeatureManifest,
    prefixes: Vec<Prefix>,
    /// By caption: the empty one and the prompts of the previews.
    prompts: HashMap<String, FeatureRow>,
    set: FeatureSet,
    with_latents: bool,
    dataset: Dataset,
    loader: Option<FeatureLoader>,
    /// The samples of the step at hand.
    samples: HashMap<u64, SampleFeatures>,
}

impl FeatureStore {
    /// Opens the features in `folder` for the run `config` on `dataset`.
    ///
    /// # Errors
    /// They were made by other encoders, from other data, or stored otherwise than the config says, and both sides are
    /// named; a sample of the run, a prompt of its previews or a file is missing; a file is damaged.
    pub fn open(
        folder: &Path,
        config: &RunConfig,
        dataset: &Dataset,
        latents: &LatentSpace,
        locate: &dyn Fn(&str) -> Result<PathBuf>,
    ) -> Result<Self> {
        let files = FeatureFolder::at(folder);
        let manifest = files.manifest()?;
        let identity = &manifest.identity;
        let wanted_latents = LatentIdentity::of(latents, dataset);
        let with_latents = wanted_latents.is_some();
        for unchecked in identity.check_for_training(&config.encoders, dataset, wanted_latents, locate, folder)? {
            eprintln!("note: {unchecked}");
        }
        let num_encoders = identity.encoders.len();
        let prefix = files.rows(&manifest.prefix, num_encoders)?.pop();
        let prefix = prefix.with_context(|| format!("{} has no row", manifest.prefix.file))?;
        let prefixes = prefix.prompts.iter().zip(&identity.encoders);
        let prefixes = prefixes
            .map(|(stored, encoder)| unpack_prefix(stored, encoder.dim, identity.cache.precision))
            .collect::<Result<_>>()
            .with_context(|| manifest.prefix.file.clone())?;
        let prompts = files.rows(&manifest.prompts, num_encoders)?;
        let source = FeatureSource {
            folder: folder.to_owned(),
            files: manifest.files.clone(),
            members: identity.data.members(),
            members_per_file: identity.cache.rows_per_file,
            num_encoders,
        };
        let store = Self {
            folder: folder.to_owned(),
            set: FeatureSet::open(source, dataset.subset())?,
            with_latents,
            dataset: dataset.clone(),
            prefixes,
            prompts: prompts.into_iter().map(|row| (row.caption.clone(), row)).collect(),
            loader: None,
            samples: HashMap::new(),
            manifest,
        };
        store.prompt("")?;
        if config.train.sample_every > 0 {
            for prompt in &config.sample.prompts {
                store.prompt(prompt)?;
            }
        }
        Ok(store)
    }

    /// Widths of the encoders' states, in config order.
    pub fn dims(&self) -> Vec<usize> {
        let encoders = &self.manifest.identity.encoders;
        encoders.iter().map(|encoder| encoder.dim).collect()
    }

    /// Fingerprints of the encoders that made the features: those that a run with the models themselves has.
    pub fn fingerprints(&self) -> Vec<String> {
        let encoders = &self.manifest.identity.encoders;
        encoders.iter().map(|encoder| encoder.fingerprint.clone()).collect()
    }

    /// Starts to read the samples of a rank's steps ahead.
    pub fn start(&mut self, config: LoaderConfig) -> Result<()> {
        self.loader = Some(FeatureLoader::new(self.set.clone(), &self.dataset, config)?);
        Ok(())
    }

    /// Brings the samples of the next step. Where latents stand for pictures, samples without them can't be used.
    pub fn next_step(&mut self, step: &mut LoadedStep) -> Result<()> {
        let loader = self.loader.as_mut().context("the features were not started")?;
        self.samples = loader.next_step()?;
        if !self.has_latents() {
            return Ok(());
        }
        for batch in &mut step.micro_batches {
            for index in 0..batch.len() {
                let id = batch.ids[index];
                if batch.weights[index] > 0.0 && self.latents_of(id).is_none() {
                    let reason = "its picture could not be used when latents were written".to_owned();
                    step.unusable.push(self.dataset.unusable(id, reason));
                    batch.drop_sample(index);
                }
            }
        }
        Ok(())
    }

    /// Brings some samples, in no step's order. Where latents stand for pictures, names one without.
    pub fn hold(&mut self, ids: &[u64]) -> Result<Option<u64>> {
        self.samples = self.set.load(ids)?;
        let lacks = |id: &&u64| self.has_latents() && self.latents_of(**id).is_none();
        Ok(ids.iter().find(lacks).copied())
    }

    /// Whether latents stand for the pictures.
    pub fn has_latents(&self) -> bool {
        self.with_latents
    }

    /// The latents of samples of the step at hand, `[B, C, H, W]`; zeros where a picture could not be used.
    pub fn latents(&self, ids: &[u64], shape: [usize; 4]) -> Result<Vec<f32>> {
        let [_, channels, height, width] = shape;
        let mut values = Vec::with_capacity(shape.iter().product());
        for id in ids {
            let Some(stored) = self.latents_of(*id) else {
                values.resize(values.len() + channels * height * width, 0.0);
                continue;
            };
            let latents = unpack_latents(
                stored,
                [channels, height, width],
                self.manifest.identity.cache.precision,
            )
            .with_context(|| format!("latents of sample {id} in {}", self.folder.display()))?;
            values.extend(latents);
        }
        Ok(values)
    }

    fn latents_of(&self, id: u64) -> Option<&StoredLatents> {
        self.samples.get(&id)?.iter().find_map(|row| row.latents.as_ref())
    }

    /// The states of the empty caption or of a prompt of the previews.
    ///
    /// # Errors
    /// It is not among those that were encoded.
    pub fn prompt(&self, caption: &str) -> Result<Vec<PromptStates>> {
        let row = self.prompts.get(caption).with_context(|| {
            format!(
                "the features in {} hold no prompt `{caption}`: run lidit cache again with this config, it adds new \
                 sample.prompts and encodes nothing else",
                self.folder.display()
            )
        })?;
        self.restore(row)
    }

    /// The states of a caption of sample `id`, which is one of the step at hand.
    ///
    /// # Errors
    /// The sample has no such caption in the features.
    pub fn sample(&self, id: u64, caption: &str) -> Result<Vec<PromptStates>> {
        if caption.is_empty() {
            return self.prompt(caption);
        }
        let rows = self.samples.get(&id).map(Arc::as_ref);
        let row = rows.and_then(|rows| rows.iter().find(|row| row.caption == caption));
        let row = row.with_context(|| {
            format!(
                "the features in {} hold no caption `{caption}` of sample {id}: write them again for this data",
                self.folder.display()
            )
        })?;
        self.restore(row)
    }

    fn restore(&self, row: &FeatureRow) -> Result<Vec<PromptStates>> {
        let precision = self.manifest.identity.cache.precision;
        let encoders = self.manifest.identity.encoders.iter().zip(&self.prefixes);
        let prompts = row.prompts.iter().zip(encoders);
        prompts
            .map(|(stored, (encoder, prefix))| unpack(stored, prefix, encoder.dim, precision))
            .collect::<Result<_>>()
            .with_context(|| format!("caption `{}` in {}", row.caption, self.folder.display()))
    }
}
