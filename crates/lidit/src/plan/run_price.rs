//! The price of one run.

use anyhow::{Result, ensure};
use lidit_model::{Conditioning, ImageTokens, ParameterCounts, forward_flops, parameter_counts};
use lidit_train::{EncodePrice, MemoryEstimate, Ranks, Remember, RunConfig, Sharding, TokenSample};
use serde::Serialize;

/// Numbers of ranks that the table of memory shows.
const WORLDS: [u64; 4] = [1, 8, 64, 512];
/// Settings of `train.recompute_blocks` that it shows.
const RECOMPUTE: [usize; 4] = [0, 1, 2, 4];

/// What a run costs.
pub struct Plan {
    /// Trainable parameters, by part.
    pub params: ParameterCounts,
    /// FLOPs of the network's forward pass of one image.
    pub forward: f64,
    /// Of one rank's device.
    pub memory: MemoryEstimate,
    /// What the frozen encoders add.
    pub encoders: EncodePrice,
    /// FLOPs of the whole run.
    pub compute: Compute,
    /// Of one rank's device, with other numbers of ranks and other recomputation.
    pub memory_table: Vec<MemoryRow>,
}

/// Floating-point operations of a whole run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Compute {
    /// Training the network, three times its forward passes: `C_model`, the law's variable.
    pub model: f64,
    /// The frozen language models, forward only, the way the config has their states; nothing where they are read from
    /// features, which `lidit cache` has paid for.
    pub encoder: f64,
}

/// A device's memory under one setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryRow {
    /// Ranks of the run.
    pub world: u64,
    /// Who owns the optimizer's state.
    pub sharding: Sharding,
    /// `train.recompute_blocks`.
    pub recompute_blocks: usize,
    /// On each device.
    pub bytes: u64,
}

impl Compute {
    /// `C_total`.
    pub fn total(self) -> f64 {
        self.model + self.encoder
    }
}

impl Plan {
    /// Prices `config` with a sample of its captions, for a sweep of `runs` runs of such `ranks` each.
    pub fn of(config: &RunConfig, sample: TokenSample, runs: u64, ranks: Ranks) -> Result<Self> {
        let conditioning = Conditioning {
            context_dims: sample.dims(),
            input_norm: config.encoders.input_norm,
            pooling: config.encoders.pooling,
        };
        let token = config.token_pixels()?;
        let pixels = config.data.image_size;
        ensure!(
            pixels.is_multiple_of(token),
            "data.image_size is {pixels}: it must be a multiple of a token's {token} pixels"
        );
        let side = (pixels / token) as usize;
        let image = ImageTokens {
            rows: side,
            columns: side,
        };
        let params = parameter_counts(&config.model, &conditioning);
        let flops = |text: &Vec<_>| forward_flops(&config.model, &conditioning, image, text) as f64;
        let forward = sample.tokens().iter().map(flops).sum::<f64>() / sample.tokens().len() as f64;
        let loaded = match config.encoders.features {
            Some(_) => 0,
            None => sample.weight_bytes(),
        };
        let longest = sample.longest();
        let memory_of = |config: &RunConfig, world_size| {
            let ranks = Ranks { world_size, ..ranks };
            MemoryEstimate::new(
                &config.model,
                &config.train,
                params.total(),
                ranks,
                image,
                &longest,
                loaded,
            )
        };
        let world = ranks.world_size;
        let memory = memory_of(config, world);
        let memory_table = memory_table(config, world, &|config, world| memory_of(config, world).total());
        let seen = (config.train.steps * config.train.global_batch as u64) as f64;
        let encoders = EncodePrice::new(config, sample, runs, 3.0 * forward);
        Ok(Self {
            compute: Compute {
                model: seen * 3.0 * forward,
                encoder: encoder_flops(config, &encoders),
            },
            params,
            forward,
            memory,
            encoders,
            memory_table,
        })
    }
}

/// What the language models compute in one run.
fn encoder_flops(config: &RunConfig, price: &EncodePrice) -> f64 {
    match (&config.encoders.features, config.encoders.remember) {
        (Some(_), _) => 0.0,
        (None, Remember::Dataset) => price.remember_flops / price.runs as f64,
        (None, Remember::Nothing) => price.on_the_fly_flops / price.runs as f64,
    }
}

/// The config's own setting is among the rows. A run has no more ranks than samples in a batch.
fn memory_table(config: &RunConfig, world: u64, bytes: &dyn Fn(&RunConfig, u64) -> u64) -> Vec<MemoryRow> {
    let mut worlds: Vec<u64> = WORLDS
        .into_iter()
        .filter(|&w| w <= config.train.global_batch as u64)
        .chain([world])
        .collect();
    worlds.sort_unstable();
    worlds.dedup();
    let depth = config.model.depth;
    let mut settings: Vec<usize> = RECOMPUTE
        .into_iter()
        .filter(|&n| n < depth)
        .chain([config.train.recompute_blocks])
        .collect();
    settings.sort_unstable();
    settings.dedup();
    let mut rows = Vec::new();
    for &world in &worlds {
        // On one rank the two are the same.
        let shardings: &[Sharding] = if world == 1 {
            &[Sharding::None]
        } else {
            &[Sharding::None, Sharding::Zero1]
        };
        for &sharding in shardings {
            for &recompute_blocks in &settings {
                let mut config = config.clone();
                config.train.sharding = sharding;
                config.train.recompute_blocks = recompute_blocks;
                rows.push(MemoryRow {
                    world,
                    sharding,
                    recompute_blocks,
                    bytes: bytes(&config, world),
                });
            }
        }
    }
    rows
}
