//! The coordinate check: how much training moves activations, by width (Yang et al., arXiv 2203.03466, appendix D.1).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use lidit_data::{Dataset, Loader, LoaderConfig, MicroBatch, Share, Wanted};
use lidit_dist::World;
use lidit_model::{LiDit, Parametrization, PromptBatch, VisibleKeys};

use crate::checkpoint_writer::Progress;
use crate::conditioner::Conditioner;
use crate::config::RunConfig;
use crate::gradients::Ownership;
use crate::latents::LatentSpace;
use crate::layout::FlatLayout;
use crate::sample_draws::draw;
use crate::state::TrainState;
use crate::step::Stepper;
use crate::stop::Stop;

/// Trains a config's network for a few steps at several widths, with and without muP.
pub struct CoordinateCheck<'a> {
    /// Data, encoders, depth, features of a head, and the rate; its warm-up and decay are left out.
    pub config: RunConfig,
    /// Widths to train, muP's base width first; multiples of the config's `head_dim`.
    pub widths: &'a [usize],
    /// Optimizer steps. Gates and final layer start at zero, so the blocks move from the second step on.
    pub steps: usize,
    /// Where to compute, without autodiff.
    pub device: Device,
    /// Turns a language model's name or path into its file.
    pub locate: &'a dyn Fn(&str) -> Result<PathBuf>,
}

/// One activation of one network after one step, on the first step's batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Coordinate {
    /// `standard` or `mup`.
    pub parametrization: &'static str,
    /// Of the network.
    pub width: usize,
    /// Optimizer steps made, from 1.
    pub step: usize,
    /// `conditioning`, `text`, `blocks.0` (what leaves it), .. or `output`.
    pub layer: String,
    /// Root mean square of the activation.
    pub size: f64,
    /// Root mean square of its change since the start.
    pub change: f64,
}

impl CoordinateCheck<'_> {
    /// Trains all of them. `on_network` hears which one begins.
    pub fn run(mut self, mut on_network: impl FnMut(&str, usize)) -> Result<Vec<Coordinate>> {
        let head_dim = self.config.model.head_dim();
        let base_width = *self.widths.first().context("no width to train")?;
        self.config.train.warmup_steps = 0;
        self.config.train.min_lr_ratio = 1.0;
        self.config.train.ema_half_lives.clear();
        let conditioner = Conditioner::load(&self.config.encoders, &self.device, self.locate)?;
        let latents = LatentSpace::open(&self.config.vae, &self.config.model, &self.device)?;
        let steps = self.batches()?;
        let mut coordinates = Vec::new();
        for parametrization in [Parametrization::Standard, Parametrization::Mup { base_width }] {
            let name = match parametrization {
                Parametrization::Standard => "standard",
                Parametrization::Mup { .. } => "mup",
            };
            for &width in self.widths {
                ensure!(
                    width > 0 && width.is_multiple_of(head_dim),
                    "width {width} is not a multiple of the {head_dim} features of a head, which muP leaves as they are"
                );
                on_network(name, width);
                let mut config = self.config.clone();
                config.model.hidden_size = width;
                config.model.num_heads = width / head_dim;
                config.model.parametrization = parametrization;
                config.validate()?;
                let moved = train(&config, &conditioner, &latents, &steps, &self.device)?;
                coordinates.extend(moved.into_iter().map(|(step, layer, [size, change])| Coordinate {
                    parametrization: name,
                    width,
                    step,
                    layer,
                    size,
                    change,
                }));
            }
        }
        Ok(coordinates)
    }

    fn batches(&self) -> Result<Vec<Vec<MicroBatch>>> {
        let train = &self.config.train;
        let stream = LoaderConfig {
            seed: train.seed,
            global_batch: train.global_batch,
            micro_batch: train.micro_batch,
            share: Share::ALL,
            wanted: Wanted::All,
            start_step: 0,
        };
        let mut loader = Loader::new(Dataset::open(&self.config.data)?, stream)?;
        (0..self.steps).map(|_| Ok(loader.next_step()?.micro_batches)).collect()
    }
}

