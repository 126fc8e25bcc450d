//! What a rank computes at once.

use std::sync::Arc;

use crate::order::Draw;
use crate::philox::{SampleRng, Stream};
use crate::sample::Sample;

/// Some consecutive samples of a rank's share of a global batch, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct MicroBatch {
    /// Each sample's epoch, which keys its random numbers.
    pub epochs: Vec<u64>,
    /// Each sample's id: its row number in the whole dataset.
    pub ids: Vec<u64>,
    /// Each sample's position in the endless stream.
    pub positions: Vec<u64>,
    /// `[B, 3, S, S]` in [-1, 1]; zeros for an unusable row.
    pub pixels: Vec<f32>,
    /// One caption a sample, chosen among its alternatives; empty for an unusable row.
    pub captions: Vec<String>,
    /// 1, or 0 for an unusable row.
    pub weights: Vec<f32>,
    /// The side `S`.
    pub image_size: usize,
}

impl MicroBatch {
    /// Lays decoded samples out; `samples` stand beside their `draws`.
    pub(crate) fn new(seed: u64, draws: &[Draw], samples: &[Option<Arc<Sample>>], image_size: usize) -> Self {
        let volume = 3 * image_size * image_size;
        let mut pixels = vec![0.0; draws.len() * volume];
        let mut captions = vec![String::new(); draws.len()];
        for (index, (draw, sample)) in draws.iter().zip(samples).enumerate() {
            if let Some(sample) = sample {
                sample.write_chw(&mut pixels[index * volume..][..volume]);
                captions[index] = choose(seed, draw, &sample.captions);
            }
        }
        let usable = |sample: &Option<_>| if sample.is_some() { 1.0 } else { 0.0 };
        Self {
            epochs: draws.iter().map(|draw| draw.epoch).collect(),
            ids: draws.iter().map(|draw| draw.id).collect(),
            positions: draws.iter().map(|draw| draw.position).collect(),
            pixels,
            captions,
            weights: samples.iter().map(usable).collect(),
            image_size,
        }
    }

    /// Number of samples, unusable ones counted.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it holds no sample.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

fn choose(seed: u64, draw: &Draw, captions: &[String]) -> String {
    let mut rng = SampleRng::new(seed, draw.epoch, draw.id, Stream::Caption);
    captions[rng.below(captions.len() as u32) as usize].clone()
}
