//! Beginning a run with the weights of another one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lidit_model::LiDit;
use serde::{Deserialize, Serialize};

use crate::carry_over::{Carried, CarryOver};
use crate::checkpoint::Checkpoint;
use crate::config::{Precision, RunConfig};
use crate::gradients::Ownership;
use crate::layout::FlatLayout;
use crate::network_spec::NetworkSpec;
use crate::optimizer::{host, upload};
use crate::run_dir::RunDir;
use crate::saved_weights::SavedWeights;
use crate::state::{Identity, TrainState};
use crate::weights::Weights;

/// Whose weights a run begins with; the table `[start]`. Once the run has a checkpoint of its own it is not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartConfig {
    /// The run directory whose newest whole checkpoint is taken, or an export. A stage without it takes the stage
    /// before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<PathBuf>,
    /// `raw`, `ema` or `ema:HALF_LIFE`: which of its weights.
    pub weights: Weights,
    /// What becomes of its moments and averages.
    pub optimizer: Carry,
    /// Paths of parameters or modules (`final_layer`, `blocks.12`) that are not taken but start anew.
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
    ///
    /// # Errors
    /// The weights are of another network ([`CarryOver::carry`]); an export has no moments.
    pub(crate) fn state(
        &self,
        config: &RunConfig,
        identity: &Identity,
        layout: &FlatLayout,
        ownership: &Ownership,
        model: LiDit,
    ) -> Result<TrainState> {
        let carried = self.weights(config, identity, layout, &model)?;
        self.state_of(&carried, config, layout, ownership, model)
    }

    /// The state with weights that were carried over.
    pub(crate) fn state_of(
        &self,
        carried: &Carried,
        config: &RunConfig,
        layout: &FlatLayout,
        ownership: &Ownership,
        model: LiDit,
    ) -> Result<TrainState> {
        let device = layout.values(&model).device();
        let own = ownership.own();
        let mut state = TrainState::new(
            config,
            layout,
            ownership,
            layout.load(&upload(&carried.weights, &device), Precision::F32, model),
        );
        if self.optimizer == Carry::Carry {
            let run = RunDir::find(self.source()?).context("start.run")?;
            let checkpoint = Checkpoint::newest_of(&run).context("start.optimizer is `carry`")?;
            checkpoint.check_layout(layout.entries())?;
            state.optimizer.restore(&checkpoint.moments(own.clone())?, &device);
            for ema in &mut state.ema {
                if checkpoint.manifest().ema_half_lives.contains(&ema.half_life()) {
                    let weights = upload(&checkpoint.ema(ema.half_life())?[own.clone()], &device);
                    ema.restore(ownership.split(&weights));
                }
            }
        }
        Ok(state)
    }

    /// The weights that a run begins with, and which of them are `model`'s own.
    pub(crate) fn weights(
        &self,
        config: &RunConfig,
        identity: &Identity,
        layout: &FlatLayout,
        model: &LiDit,
    ) -> Result<Carried> {
        let saved = SavedWeights::open(self.source()?, self.weights).context("start.run")?;
        let network = NetworkSpec::of(config, layout.entries(), &identity.encoders, &identity.vae)?;
        let carry_over = CarryOver {
            saved: &saved,
            network: &network,
            layout: layout.entries(),
            fresh: &self.fresh,
        };
        carry_over.carry(host(&layout.values(model))).context("start.run")
    }

    fn source(&self) -> Result<&Path> {
        self.run.as_deref().context(
            "start.run is missing: name the run directory whose weights are taken (only a stage knows the one before it)",
        )
    }
}
