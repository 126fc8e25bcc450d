//! The config of `lidit vae train`.

use anyhow::{Result, ensure};
use lidit_data::DataConfig;
use lidit_encoders::vae::NetworkConfig;
use serde::{Deserialize, Serialize};

const FORMAT_VERSION: u32 = 1;

/// What to train on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaeTraining {
    /// 1.
    pub format_version: u32,
    /// The network.
    pub network: NetworkConfig,
    /// What it is trained for.
    pub loss: LossConfig,
    /// How.
    pub train: VaeTrainConfig,
    /// The pictures; captions are not used.
    pub data: DataConfig,
}

/// Weights of the loss's terms; `docs/vae.md` has the formulas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossConfig {
    /// Which difference of pixels.
    pub reconstruction: Reconstruction,
    /// Weight of the KL divergence to the standard normal, mean over latents.
    pub kl: f64,
    /// Weight of the perceptual distance; 0 leaves its network out.
    pub perceptual: f64,
    /// The perceptual distance's network: `efficientnet-lite0`, or the path of its weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<String>,
}

/// A mean over all values of a picture in [-1, 1].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reconstruction {
    /// Absolute differences.
    L1,
    /// Squared differences.
    L2,
}

/// Optimizer and rhythm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaeTrainConfig {
    /// Of first weights, order and noise.
    pub seed: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Pictures a step.
    pub batch: usize,
    /// Peak learning rate of Adam.
    pub lr: f64,
    /// Of the peak, at the last step.
    pub min_lr_ratio: f64,
    /// Steps up to the peak.
    pub warmup_steps: u64,
    /// Of Adam's moments.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Larger gradients are scaled down to this norm.
    pub max_grad_norm: f64,
    /// Steps between lines of `metrics.jsonl`.
    pub log_every: u64,
    /// Steps between saved states.
    pub checkpoint_every: u64,
    /// Steps between pictures of reconstructions; 0 draws none.
    pub grid_every: u64,
    /// Pictures in each.
    pub grid_pictures: u64,
    /// Pictures whose latents give `scaling_factor` and `shift_factor`.
    pub scale_pictures: u64,
}

impl VaeTraining {
    /// Refuses values that can't be meant, naming the key.
    pub fn validate(&self) -> Result<()> {
        let version = self.format_version;
        ensure!(
            version == FORMAT_VERSION,
            "format_version is {version}, this lidit reads {FORMAT_VERSION}"
        );
        let NetworkConfig {
            block_out_channels: channels,
            layers_per_block,
            latent_channels,
            norm_num_groups: groups,
            ..
        } = &self.network;
        ensure!(!channels.is_empty(), "network.block_out_channels is empty");
        ensure!(
            *groups > 0 && channels.iter().all(|c| *c > 0 && c % groups == 0),
            "network.norm_num_groups is {groups}: it must divide every number in network.block_out_channels {channels:?}"
        );
        ensure!(*layers_per_block > 0, "network.layers_per_block is 0");
        ensure!(*latent_channels > 0, "network.latent_channels is 0");
        self.loss.validate()?;
        self.train.validate()
    }
}

impl LossConfig {
    fn validate(&self) -> Result<()> {
        for (key, weight) in [("loss.kl", self.kl), ("loss.perceptual", self.perceptual)] {
            ensure!(
                weight >= 0.0 && weight.is_finite(),
                "{key} is {weight}: it must be 0 or more"
            );
        }
        ensure!(
            self.perceptual == 0.0 || self.features.is_some(),
            "loss.perceptual is {}: name its network in loss.features, such as \"efficientnet-lite0\"",
            self.perceptual
        );
        Ok(())
    }
}

impl VaeTrainConfig {
    fn validate(&self) -> Result<()> {
        for (key, count) in [
            ("train.steps", self.steps),
            ("train.batch", self.batch as u64),
            ("train.log_every", self.log_every),
            ("train.checkpoint_every", self.checkpoint_every),
            ("train.grid_pictures", self.grid_pictures),
            ("train.scale_pictures", self.scale_pictures),
        ] {
            ensure!(count > 0, "{key} is 0");
        }
        let positive = |number: f64| number.is_finite() && number > 0.0;
        ensure!(positive(self.lr), "train.lr is {}: it must be above 0", self.lr);
        ensure!(
            positive(self.max_grad_norm),
            "train.max_grad_norm is {}: it must be above 0",
            self.max_grad_norm
        );
        ensure!(
            positive(f64::from(self.eps)),
            "train.eps is {}: it must be above 0",
            self.eps
        );
        ensure!(
            (0.0..=1.0).contains(&self.min_lr_ratio),
            "train.min_lr_ratio is {}: it must be from 0 to 1",
            self.min_lr_ratio
        );
        ensure!(
            self.betas.iter().all(|beta| (0.0..1.0).contains(beta)),
            "train.betas are {:?}: each must be from 0 to below 1",
            self.betas
        );
        Ok(())
    }
}
