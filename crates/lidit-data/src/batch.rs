//! What a rank computes at once.

use std::sync::Arc;

use rayon::prelude::*;

use crate::bucket::Bucket;
use crate::loader::LoaderConfig;
use crate::open_source::Wanted;
use crate::order::Draw;
use crate::philox::{SampleRng, Stream};
use crate::sample::Sample;

/// Some samples of a rank's share of a global batch, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct MicroBatch {
    /// Each sample's epoch, which keys its random numbers.
    pub epochs: Vec<u64>,
    /// Each sample's id: its row number in the whole dataset.
    pub ids: Vec<u64>,
    /// Each sample's position in the endless stream.
    pub positions: Vec<u64>,
    /// `[B, 3, H, W]` in [-1, 1]; zeros for an unusable row. Empty where captions alone are read.
    pub pixels: Vec<f32>,
    /// One caption a sample, chosen among its alternatives; empty for an unusable row.
    pub captions: Vec<String>,
    /// 1, or 0 for an unusable row.
    pub weights: Vec<f32>,
    /// Width `W` and height `H` of every picture.
    pub size: Bucket,
}

impl MicroBatch {
    /// Lays out what `decode` makes of each draw, `None` for an unusable row. Decodes in parallel.
    pub(crate) fn new(
        config: &LoaderConfig,
        draws: &[Draw],
        size: Bucket,
        decode: impl Fn(usize) -> Option<Arc<Sample>> + Sync,
    ) -> Self {
        let caption_of = |index: usize, sample: &Sample| {
            let draw = &draws[index];
            let mut rng = SampleRng::new(config.seed, draw.epoch, draw.id, Stream::Caption);
            sample.captions.choose(&mut rng).to_owned()
        };
        let place = |index: usize, out: &mut [f32]| match decode(index) {
            Some(sample) => {
                sample.write_chw(out);
                (caption_of(index, &sample), 1.0)
            }
            None => (String::new(), 0.0),
        };
        let volume = 3 * size.width as usize * size.height as usize;
        let (pixels, (captions, weights)) = match config.wanted {
            Wanted::All => {
                let mut pixels = vec![0.0; draws.len() * volume];
                let places = pixels.par_chunks_exact_mut(volume).enumerate();
                let placed = places.map(|(index, out)| place(index, out)).unzip();
                (pixels, placed)
            }
            Wanted::Captions => {
                let places = (0..draws.len()).into_par_iter();
                (Vec::new(), places.map(|index| place(index, &mut [])).unzip())
            }
        };
        Self {
            epochs: draws.iter().map(|draw| draw.epoch).collect(),
            ids: draws.iter().map(|draw| draw.id).collect(),
            positions: draws.iter().map(|draw| draw.position).collect(),
            pixels,
            captions,
            weights,
            size,
        }
    }

    /// Makes a sample count for nothing.
    pub fn drop_sample(&mut self, index: usize) {
        self.weights[index] = 0.0;
        self.captions[index].clear();
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
