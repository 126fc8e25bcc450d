//! From noise to images.

use burn::module::Module;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::config::InvalidConfig;
use crate::lidit::LiDit;
use crate::objective::Objective;
use crate::prompts::PromptBatch;
use crate::solver::{Update, updates};

/// How images are drawn; the table `[sample.sampler]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampler {
    /// The rule of one step; must suit the objective.
    pub kind: SamplerKind,
    /// Number of steps.
    pub steps: usize,
    /// Classifier-free guidance: 1 follows the prompt as trained, more exaggerates it.
    pub guidance: f64,
    /// Times, 0 (clean) to 1 (noise), between which guidance is used; outside of them each step costs one evaluation of
    /// the network instead of two (Kynkaanniemi et al., arXiv 2404.07724).
    pub guidance_interval: [f64; 2],
    /// 0 to 1: how far a guided prediction is scaled back to the contrast of the unguided one (Lin et al., arXiv
    /// 2305.08891, section 3.4).
    pub guidance_rescale: f64,
}

/// The rule of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplerKind {
    /// Ancestral: fresh noise after each step, of the smaller variance (Ho et al., arXiv 2006.11239, equation 7).
    Ddpm,
    /// DDIM without noise, eta 0 (Song et al., arXiv 2010.02502, equation 12).
    Ddim,
    /// DPM-Solver++ 2M: second order, from the estimates of the picture at two levels (Lu et al., arXiv 2211.01095,
    /// algorithm 2; the last step is of first order).
    #[serde(rename = "dpm_solver_pp_2m")]
    DpmSolverPp2m,
    /// Euler's, along straight paths.
    Euler,
}

/// Where a drawing starts.
pub struct Start<'a> {
    /// `[B, C, H, W]`, standard normal, the caller's.
    pub noise: Tensor<4>,
    /// Tokens that the network makes of each of these images; a shift may depend on it.
    pub image_tokens: usize,
    /// The noise of a step, counted from 0, as `noise`; asked only by samplers that add any.
    pub fresh: &'a dyn Fn(usize) -> Tensor<4>,
}

impl SamplerKind {
    /// The name in configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddpm => "ddpm",
            Self::Ddim => "ddim",
            Self::DpmSolverPp2m => "dpm_solver_pp_2m",
            Self::Euler => "euler",
        }
    }
}

impl Sampler {
    /// Refuses a sampler that cannot run a network trained for `objective`; the error names the key.
    pub fn validate(&self, objective: &Objective) -> Result<(), InvalidConfig> {
        let unsuited = |needs: &str, instead: &str| {
            let reason = format!("`{}` needs objective.kind = {needs}; use {instead}", self.kind.name());
            Err(InvalidConfig::new("sampler.kind", reason))
        };
        match (self.kind, objective) {
            (SamplerKind::Ddpm | SamplerKind::Ddim, Objective::RectifiedFlow(_)) => {
                return unsuited(
                    "`epsilon` or `velocity`",
                    "`euler` or `dpm_solver_pp_2m` for `rectified_flow`",
                );
            }
            (SamplerKind::Euler, Objective::Epsilon(_) | Objective::Velocity(_)) => {
                return unsuited("`rectified_flow`", "`ddim`, `ddpm` or `dpm_solver_pp_2m`");
            }
            (_, Objective::Epsilon(diffusion) | Objective::Velocity(diffusion))
                if self.steps > diffusion.num_timesteps =>
            {
                let most = diffusion.num_timesteps;
                let reason = format!("{} is more than objective.num_timesteps = {most}", self.steps);
                return Err(InvalidConfig::new("sampler.steps", reason));
            }
            _ => {}
        }
        if self.steps == 0 {
            return Err(InvalidConfig::new("sampler.steps", "0 is too few, use at least 1"));
        }
        self.validate_guidance()
    }

    /// Draws images `[B, C, H, W]`, without autodiff.
    ///
    /// `empty_prompts` are the states of the empty caption, as many rows as `prompts`; they are not looked at where there
    /// is no guidance. `on_step` hears the number of steps done. The sampler must have passed
    /// [`validate`](Self::validate).
    pub fn sample(
        &self,
        model: &LiDit,
        objective: &Objective,
        start: &Start<'_>,
        prompts: &[PromptBatch],
        empty_prompts: &[PromptBatch],
        on_step: impl FnMut(usize),
    ) -> Tensor<4> {
        let model = model.valid();
        let predict = |x: Tensor<4>, time: f64| {
            let [b, ..] = x.dims();
            let timesteps = Tensor::full([b], time, &x.device());
            let prompted = model.forward(x.clone(), timesteps.clone(), prompts);
            if !self.is_guided_at(time) {
                return prompted;
            }
            self.guide(prompted, model.forward(x, timesteps, empty_prompts))
        };
        self.integrate(objective, start, predict, on_step)
    }

    /// As [`sample`](Self::sample), for any network and without guidance: `predict(x [B, C, H, W], time 0..1000)`.
    pub fn integrate(
        &self,
        objective: &Objective,
        start: &Start<'_>,
        predict: impl Fn(Tensor<4>, f64) -> Tensor<4>,
        mut on_step: impl FnMut(usize),
    ) -> Tensor<4> {
        let updates = updates(self.kind, objective, self.steps, start.image_tokens);
        let mut x = start.noise.clone().inner();
        let mut former: Option<Tensor<4>> = None;
        for (i, update) in updates.iter().enumerate() {
            let prediction = predict(x.clone(), update.time);
            let clean = (self.kind == SamplerKind::DpmSolverPp2m)
                .then(|| x.clone().mul_scalar(update.clean.x) + prediction.clone().mul_scalar(update.clean.prediction));
            x = step(update, x, prediction, former, i, start);
            former = clean;
            on_step(i + 1);
        }
        x
    }
}

fn step(
    update: &Update,
    x: Tensor<4>,
    prediction: Tensor<4>,
    former: Option<Tensor<4>>,
    i: usize,
    start: &Start<'_>,
) -> Tensor<4> {
    let mut next = x.mul_scalar(update.next.x) + prediction.mul_scalar(update.next.prediction);
    if let Some(former) = former {
        next = next + former.mul_scalar(update.former);
    }
    if update.fresh > 0.0 {
        next = next + (start.fresh)(i).inner().mul_scalar(update.fresh);
    }
    next
}

#[cfg(test)]
mod tests;
