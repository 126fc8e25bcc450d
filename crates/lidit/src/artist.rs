//! A run's network and encoders, ready to draw and to be judged: what `lidit sample` and `lidit eval` share.

mod encoded_by;
mod picture_file;
mod progress;
mod sampler_args;

use anyhow::Result;
use burn::tensor::Device;
use image::RgbImage;
use lidit_model::LiDit;
use lidit_train::{
    Checkpoint, Conditioner, Drawing, FlatLayout, Identity, LatentSpace, Request, RunConfig, Weights, batches,
    load_for_drawing,
};

pub use self::encoded_by::EncodedBy;
pub use self::picture_file::PictureFile;
use self::progress::Progress;
pub use self::sampler_args::SamplerArgs;
use crate::device::DeviceArg;

/// A run's network and encoders, ready to draw.
pub struct Artist {
    /// The run's, with the sampler to draw by.
    pub config: RunConfig,
    /// Whose weights the network has.
    pub checkpoint: Checkpoint,
    /// Which of them, with their half-life.
    pub weights: Weights,
    /// What knows the prompts' states.
    pub conditioner: Conditioner,
    /// Who encoded them.
    pub encoded_by: EncodedBy,
    /// What lies between network and pictures.
    pub latents: LatentSpace,
    /// The network, without autodiff.
    pub model: LiDit,
    /// Where all of it lies.
    pub device: Device,
}

impl Artist {
    /// Loads the `weights` of `checkpoint`, of a run of `config`. No language model is loaded where `prompts` are all that will
    /// be asked for and the run's features hold them.
    ///
    /// # Errors
    /// The config's language models or VAE are not those of the checkpoint, or it has no such weights.
    pub fn load(
        config: RunConfig,
        checkpoint: Checkpoint,
        weights: Weights,
        prompts: Option<&[String]>,
        device: DeviceArg,
    ) -> Result<Self> {
        let device = device.open(0)?;
        let latents = LatentSpace::open(&config.vae, &config.model, &device)?;
        let (encoded_by, conditioner) = EncodedBy::open(&config, prompts, &latents, &device)?;
        let identity = Identity {
            dataset: String::new(),
            encoders: conditioner.fingerprints()?,
            vae: latents.fingerprint().to_owned(),
        };
        identity.check_frozen(&checkpoint)?;
        let model = LiDit::zeros(&config.model, &conditioner.conditioning(&config.encoders), &device);
        let layout = FlatLayout::of(&model);
        checkpoint.check_layout(layout.entries())?;
        let weights = checkpoint.named(weights)?;
        let model = load_for_drawing(&checkpoint.weights(weights)?, &layout, &config, model, &device);
        Ok(Self {
            config,
            checkpoint,
            weights,
            conditioner,
            encoded_by,
            latents,
            model,
            device,
        })
    }

    /// Optimizer steps of the weights.
    pub fn step(&self) -> u64 {
        self.checkpoint.manifest().step
    }

    /// Encodes `prompts` now, each once.
    pub fn remember(&mut self, prompts: &[String]) -> Result<()> {
        let total = prompts.len();
        self.conditioner
            .remember(prompts, |done| eprintln!("encoded {done}/{total} prompts"))
    }

    /// Draws all, `at_once` at a time; `each` has every picture as soon as it is drawn, with the number of its drawing.
    pub fn draw(
        &self,
        drawings: &[Drawing],
        at_once: usize,
        mut each: impl FnMut(usize, RgbImage) -> Result<()>,
    ) -> Result<()> {
        let request = Request::new(
            &self.model,
            &self.conditioner,
            &self.latents,
            &self.config,
            &self.device,
        );
        let progress = Progress::new(drawings.len(), self.config.sample.sampler.steps);
        for batch in batches(drawings, at_once) {
            let together: Vec<&Drawing> = batch.iter().map(|&i| &drawings[i]).collect();
            let pictures = request.draw_batch(&together, |_| progress.step(together.len()))?;
            for (i, picture) in batch.into_iter().zip(pictures) {
                each(i, picture)?;
            }
        }
        progress.clear();
        Ok(())
    }

    /// What the files of its pictures say.
    pub fn picture_file(&self) -> PictureFile<'_> {
        PictureFile {
            sampler: &self.config.sample.sampler,
            weights: self.weights.to_string(),
            step: self.step(),
        }
    }
}
