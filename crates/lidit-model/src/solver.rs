//! The steps of every sampler, as numbers.

use crate::diffusion::Diffusion;
use crate::noise_level::NoiseLevel;
use crate::objective::Objective;
use crate::sampler::SamplerKind;

/// Where DPM-Solver++ starts on a straight path, as diffusers' does: at 1 there is no signal and no log-SNR.
const STRAIGHT_START: f64 = 0.999;

/// One step. Every rule is linear in what it knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Update {
    /// What the network is told, 0..1000.
    pub time: f64,
    /// The estimate of the clean picture.
    pub clean: Linear,
    /// The next x, but for the two terms below.
    pub next: Linear,
    /// Factor of the estimate of the clean picture one step before.
    pub former: f64,
    /// Factor of fresh noise.
    pub fresh: f64,
}

/// `x * (noisy picture) + prediction * (what the network says)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear {
    pub x: f64,
    pub prediction: f64,
}

impl Linear {
    fn plus(self, factor: f64, other: Self) -> Self {
        Self {
            x: self.x + factor * other.x,
            prediction: self.prediction + factor * other.prediction,
        }
    }

    fn times(self, factor: f64) -> Self {
        Self {
            x: factor * self.x,
            prediction: factor * self.prediction,
        }
    }
}

const X: Linear = Linear {
    x: 1.0,
    prediction: 0.0,
};

/// The steps from noise to pictures of `image_tokens`. The sampler suits the objective.
pub(crate) fn updates(kind: SamplerKind, objective: &Objective, steps: usize, image_tokens: usize) -> Vec<Update> {
    let levels = levels(kind, objective, steps, image_tokens);
    let update = |i: usize| {
        let (from, to) = (levels[i], levels[i + 1]);
        let update = |next| Update {
            time: from.time,
            clean: clean(objective, from),
            next,
            former: 0.0,
            fresh: 0.0,
        };
        match kind {
            SamplerKind::Ddim | SamplerKind::Euler => update(along_the_path(objective, from, to)),
            SamplerKind::Ddpm => {
                let (next, fresh) = ancestral(objective, from, to);
                Update { fresh, ..update(next) }
            }
            SamplerKind::DpmSolverPp2m => {
                // The first step has no step behind it, the last an infinite log-SNR ahead of it.
                let before = (i > 0 && i + 1 < steps).then(|| levels[i - 1]);
                let (next, former) = second_order(objective, before, from, to);
                Update { former, ..update(next) }
            }
        }
    };
    (0..steps).map(update).collect()
}

/// The levels that a sampler visits, noisiest first, `steps + 1` of them; the last is the clean picture.
///
/// Their spacing is "trailing" (arXiv 2305.08891, table 2): even steps that begin at the noisiest level.
fn levels(kind: SamplerKind, objective: &Objective, steps: usize, image_tokens: usize) -> Vec<NoiseLevel> {
    let mut levels: Vec<NoiseLevel> = match objective {
        Objective::Epsilon(diffusion) | Objective::Velocity(diffusion) => {
            let table = match kind {
                SamplerKind::DpmSolverPp2m => diffusion.levels_with_signal(image_tokens),
                _ => diffusion.levels(image_tokens),
            };
            (0..steps).map(|i| table[trailing(diffusion, steps, i)]).collect()
        }
        Objective::RectifiedFlow(flow) => {
            let start = match kind {
                SamplerKind::DpmSolverPp2m => STRAIGHT_START,
                _ => 1.0,
            };
            let time = |i: usize| start * (steps - i) as f64 / steps as f64;
            (0..steps).map(|i| flow.level(time(i), image_tokens)).collect()
        }
    };
    levels.push(NoiseLevel::CLEAN);
    levels
}

/// The level of step `i` of `steps`: rounded as diffusers rounds, halves to even.
fn trailing(diffusion: &Diffusion, steps: usize, i: usize) -> usize {
    let end = (steps - i) as f64 * diffusion.num_timesteps as f64 / steps as f64;
    end.round_ties_even() as usize - 1
}

/// The clean picture, by what the network predicts.
fn clean(objective: &Objective, level: NoiseLevel) -> Linear {
    let NoiseLevel { signal, noise, .. } = level;
    let (x, prediction) = match objective {
        Objective::Epsilon(_) => (1.0 / signal, -noise / signal),
        Objective::Velocity(_) => (signal, -noise),
        Objective::RectifiedFlow(_) => (1.0, -noise),
    };
    Linear { x, prediction }
}

/// The noise, by what the network predicts.
fn noise(objective: &Objective, level: NoiseLevel) -> Linear {
    let NoiseLevel { signal, noise, .. } = level;
    let (x, prediction) = match objective {
        Objective::Epsilon(_) => (0.0, 1.0),
        Objective::Velocity(_) => (noise, signal),
        Objective::RectifiedFlow(_) => (1.0, signal),
    };
    Linear { x, prediction }
}

/// DDIM, and Euler on a straight path: picture and noise as estimated, mixed as the next level mixes them.
fn along_the_path(objective: &Objective, from: NoiseLevel, to: NoiseLevel) -> Linear {
    clean(objective, from)
        .times(to.signal)
        .plus(to.noise, noise(objective, from))
}

/// DDPM's posterior: its mean, and its standard deviation.
fn ancestral(objective: &Objective, from: NoiseLevel, to: NoiseLevel) -> (Linear, f64) {
    let square = |x: f64| x * x;
    // The variance left of the next level's picture, and what was added on the way here.
    let alpha = square(from.signal / to.signal);
    let beta = 1.0 - alpha;
    let mean = clean(objective, from)
        .times(to.signal * beta / square(from.noise))
        .plus(alpha.sqrt() * square(to.noise / from.noise), X);
    (mean, (square(to.noise / from.noise) * beta).sqrt())
}

/// DPM-Solver++ 2M with lambda = ln(signal / noise): the next x without the former estimate, and that one's factor.
fn second_order(objective: &Objective, before: Option<NoiseLevel>, from: NoiseLevel, to: NoiseLevel) -> (Linear, f64) {
    let lambda = |level: NoiseLevel| (level.signal / level.noise).ln();
    let kept = to.noise / from.noise;
    // signal' (1 - exp(-h)), h = lambda' - lambda
    let gain = to.signal - from.signal * kept;
    let extrapolated = before.map_or(0.0, |before| {
        let (h, former_h) = (lambda(to) - lambda(from), lambda(from) - lambda(before));
        h / former_h / 2.0
    });
    let next = X.times(kept).plus(gain * (1.0 + extrapolated), clean(objective, from));
    (next, -gain * extrapolated)
}
