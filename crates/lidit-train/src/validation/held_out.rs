//! Held-out samples, ready to be judged at every time.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use lidit_data::{Dataset, Sample, SampleRng, Stream};
use lidit_dist::World;
use lidit_model::{LiDit, Objective};

use super::ValidationSet;
use super::identity::ValidationIdentity;
use super::record::ValidationRecord;
use crate::conditioner::Conditioner;
use crate::config::RunConfig;
use crate::device_losses::read_together;
use crate::features::FeatureStore;
use crate::latents::{LatentSpace, PIXEL_CHANNELS};

/// Samples decoded and encoded at once.
const AT_ONCE: usize = 32;

/// The validation triples, of which this rank holds its share: sample i is rank `i mod world`'s.
pub struct HeldOut {
    set: ValidationSet,
    identity: ValidationIdentity,
    objective: Objective,
    dataset: Dataset,
    /// Of all ranks, in the set's order.
    ids: Vec<u64>,
    captions: Vec<String>,
    /// This rank's, those of one size together.
    own: Vec<Picture>,
    /// What knows their prompts; the run's own conditioner where there are no features.
    features: Option<Conditioner>,
}

/// What the network sees of a sample.
struct Picture {
    /// Its place in the set.
    index: usize,
    /// `[C, H, W]`.
    shape: [usize; 3],
    values: Vec<f32>,
}

/// What the network is told of a sample.
#[derive(Clone, Copy)]
enum Told {
    /// Its own caption.
    Caption,
    /// The empty one.
    Nothing,
}

/// Whose loss is asked for.
pub struct Judged<'a> {
    /// The network, without autodiff.
    pub model: &'a LiDit,
    /// What knows the states of the run's prompts.
    pub conditioner: &'a Conditioner,
    /// Where the network lies.
    pub device: &'a Device,
    /// Most triples that a rank runs forward at once; changes memory, not results.
    pub micro_batch: usize,
}

impl HeldOut {
    /// Reads the samples of `set` for the run `config`: every caption, and this rank's pictures as the network sees them,
    /// which stay in memory.
    ///
    /// # Errors
    /// A sample can't be used, and its row is named; the set has fewer samples; its features are others or missing.
    pub fn open(
        set: &ValidationSet,
        config: &RunConfig,
        latents: &LatentSpace,
        device: &Device,
        locate: &dyn Fn(&str) -> Result<PathBuf>,
        world: &World,
    ) -> Result<Self> {
        Self::read(set, config, latents, device, locate, world).context("[validation]")
    }

    fn read(
        set: &ValidationSet,
        config: &RunConfig,
        latents: &LatentSpace,
        device: &Device,
        locate: &dyn Fn(&str) -> Result<PathBuf>,
        world: &World,
    ) -> Result<Self> {
        let config = set.in_place_of_data(config);
        let dataset = Dataset::open(&config.data)?;
        for size in dataset.order(0, 1).sizes() {
            latents.check_size(size, config.model.patch_size)?;
        }
        let mut features = match &set.features {
            Some(folder) => {
                let store = FeatureStore::open(folder, &config, &dataset, latents, locate);
                let store = store.context("validation.features")?;
                Some(Conditioner::from_features(store, device))
            }
            None => None,
        };
        let ids: Vec<u64> = (0..dataset.len()).map(|index| dataset.subset().id(index)).collect();
        let own: Vec<usize> = (world.rank()..ids.len()).step_by(world.size()).collect();
        Ok(Self {
            identity: ValidationIdentity::of(set, &dataset, &config.objective, latents)?,
            captions: captions(&dataset, &ids)?,
            own: pictures(&dataset, &ids, &own, latents, features.as_mut(), device)?,
            set: set.clone(),
            objective: config.objective,
            dataset,
            ids,
            features,
        })
    }

