//! Training's own step on its own or made-up inputs, without a run directory.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use lidit_data::{Dataset, LoadedStep, Loader, LoaderConfig, MicroBatch, Share};
use lidit_dist::World;
use lidit_model::{Conditioning, LiDit};

use crate::checkpoint_writer::Progress;
use crate::conditioner::Conditioner;
use crate::config::RunConfig;
use crate::gradients::Ownership;
use crate::latents::LatentSpace;
use crate::layout::FlatLayout;
use crate::phase_clock::{Phase, PhaseClock};
use crate::state::TrainState;
use crate::step::Stepper;
use crate::step_stats::StepStats;
use crate::stop::Stop;
use crate::synthetic::{SyntheticInputs, SyntheticShape};
use crate::train::{conditioner, remember};

/// A run that trains and writes nothing, on one process.
pub struct StepBench {
    config: RunConfig,
    conditioner: Conditioner,
    conditioning: Conditioning,
    latents: LatentSpace,
    layout: FlatLayout,
    ownership: Ownership,
    inputs: Inputs,
    state: TrainState,
    world: World,
    stop: Stop,
    device: Device,
}

/// Where a step's samples come from.
enum Inputs {
    /// The run's data.
    Loader(Loader),
    /// Nowhere: they are made up.
    Synthetic(Arc<SyntheticInputs>),
}

impl StepBench {
    /// The run of `config` as `lidit train` would begin it, from random weights. `device` is without autodiff; `locate`
    /// turns a language model's name or path into its file.
    pub fn new(config: RunConfig, device: &Device, locate: &dyn Fn(&str) -> Result<PathBuf>) -> Result<Self> {
        let dataset = Dataset::open(&config.data)?;
        let latents = LatentSpace::open(&config.vae, &config.model, device)?;
        let mut conditioner = conditioner(&config, &dataset, &latents, device, locate)?;
        remember(&mut conditioner, &config, &dataset, |_, _| ())?;
        let stream = LoaderConfig {
            seed: config.train.seed,
            global_batch: config.train.global_batch,
            micro_batch: config.train.micro_batch,
            share: Share::ALL,
            wanted: conditioner.wanted(),
            start_step: 0,
        };
        for size in dataset.order(stream.seed, stream.global_batch).sizes() {
            latents.check_size(size, config.model.patch_size)?;
        }
        let loader = Loader::new(dataset, stream)?;
        conditioner.start(stream)?;
        Ok(Self::with(config, device, conditioner, latents, Inputs::Loader(loader)))
    }

    /// The same step on made-up inputs of `shape`: nothing that `config` names is read.
    ///
    /// # Errors
    /// The network does not take such inputs.
    pub fn synthetic(config: RunConfig, device: &Device, shape: &SyntheticShape) -> Result<Self> {
        shape.validate(config.model.patch_size)?;
        config
            .model
            .validate(shape.context_dims.len(), shape.size as usize)
            .context("with --context-dims and --size")?;
        let channels = config.model.in_channels;
        let inputs = Arc::new(SyntheticInputs::new(shape, channels, config.train.global_batch));
        let conditioner = Conditioner::synthetic(inputs.clone(), device);
        let latents = LatentSpace::Given { channels };
        Ok(Self::with(
            config,
            device,
            conditioner,
            latents,
            Inputs::Synthetic(inputs),
        ))
    }

    fn with(
        mut config: RunConfig,
        device: &Device,
        conditioner: Conditioner,
        latents: LatentSpace,
        inputs: Inputs,
    ) -> Self {
        // A spike's micro-batches are run twice.
        config.train.spike_zscore = 0.0;
        let (world, device) = (World::solo(), device.clone().autodiff());
        let conditioning = conditioner.conditioning(&config.encoders);
        let model = LiDit::init(&config.model, &conditioning, config.train.seed, &device);
        let layout = FlatLayout::of(&model);
        let ownership = Ownership::new(&config.train, &layout, world.rank(), world.size());
        let state = TrainState::new(&config, &layout, &ownership, model);
        Self {
            config,
            conditioner,
            conditioning,
            latents,
            layout,
            ownership,
            inputs,
            state,
            world,
            stop: Stop::default(),
            device,
        }
    }

    /// What the network knows of its conditioning.
    pub fn conditioning(&self) -> &Conditioning {
        &self.conditioning
    }

    /// Trainable parameters.
    pub fn parameters(&self) -> usize {
        self.layout.len()
    }

    /// Loads and makes the next step; `clock` hears where its time goes.
    ///
    /// # Errors
    /// Inputs can't be read, or loss or gradient are not finite: such a step updates nothing.
    pub fn step(&mut self, clock: Option<&PhaseClock>) -> Result<StepStats> {
        if let Some(clock) = clock {
            clock.start();
        }
        let micro_batches = self.load()?;
        if let Some(clock) = clock {
            clock.mark(Phase::Data);
        }
        let stepper = Stepper {
            config: &self.config,
            conditioner: &self.conditioner,
            latents: &self.latents,
            conditioning: &self.conditioning,
            layout: &self.layout,
            ownership: &self.ownership,
            world: &self.world,
            device: &self.device,
            stop: &self.stop,
            saving: Progress::default(),
            fault: None,
            clock,
        };
        let stats = stepper.step(&mut self.state, &micro_batches)?;
        if stats.is_skipped() {
            bail!(
                "step {}: loss {}, gradient norm {}: not finite, so nothing was updated; lower train.lr",
                self.state.step,
                stats.loss,
                stats.grad_norm
            );
        }
        Ok(stats)
    }

    fn load(&mut self) -> Result<Vec<MicroBatch>> {
        let loader = match &mut self.inputs {
            Inputs::Loader(loader) => loader,
            Inputs::Synthetic(inputs) => return Ok(inputs.step(self.state.step, &self.config.train)),
        };
        let mut loaded = loader.next_step()?;
        self.conditioner.next_step(&mut loaded)?;
        let LoadedStep { micro_batches, .. } = loaded;
        Ok(micro_batches)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use burn::backend::Flex;
    use burn::tensor::Tensor;

    use super::*;

    #[test]
    fn masters_and_averages_are_updated_where_they_lie() {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/run/debug.toml");
        for precision in ["f32", "bf16"] {
            let config = RunConfig::load(&config, &[format!("train.precision={precision:?}")]).unwrap();
            let shape = SyntheticShape {
                context_dims: vec![8, 12],
                text_tokens: vec![5, 3],
                size: 16,
            };
            let mut bench = StepBench::synthetic(config, &Device::flex(), &shape).unwrap();
            let address = |x: &Tensor<1>| x.clone().try_into_primitive::<Flex>().unwrap().bytes().as_ptr();
            let addresses = |state: &TrainState| {
                let averages = state.ema.iter().flat_map(crate::ema::Ema::weights);
                let vectors = state.optimizer.masters().iter().chain(averages);
                vectors.map(address).collect::<Vec<_>>()
            };
            // The first step parts what the state's vectors shared.
            bench.step(None).unwrap();
            let places = addresses(&bench.state);
            assert_eq!(places.len(), 3);
            for _ in 0..2 {
                bench.step(None).unwrap();
                assert_eq!(addresses(&bench.state), places, "{precision}");
            }
        }
    }
}
