//! From noise to images.

use burn::module::Module;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::config::InvalidConfig;
use crate::lidit::LiDit;
use crate::objective::{Epsilon, Objective};
use crate::prompts::PromptBatch;

/// How images are drawn; the table `[sampler]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampler {
    /// The rule of one step; must suit the objective.
    pub kind: SamplerKind,
    /// Number of steps.
    pub steps: usize,
    /// Classifier-free guidance: 1 follows the prompt as trained, more exaggerates it.
    pub guidance: f64,
}

/// The rule of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplerKind {
    /// DDIM without noise (eta 0), for a network that predicts noise.
    Ddim,
    /// Euler's, for a network that predicts velocity.
    Euler,
}

impl Sampler {
    /// Refuses a sampler that cannot run a network trained for `objective`; the error names the key.
    pub fn validate(&self, objective: &Objective) -> Result<(), InvalidConfig> {
        match (self.kind, objective) {
            (SamplerKind::Ddim, Objective::RectifiedFlow(_)) => {
                return Err(InvalidConfig::new(
                    "sampler.kind",
                    "`ddim` needs objective.kind = `epsilon`; use `euler` for `rectified_flow`",
                ));
            }
            (SamplerKind::Euler, Objective::Epsilon(_)) => {
                return Err(InvalidConfig::new(
                    "sampler.kind",
                    "`euler` needs objective.kind = `rectified_flow`; use `ddim` for `epsilon`",
                ));
            }
            (SamplerKind::Ddim, Objective::Epsilon(epsilon)) if self.steps > epsilon.num_timesteps => {
                let reason = format!(
                    "{} is more than objective.num_timesteps = {}",
                    self.steps, epsilon.num_timesteps
                );
                return Err(InvalidConfig::new("sampler.steps", reason));
            }
            _ => {}
        }
        if self.steps == 0 {
            return Err(InvalidConfig::new("sampler.steps", "0 is too few, use at least 1"));
        }
        if !self.guidance.is_finite() || self.guidance < 0.0 {
            let reason = format!("{} is not a scale, use 0 or more", self.guidance);
            return Err(InvalidConfig::new("sampler.guidance", reason));
        }
        Ok(())
    }

    /// Draws images from `noise` `[B, C, H, W]` (standard normal, the caller's), without autodiff.
    ///
    /// `empty_prompts` are the states of the empty caption, as many rows as `prompts`; they are not looked at when
    /// guidance is 1. `on_step` hears the number of steps done. The sampler must have passed [`validate`](Self::validate).
    pub fn sample(
        &self,
        model: &LiDit,
        objective: &Objective,
        noise: Tensor<4>,
        prompts: &[PromptBatch],
        empty_prompts: &[PromptBatch],
        on_step: impl FnMut(usize),
    ) -> Tensor<4> {
        let model = model.valid();
        let predict = |x: Tensor<4>, timesteps: Tensor<1>| {
            let prompted = model.forward(x.clone(), timesteps.clone(), prompts);
            if (self.guidance - 1.0).abs() < f64::EPSILON {
                return prompted;
            }
            let empty = model.forward(x, timesteps, empty_prompts);
            empty.clone() + (prompted - empty).mul_scalar(self.guidance)
        };
        self.integrate(objective, noise.inner(), predict, on_step)
    }

    /// As [`sample`](Self::sample), for any network and without guidance.
    pub fn integrate(
        &self,
        objective: &Objective,
        noise: Tensor<4>,
        predict: impl Fn(Tensor<4>, Tensor<1>) -> Tensor<4>,
        mut on_step: impl FnMut(usize),
    ) -> Tensor<4> {
        let [b, ..] = noise.dims();
        let device = noise.device();
        let mut x = noise;
        for (i, step) in self.steps_of(objective).into_iter().enumerate() {
            let timesteps = Tensor::full([b], step.timestep, &device);
            let prediction = predict(x.clone(), timesteps);
            x = x.mul_scalar(step.keep) + prediction.mul_scalar(step.add);
            on_step(i + 1);
        }
        x
    }