    /// Refuses held-out samples that lie in a shard that `training` has, too.
    pub fn check_apart(&self, training: &Dataset) -> Result<()> {
        let advice = "the validation loss is of pictures that the run does not see: build or name a set of its own";
        ensure!(
            self.dataset.digest() != training.digest(),
            "validation.data {} is the training set itself; {advice}",
            self.set.data.display()
        );
        let place = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let (mut places, mut digests) = (BTreeSet::new(), BTreeSet::new());
        for (path, digest) in training.shards() {
            places.insert(place(path));
            digests.extend(digest);
        }
        for (path, digest) in self.dataset.shards() {
            if places.contains(&place(path)) || digest.is_some_and(|digest| digests.contains(digest)) {
                bail!(
                    "validation.data shares its shard {} with the training set; {advice}",
                    path.display()
                );
            }
        }
        Ok(())
    }

    /// The captions that the run's own conditioner must know; none where features do.
    pub fn captions(&self) -> Vec<String> {
        if self.features.is_some() {
            return Vec::new();
        }
        let empty = self.set.prompt_gain.then(String::new);
        self.captions.iter().cloned().chain(empty).collect()
    }

    /// Judges every triple, and sums up. A collective: every rank judges its own samples and has the whole record.
    pub fn evaluate(&mut self, judged: &Judged<'_>, world: &World) -> Result<ValidationRecord> {
        let losses = self.losses(Told::Caption, judged, world)?;
        let record = ValidationRecord::new(self.identity.clone(), &self.set, self.ids.clone(), losses)?;
        if !self.set.prompt_gain {
            return Ok(record);
        }
        Ok(record.beside(&self.losses(Told::Nothing, judged, world)?))
    }

    /// Every triple's loss, `[samples][levels]`. A collective.
    fn losses(&mut self, told: Told, judged: &Judged<'_>, world: &World) -> Result<Vec<Vec<f32>>> {
        let levels = self.set.levels;
        let mut all = vec![0.0; self.ids.len() * levels];
        for (place, loss) in self.own_losses(told, judged)? {
            all[place] = f64::from(loss);
        }
        if world.size() > 1 {
            // One summand of each is not 0, so these are the losses themselves.
            world.sum_f64(&mut all)?;
        }
        let rows = all.chunks_exact(levels);
        Ok(rows.map(|row| row.iter().map(|&loss| loss as f32).collect()).collect())
    }

    /// The losses of this rank's triples, each with its place in `[samples, levels]`.
    fn own_losses(&mut self, told: Told, judged: &Judged<'_>) -> Result<Vec<(usize, f32)>> {
        let levels = self.set.levels;
        let mut triples = Vec::with_capacity(self.own.len() * levels);
        for picture in 0..self.own.len() {
            triples.extend((0..levels).map(|level| (picture, level)));
        }
        let (mut places, mut losses) = (Vec::with_capacity(triples.len()), Vec::new());
        let own = &self.own;
        let alike: Vec<&[(usize, usize)]> = triples
            .chunk_by(|a, b| own[a.0].shape == own[b.0].shape)
            .flat_map(|alike| alike.chunks(judged.micro_batch))
            .collect();
        for batch in alike {
            places.extend(
                batch
                    .iter()
                    .map(|&(picture, level)| own[picture].index * levels + level),
            );
            let ids: Vec<u64> = batch.iter().map(|&(picture, _)| self.ids[own[picture].index]).collect();
            if let Some(features) = &mut self.features {
                features.hold(&ids)?;
            }
            losses.push(self.losses_of(batch, &ids, told, judged)?);
        }
        Ok(places.into_iter().zip(read_together(losses.into_iter())).collect())
    }

