//! Beginning a run with the weights of another one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lidit_model::LiDit;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, Weights};
use crate::config::{Precision, RunConfig};
use crate::gradients::Ownership;
use crate::layout::FlatLayout;
use crate::optimizer::upload;
use crate::run_dir::RunDir;
use crate::state::{Identity, TrainState};

/// Whose weights a run begins with; the table `[start]`. Once the run has a checkpoint of its own it is not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartConfig {
    /// The run directory whose newest whole checkpoint is taken. A stage without it takes the stage before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<PathBuf>,
    /// `raw`, `ema` or `ema:HALF_LIFE`: which of its weights.
    pub weights: Weights,
    /// What becomes of its moments and averages.
    pub optimizer: Carry,
    /// Beginnings of paths (`final_layer`, `blocks.12`) of parameters that are not taken but start anew.
    pub fresh: Vec<String>,
}

/// What becomes of moments and weight averages where a run begins with another's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carry {
    /// They go on.
    Carry,
    /// Moments begin at zero, averages at the weights.
    Restart,
}

impl StartConfig {
    /// Refuses what can't be begun with.
    pub(crate) fn validate(&self) -> Result<()> {
        ensure!(
            self.optimizer == Carry::Restart || self.fresh.is_empty(),
            "start.fresh names parameters that start anew, so start.optimizer must be `restart`"
        );
        ensure!(
            self.optimizer == Carry::Restart || self.weights == Weights::Raw,
            "start.weights is an average, which the moments do not belong to: start.optimizer must be `restart`"
        );
        Ok(())
    }

    /// The state before the first step of a run that begins here. `model` gives shapes, and what is fresh.
    pub(crate) fn state(
        &self,
        config: &RunConfig,
        identity: &Identity,
        layout: &FlatLayout,
        ownership: &Ownership,
        model: LiDit,
    ) -> Result<TrainState> {
        let run = self.run.as_deref().context(
            "start.run is missing: name the run directory whose weights are taken (only a stage knows the one before it)",
        )?;
        let checkpoint = newest(run)?;
        identity.check_frozen(&checkpoint)?;
        checkpoint.check_layout(layout.entries())?;
        let device = layout.values(&model).device();
        let own = ownership.own();
        let weights = checkpoint.weights(self.weights)?;
        let mut state = TrainState::new(
            config,
            layout,
            ownership,
            layout.load(&upload(&weights, &device), Precision::F32, model),
        );
        if self.optimizer == Carry::Carry {
            state.optimizer.restore(&checkpoint.moments(own.clone())?, &device);
            for ema in &mut state.ema {
                if checkpoint.manifest().ema_half_lives.contains(&ema.half_life()) {
                    ema.restore(upload(&checkpoint.ema(ema.half_life())?[own.clone()], &device));
                }
            }
        }
        Ok(state)
    }
}

/// The newest whole checkpoint of a run that is begun with.
fn newest(run: &Path) -> Result<Checkpoint> {
    let checkpoints = RunDir::find(run).context("start.run")?.checkpoints();
    Checkpoint::newest_verified(&checkpoints, |step, error| {
        eprintln!("warning: start.run: skipping the checkpoint of step {step}: {error:#}");
    })?
    .with_context(|| {
        format!(
            "start.run {} has no checkpoint that verifies: train it first",
            run.display()
        )
    })
}