    /// Both rules are linear, `x <- keep * x + add * prediction`.
    fn steps_of(&self, objective: &Objective) -> Vec<Step> {
        let n = self.steps;
        match objective {
            Objective::Epsilon(epsilon) => {
                let t = |i: usize| ((n - i) * epsilon.num_timesteps).div_ceil(n) - 1; // from the last to t(n - 1) > 0
                (0..n)
                    .map(|i| ddim_step(epsilon, t(i), (i + 1 < n).then(|| t(i + 1))))
                    .collect()
            }
            Objective::RectifiedFlow(_) => (0..n)
                .map(|i| Step {
                    timestep: 1000.0 * (n - i) as f64 / n as f64,
                    keep: 1.0,
                    add: -1.0 / n as f64,
                })
                .collect(),
        }
    }
}

/// `x <- keep * x + add * prediction`, the network being told `timestep`.
struct Step {
    timestep: f64,
    keep: f64,
    add: f64,
}

/// From noise level `t` to `next`, or to the clean image.
///
/// With `x = sqrt(a) x0 + sqrt(1 - a) e`: `x0 = (x - sqrt(1 - a) e) / sqrt(a)`, then `sqrt(a') x0 + sqrt(1 - a') e`.
fn ddim_step(epsilon: &Epsilon, t: usize, next: Option<usize>) -> Step {
    let a = epsilon.alpha_bar(t);
    let a_next = next.map_or(1.0, |next| epsilon.alpha_bar(next));
    let keep = (a_next / a).sqrt();
    Step {
        timestep: epsilon.model_time(t),
        keep,
        add: (1.0 - a_next).sqrt() - keep * (1.0 - a).sqrt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;
    use crate::objective::{RectifiedFlow, TimestepDensity};

    fn epsilon() -> Objective {
        Objective::Epsilon(Epsilon {
            num_timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
        })
    }

    fn flow() -> Objective {
        Objective::RectifiedFlow(RectifiedFlow {
            density: TimestepDensity::Uniform,
        })
    }

    #[test]
    fn trajectories_match_pytorch() {
        let golden = Golden::open("sampler");
        let toy =
            |x: Tensor<4>, t: Tensor<1>| x.mul_scalar(0.5) + t.reshape([2, 1, 1, 1]).mul_scalar(0.002).sub_scalar(0.3);
        for (name, kind, objective) in [
            ("ddim", SamplerKind::Ddim, epsilon()),
            ("euler", SamplerKind::Euler, flow()),
        ] {
            for steps in [1, 4, 7] {
                let sampler = Sampler {
                    kind,
                    steps,
                    guidance: 1.0,
                };
                let mut heard = Vec::new();
                let x = sampler.integrate(&objective, golden.tensor("in.noise"), toy, |step| heard.push(step));
                golden.check(&format!("out.{name}.{steps}"), x, 1e-4);
                assert_eq!(heard, (1..=steps).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn samplers_that_do_not_suit_the_objective_are_refused() {
        let key = |kind, steps, guidance, objective| {
            Sampler { kind, steps, guidance }
                .validate(&objective)
                .err()
                .map(|error| error.key)
        };
        assert_eq!(key(SamplerKind::Ddim, 50, 4.0, epsilon()), None);
        assert_eq!(key(SamplerKind::Euler, 50, 4.0, flow()), None);
        assert_eq!(key(SamplerKind::Ddim, 50, 4.0, flow()), Some("sampler.kind"));
        assert_eq!(key(SamplerKind::Euler, 50, 4.0, epsilon()), Some("sampler.kind"));
        assert_eq!(key(SamplerKind::Ddim, 1001, 4.0, epsilon()), Some("sampler.steps"));
        assert_eq!(key(SamplerKind::Euler, 0, 4.0, flow()), Some("sampler.steps"));
        assert_eq!(key(SamplerKind::Euler, 10, f64::NAN, flow()), Some("sampler.guidance"));
    }
}