    /// The losses of some triples of one size, given as (own picture, level), `[B]`, on the device.
    fn losses_of(&self, batch: &[(usize, usize)], ids: &[u64], told: Told, judged: &Judged<'_>) -> Result<Tensor<1>> {
        let pictures = || batch.iter().map(|&(picture, _)| &self.own[picture]);
        let caption = |picture: &Picture| match told {
            Told::Caption => self.captions[picture.index].as_str(),
            Told::Nothing => "",
        };
        let captions: Vec<&str> = pictures().map(caption).collect();
        let conditioner = self.features.as_ref().unwrap_or(judged.conditioner);
        let prompts = conditioner.condition_samples(ids, &captions)?;
        let [channels, height, width] = pictures().next().map_or([0; 3], |picture| picture.shape);
        let shape = [batch.len(), channels, height, width];
        let images: Vec<f32> = pictures().flat_map(|picture| picture.values.iter().copied()).collect();
        let mut noise = vec![0.0; images.len()];
        let parts = noise.chunks_exact_mut(channels * height * width);
        for ((&(_, level), &id), part) in batch.iter().zip(ids).zip(parts) {
            SampleRng::new(self.set.seed, level as u64, id, Stream::Validation).fill_normal(part);
        }
        let on_device = |values| Tensor::<4>::from_data(TensorData::new(values, shape), judged.device);
        let all_times = self.set.times();
        let times: Vec<f64> = batch.iter().map(|&(_, level)| all_times[level]).collect();
        let noised = self.objective.noise_at(&on_device(images), &on_device(noise), &times);
        let (input, timesteps) = (noised.input.clone(), noised.timesteps.clone());
        let prediction = judged.model.forward(input, timesteps, &prompts.batches);
        Ok(self
            .objective
            .loss_of(&noised, prediction, &vec![1.0; batch.len()])
            .each)
    }
}

/// The first caption of each sample.
fn captions(dataset: &Dataset, ids: &[u64]) -> Result<Vec<String>> {
    let captions = dataset.captions_of(ids)?;
    let firsts = captions.into_iter().map(|(id, mut all)| (id, all.swap_remove(0)));
    let firsts: HashMap<u64, String> = firsts.collect();
    let first = |id: &u64| {
        let caption = firsts.get(id).cloned();
        caption.with_context(|| unusable(dataset, *id, "its caption is null".to_owned()))
    };
    ids.iter().map(first).collect()
}

/// What the network sees of the samples at the places `own` of `ids`, those of one size together.
fn pictures(
    dataset: &Dataset,
    ids: &[u64],
    own: &[usize],
    latents: &LatentSpace,
    mut features: Option<&mut Conditioner>,
    device: &Device,
) -> Result<Vec<Picture>> {
    let device = device.clone().without_autodiff();
    let mut pictures = Vec::with_capacity(own.len());
    for places in own.chunks(AT_ONCE) {
        let ids: Vec<u64> = places.iter().map(|&place| ids[place]).collect();
        if let Some(id) = features.as_mut().map_or(Ok(None), |features| features.hold(&ids))? {
            bail!(unusable(
                dataset,
                id,
                "its picture could not be used when latents were written".to_owned()
            ));
        }
        for ((sample, &id), &index) in dataset.samples(&ids)?.into_iter().zip(&ids).zip(places) {
            let sample = sample.map_err(|reason| anyhow::anyhow!(unusable(dataset, id, reason)))?;
            let [height, width] = latents.grid(sample.size);
            let shape = [latents.channels(), height, width];
            let stored = match features.as_ref() {
                Some(features) => features.latents(&[id], [1, shape[0], height, width])?,
                None => None,
            };
            let values = match stored {
                Some(values) => values,
                None => encoded(&sample, latents, &device),
            };
            pictures.push(Picture { index, shape, values });
        }
    }
    pictures.sort_by_key(|picture| picture.shape);
    Ok(pictures)
}

/// One picture, `[C, H, W]`.
fn encoded(sample: &Sample, latents: &LatentSpace, device: &Device) -> Vec<f32> {
    let mut pixels = vec![0.0; sample.pixels.len()];
    sample.write_chw(&mut pixels);
    if matches!(latents, LatentSpace::Pixels) {
        return pixels;
    }
    let shape = [
        1,
        PIXEL_CHANNELS,
        sample.size.height as usize,
        sample.size.width as usize,
    ];
    let latents = latents.encode(Tensor::from_data(TensorData::new(pixels, shape), device));
    latents.into_data().iter::<f32>().collect()
}

fn unusable(dataset: &Dataset, id: u64, reason: String) -> String {
    let row = dataset.unusable(id, reason);
    format!(
        "{}: row {} can't be used: {}; every sample of a validation set must be usable",
        row.shard.display(),
        row.row,
        row.reason
    )
}
