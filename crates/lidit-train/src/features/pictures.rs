//! Pictures to stored latents.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use lidit_data::{Bucket, Dataset, Sample, StoredLatents};
use lidit_encoders::Precision;

use super::states::pack_latents;
use crate::latents::{LatentSpace, PIXEL_CHANNELS};

/// Pictures decoded at once, ahead of the VAE.
const AT_ONCE: usize = 32;

/// What makes latents of a data set's pictures.
pub(super) struct Pictures<'a> {
    /// Whose pictures.
    pub dataset: &'a Dataset,
    /// Their VAE.
    pub latents: &'a LatentSpace,
    /// How latents are stored.
    pub precision: Precision,
    /// Where to compute, without autodiff.
    pub device: Device,
}

impl Pictures<'_> {
    /// The latents of those of the samples `ids` whose pictures can be used.
    pub fn encode(&self, ids: &[u64]) -> Result<HashMap<u64, StoredLatents>> {
        let mut found = HashMap::new();
        for ids in ids.chunks(AT_ONCE) {
            let mut by_size: BTreeMap<Bucket, Vec<Sample>> = BTreeMap::new();
            for sample in self.dataset.samples(ids)?.into_iter().flatten() {
                by_size.entry(sample.size).or_default().push(sample);
            }
            for (size, samples) in by_size {
                found.extend(self.encode_alike(size, &samples)?);
            }
        }
        Ok(found)
    }

    /// Pictures of one size.
    fn encode_alike(&self, size: Bucket, samples: &[Sample]) -> Result<Vec<(u64, StoredLatents)>> {
        let (width, height) = (size.width as usize, size.height as usize);
        let mut pixels = vec![0.0; samples.len() * PIXEL_CHANNELS * width * height];
        for (sample, out) in samples
            .iter()
            .zip(pixels.chunks_exact_mut(PIXEL_CHANNELS * width * height))
        {
            sample.write_chw(out);
        }
        let shape = [samples.len(), PIXEL_CHANNELS, height, width];
        let latents = self
            .latents
            .encode(Tensor::from_data(TensorData::new(pixels, shape), &self.device));
        let [_, channels, height, width] = latents.dims();
        let values: Vec<f32> = latents.into_data().iter::<f32>().collect();
        ensure!(
            values.iter().all(|value| value.is_finite()),
            "the VAE makes latents that are not finite of samples {:?}: try vae.kl.precision = \"f32\"",
            samples.iter().map(|sample| sample.id).collect::<Vec<_>>()
        );
        let pack = |values| pack_latents(values, [height, width], self.precision);
        let stored = values.chunks_exact(channels * height * width).map(pack);
        Ok(samples.iter().map(|sample| sample.id).zip(stored).collect())
    }
}
