//! One sample of a step, run alone: whether it breaks the step, and where.

use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::Tensor;
use lidit_data::{Dataset, MicroBatch, Quarantined};
use serde::Serialize;

use super::{Pass, slice};
use crate::incident::MicroBatchReport;
use crate::layout::FlatLayout;
use crate::optimizer::host;
use crate::sample_draws::draw;
use crate::state::TrainState;
use crate::step::Stepper;

/// A sample of a step, and what forward and backward made of it alone.
#[derive(Clone, Debug, Serialize)]
pub struct Suspect {
    /// Row number in the whole dataset.
    pub id: u64,
    /// Its epoch, which keys its noise.
    pub epoch: u64,
    /// The shard that it lies in.
    pub shard: PathBuf,
    /// Row in the shard, from 0.
    pub row: u64,
    /// Its caption, before dropout.
    pub caption: String,
    /// The rank that had it.
    pub rank: usize,
    /// The number of the micro-batch.
    pub micro_batch: usize,
    /// Its place there.
    pub index: usize,
    /// Its loss.
    pub loss: f64,
    /// L2 norm of its gradient.
    pub grad_norm: f64,
}

impl Suspect {
    /// Runs sample `index` of `samples` alone, the micro-batch `place` (rank, number).
    pub(crate) fn alone(
        stepper: &Stepper<'_>,
        state: &TrainState,
        dataset: &Dataset,
        samples: &MicroBatch,
        index: usize,
        place: (usize, usize),
    ) -> Result<Self> {
        let alone = slice(samples, index..index + 1);
        let (gradient, sums) = stepper.accumulate(state, std::slice::from_ref(&alone), |_, _, _| ())?;
        let report = MicroBatchReport::of(&alone, sums.loss, &gradient);
        let id = samples.ids[index];
        let Quarantined { shard, row, .. } = dataset.unusable(id, String::new());
        Ok(Self {
            id,
            epoch: samples.epochs[index],
            shard,
            row,
            caption: samples.captions[index].clone(),
            rank: place.0,
            micro_batch: place.1,
            index,
            loss: report.loss,
            grad_norm: report.grad_norm,
        })
    }

    /// Whether loss and gradient are.
    pub(crate) fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

/// Where the numbers of `alone`, a sample whose loss or gradient is not finite, break first: the weights; forward, what
/// enters the network or the first part whose output is not finite, or the loss; backward, where the forward pass is
/// finite, the last part (so the first that the backward pass reaches) whose gradient is not.
pub(crate) fn locate(stepper: &Stepper<'_>, state: &TrainState, alone: &MicroBatch) -> Result<(Pass, String)> {
    let parts = state.model.parts();
    if let Some(part) = first_broken(
        parts.iter(),
        stepper.layout,
        &host(&stepper.layout.values(&state.model)),
    ) {
        return Ok((Pass::Weights, part));
    }
    let image = stepper.image(alone.size);
    let train = &stepper.config.train;
    let images = stepper.images(alone)?;
    let drawn = draw(
        alone,
        images,
        image.rows * image.columns,
        train.seed,
        train.caption_dropout,
    );
    let prompts = stepper.conditioner.condition_samples(&alone.ids, &drawn.captions)?;
    let noised = stepper.config.objective.noise(&drawn.batch);
    let mut broken = None;
    let watch = |name: &str, values: Tensor<1>| {
        if broken.is_none() && !is_finite(&host(&values.inner())) {
            broken = Some(name.to_owned());
        }
    };
    state
        .model
        .forward_watched(noised.input, noised.timesteps, &prompts.batches, watch);
    if let Some(part) = broken {
        return Ok((Pass::Forward, part));
    }
    let (losses, gradient) = stepper.loss_and_gradient(&state.model, &drawn.batch, &prompts.batches);
    if !is_finite(&host(&losses.sum.inner())) {
        return Ok((Pass::Forward, "loss".to_owned()));
    }
    let part = first_broken(parts.iter().rev(), stepper.layout, &host(&gradient));
    // A norm may overflow where no gradient does.
    Ok((Pass::Backward, part.unwrap_or_else(|| "gradient norm".to_owned())))
}

/// The first of `parts` with a number in `flat`, one a parameter, that is not finite.
fn first_broken<'a>(mut parts: impl Iterator<Item = &'a String>, layout: &FlatLayout, flat: &[f32]) -> Option<String> {
    let is_broken = |part: &&String| {
        let mut entries = layout.entries().iter();
        entries.any(|entry| {
            let belongs = entry
                .name
                .strip_prefix(part.as_str())
                .is_some_and(|rest| rest.starts_with('.'));
            belongs && !is_finite(&flat[entry.range()])
        })
    };
    parts.find(is_broken).cloned()
}

fn is_finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use lidit_model::Role;

    use super::*;
    use crate::layout::Entry;

    #[test]
    fn the_backward_pass_breaks_in_the_part_nearest_to_the_loss() {
        let names = [
            "blocks.1.mlp.linear_in.bias",
            "blocks.10.mlp.linear_in.bias",
            "timestep.linear_in.bias",
        ];
        let entries = names.map(|name| Entry {
            name: name.to_owned(),
            shape: vec![2],
            offset: 0,
            group: Role::of(name),
        });
        let layout = FlatLayout::from_entries(entries.to_vec());
        let parts = ["timestep", "blocks.1", "blocks.10"].map(str::to_owned);
        let mut flat = [0.0; 6];
        let broken = |flat: &[f32]| first_broken(parts.iter().rev(), &layout, flat);
        assert_eq!(broken(&flat), None);
        for name in [
            "timestep.linear_in.bias",
            "blocks.1.mlp.linear_in.bias",
            "blocks.10.mlp.linear_in.bias",
        ] {
            let entry = layout.entries().iter().find(|entry| entry.name == name);
            let end = entry.map_or(0, |entry| entry.range().end);
            flat[end - 1] = f32::NEG_INFINITY;
            let part = broken(&flat);
            assert!(part.is_some_and(|part| name.starts_with(&format!("{part}."))), "{name}");
        }
    }
}
