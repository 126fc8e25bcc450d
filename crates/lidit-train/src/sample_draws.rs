//! The random numbers of a training sample: a function of (seed, epoch, sample id) alone.

use burn::tensor::{Tensor, TensorData};
use lidit_data::{MicroBatch, SampleRng, Stream};
use lidit_model::LossBatch;

/// What a micro-batch trains on: pictures, noise, timestep draws and weights, with the captions that dropout left.
pub struct Drawn<'a> {
    /// For [`lidit_model::Objective::loss`].
    pub batch: LossBatch,
    /// One a sample; empty where the caption was dropped.
    pub captions: Vec<&'a str>,
}

/// Draws noise, timesteps and caption dropout for `batch`; `images` is what the network sees of its pictures, as
/// `image_tokens` each.
pub fn draw(batch: &MicroBatch, images: Tensor<4>, image_tokens: usize, seed: u64, caption_dropout: f32) -> Drawn<'_> {
    let shape = images.dims();
    let [b, c, h, w] = shape;
    let mut noise = vec![0.0f32; b * c * h * w];
    let mut draws = Vec::with_capacity(batch.ids.len());
    let mut captions = Vec::with_capacity(batch.ids.len());
    for (i, out) in noise.chunks_exact_mut(c * h * w).enumerate() {
        let rng = |stream| SampleRng::new(seed, batch.epochs[i], batch.ids[i], stream);
        rng(Stream::Noise).fill_normal(out);
        let mut timestep = rng(Stream::Timestep);
        draws.push([timestep.uniform(), timestep.uniform()]);
        let dropped = rng(Stream::Dropout).uniform() < caption_dropout;
        captions.push(if dropped { "" } else { batch.captions[i].as_str() });
    }
    Drawn {
        batch: LossBatch {
            noise: Tensor::from_data(TensorData::new(noise, shape), &images.device()),
            images,
            draws,
            weights: batch.weights.clone(),
            image_tokens,
        },
        captions,
    }
}