/// Trains one network; size and change of each activation after each step.
fn train(
    config: &RunConfig,
    conditioner: &Conditioner,
    latents: &LatentSpace,
    steps: &[Vec<MicroBatch>],
    device: &Device,
) -> Result<Vec<(usize, String, [f64; 2])>> {
    let (world, stop, tracked) = (World::solo(), Stop::default(), device.clone().autodiff());
    let conditioning = conditioner.conditioning(&config.encoders);
    let model = LiDit::init(&config.model, &conditioning, config.train.seed, &tracked);
    let layout = FlatLayout::of(&model);
    let ownership = Ownership::new(&config.train, &layout, world.rank(), world.size());
    let mut state = TrainState::new(config, &layout, &ownership, model);
    let stepper = Stepper {
        config,
        conditioner,
        latents,
        conditioning: &conditioning,
        layout: &layout,
        ownership: &ownership,
        world: &world,
        device: &tracked,
        stop: &stop,
        saving: Progress::default(),
        fault: None,
        clock: None,
    };
    let probe = steps
        .first()
        .and_then(|step| step.first())
        .context("no step to train")?;
    let (image, pictures) = (stepper.image(probe.size), stepper.images(probe)?.inner());
    let image_tokens = image.rows * image.columns;
    let drawn = draw(
        probe,
        pictures,
        image_tokens,
        config.train.seed,
        config.train.caption_dropout,
    );
    let prompts = conditioner.condition_samples(&probe.ids, &drawn.captions)?;
    let noised = config.objective.noise(&drawn.batch);
    let look = |model: &LiDit| activations(&model.valid(), &noised.input, &noised.timesteps, &prompts.batches);

    let start = look(&state.model);
    let mut moved = Vec::new();
    for (i, micro_batches) in steps.iter().enumerate() {
        let stats = stepper.step(&mut state, micro_batches)?;
        ensure!(
            !stats.is_skipped(),
            "step {}: loss {}, gradient norm {}: not finite; lower train.lr",
            i + 1,
            stats.loss,
            stats.grad_norm
        );
        for ((layer, now), (_, start)) in look(&state.model).into_iter().zip(&start) {
            let numbers = [rms(now.clone()), rms(now - start.clone())];
            moved.push((i + 1, layer, numbers));
        }
    }
    Ok(moved)
}

/// What leaves each part of `model`, without autodiff, flat.
fn activations(
    model: &LiDit,
    x: &Tensor<4>,
    timesteps: &Tensor<1>,
    prompts: &[PromptBatch],
) -> Vec<(String, Tensor<1>)> {
    let encoded = model.encode(timesteps.clone(), prompts);
    let mut found = vec![
        ("conditioning".to_owned(), encoded.conditioning.clone().flatten(0, 1)),
        ("text".to_owned(), encoded.text.clone().flatten(0, 2)),
    ];
    let [_, _, height, width] = x.dims();
    let p = model.patchify.patch_size;
    let mask = VisibleKeys::keys(encoded.caption);
    let mut x = model
        .res_block
        .forward(model.patchify.forward(x.clone()), [height / p, width / p]);
    for (i, block) in model.blocks.iter().enumerate() {
        x = block.forward(x, encoded.conditioning.clone(), encoded.text.clone(), Some(&mask));
        found.push((format!("blocks.{i}"), x.clone().flatten(0, 2)));
    }
    let output = model.final_layer.forward(x, encoded.conditioning);
    found.push(("output".to_owned(), output.flatten(0, 2)));
    found
}

fn rms(x: Tensor<1>) -> f64 {
    f64::from((x.clone() * x).mean().into_scalar::<f32>()).sqrt()
}

/// The exponent with which a layer's change grows with the width after the last step, by parametrization and layer:
/// 0 where training moves all widths alike.
pub fn growth(coordinates: &[Coordinate]) -> Vec<(&'static str, String, f64)> {
    let last = coordinates.iter().map(|c| c.step).max().unwrap_or(0);
    let mut lines: Vec<(&'static str, String, Vec<[f64; 2]>)> = Vec::new();
    for c in coordinates.iter().filter(|c| c.step == last) {
        let point = [(c.width as f64).ln(), c.change.ln()];
        match lines
            .iter_mut()
            .find(|(name, layer, _)| *name == c.parametrization && *layer == c.layer)
        {
            Some((_, _, points)) => points.push(point),
            None => lines.push((c.parametrization, c.layer.clone(), vec![point])),
        }
    }
    lines
        .into_iter()
        .map(|(name, layer, points)| (name, layer, slope(&points)))
        .collect()
}

/// Of the least-squares line through `points`.
fn slope(points: &[[f64; 2]]) -> f64 {
    let n = points.len() as f64;
    let mean = |axis: usize| points.iter().map(|point| point[axis]).sum::<f64>() / n;
    let (x, y) = (mean(0), mean(1));
    let above: f64 = points.iter().map(|p| (p[0] - x) * (p[1] - y)).sum();
    let below: f64 = points.iter().map(|p| (p[0] - x) * (p[0] - x)).sum();
    above / below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_the_exponent_of_the_last_step() {
        let coordinate = |width: usize, step, change: f64| Coordinate {
            parametrization: "standard",
            width,
            step,
            layer: "text".to_owned(),
            size: 1.0,
            change,
        };
        let change = |width: usize| 0.3 * (width as f64).powf(0.75);
        let mut coordinates: Vec<Coordinate> = [64, 128, 512].map(|width| coordinate(width, 2, change(width))).to_vec();
        coordinates.push(coordinate(64, 1, 100.0));
        let growth = growth(&coordinates);
        assert_eq!(growth.len(), 1);
        assert!((growth[0].2 - 0.75).abs() < 1e-12, "{growth:?}");
    }
}
