#![allow(clippy::unwrap_used)]

use std::f64::consts::FRAC_PI_2;

use super::*;
use crate::diffusion::{BetaSchedule, Diffusion};
use crate::golden::Golden;
use crate::objective::tests::{LINEAR, SCALED_LINEAR, diffusion, flow};
use crate::timestep_density::TimestepDensity;
use crate::timestep_shift::TimestepShift;

const VARIANCE: f64 = 0.25;

fn golden() -> Golden {
    Golden::open_in("schedulers", "schedulers")
}

fn sampler(kind: SamplerKind, steps: usize) -> Sampler {
    Sampler {
        kind,
        steps,
        guidance: 1.0,
        guidance_interval: [0.0, 1.0],
        guidance_rescale: 0.0,
    }
}

/// The generator's analytic model.
fn model(objective: &Objective, mean: &Tensor<4>, x: Tensor<4>, time: f64) -> Tensor<4> {
    let t = time / 1000.0;
    let (signal, noise) = match objective {
        Objective::RectifiedFlow(_) => (1.0 - t, t),
        _ => ((FRAC_PI_2 * t).cos(), (FRAC_PI_2 * t).sin()),
    };
    let total = signal * signal * VARIANCE + noise * noise;
    let centred = x - mean.clone().mul_scalar(signal);
    let z = centred.clone().mul_scalar(noise / total);
    let clean = centred.mul_scalar(signal * VARIANCE / total) + mean.clone();
    match objective {
        Objective::Epsilon(_) => z,
        Objective::Velocity(_) => z.mul_scalar(signal) - clean.mul_scalar(noise),
        Objective::RectifiedFlow(_) => z - clean,
    }
}

/// Draws the golden noise and compares with the trajectory `name` of diffusers.
fn check(name: &str, kind: SamplerKind, objective: &Objective, steps: usize) {
    let golden = golden();
    let fresh: Tensor<5> = golden.tensor("in.fresh");
    let start = Start {
        noise: golden.tensor("in.noise"),
        image_tokens: 64,
        fresh: &|step| fresh.clone().narrow(0, step, 1).squeeze_dim(0),
    };
    let sampler = sampler(kind, steps);
    sampler.validate(objective).unwrap();
    let mean = golden.tensor("in.mean");
    let mut heard = Vec::new();
    let predict = |x, time| model(objective, &mean, x, time);
    let x = sampler.integrate(objective, &start, predict, |step| heard.push(step));
    golden.check(&format!("out.{}.{name}.{steps}", kind.name()), x, 1e-4);
    assert_eq!(heard, (1..=steps).collect::<Vec<_>>());
}

#[test]
fn chains_match_diffusers_schedulers() {
    use SamplerKind::{Ddim, Ddpm, DpmSolverPp2m};
    let epsilon = Objective::Epsilon(diffusion(LINEAR));
    for steps in [1, 4, 20, 50] {
        check("epsilon.linear", Ddim, &epsilon, steps);
    }
    for steps in [4, 7, 20] {
        check("epsilon.linear", Ddpm, &epsilon, steps);
        check("epsilon.linear", DpmSolverPp2m, &epsilon, steps);
    }
    let zero = |schedule| {
        Objective::Velocity(Diffusion {
            zero_terminal_snr: true,
            ..diffusion(schedule)
        })
    };
    let shifted = |schedule, factor| Diffusion {
        shift: TimestepShift::Constant { factor },
        ..diffusion(schedule)
    };
    for kind in [Ddim, Ddpm, DpmSolverPp2m] {
        check(
            "epsilon.scaled_linear",
            kind,
            &Objective::Epsilon(diffusion(SCALED_LINEAR)),
            10,
        );
        check(
            "velocity.cosine",
            kind,
            &Objective::Velocity(diffusion(BetaSchedule::Cosine {})),
            10,
        );
        check("velocity.linear.zero", kind, &zero(LINEAR), 1);
        check("velocity.linear.zero", kind, &zero(LINEAR), 5);
        check("velocity.scaled_linear.zero", kind, &zero(SCALED_LINEAR), 20);
        let velocity = Objective::Velocity(shifted(SCALED_LINEAR, 2.0));
        check("velocity.scaled_linear.shift2.0", kind, &velocity, 10);
        let epsilon = Objective::Epsilon(shifted(LINEAR, 0.7));
        check("epsilon.linear.shift0.7", kind, &epsilon, 4);
    }
}

#[test]
fn straight_paths_match_diffusers_schedulers() {
    let constant = TimestepShift::Constant { factor: 3.0 };
    for kind in [SamplerKind::Euler, SamplerKind::DpmSolverPp2m] {
        for steps in [1, 4, 7, 20] {
            for (name, shift) in [("flow.1.0", TimestepShift::None), ("flow.3.0", constant)] {
                check(name, kind, &flow(TimestepDensity::Uniform, shift), steps);
            }
        }
    }
}

#[test]
fn guidance_is_rescaled_as_diffusers_rescales_it() {
    let golden = golden();
    let guided = |guidance_rescale| {
        Sampler {
            guidance: 7.5,
            guidance_rescale,
            ..sampler(SamplerKind::Euler, 1)
        }
        .guide(golden.tensor("in.prompted"), golden.tensor("in.empty"))
    };
    for rescale in [0.0, 0.7, 1.0] {
        golden.check(&format!("out.guided.{rescale:.1}"), guided(rescale), 1e-5);
    }
    // A network that has learned nothing yet says zero everywhere.
    let zero: Tensor<4> = golden.tensor::<4>("in.empty").zeros_like();
    let sampler = Sampler {
        guidance: 4.0,
        guidance_rescale: 0.7,
        ..sampler(SamplerKind::Euler, 1)
    };
    let sum = sampler.guide(zero.clone(), zero).abs().sum().into_scalar::<f32>();
    assert!(sum.abs() < 1e-12, "{sum}");
}

#[test]
fn guidance_has_an_interval() {
    let sampler = Sampler {
        guidance: 4.0,
        guidance_interval: [0.2, 0.8],
        ..sampler(SamplerKind::Euler, 1)
    };
    let at = [199.0, 200.0, 500.0, 800.0, 801.0].map(|time| sampler.is_guided_at(time));
    assert_eq!(at, [false, true, true, true, false]);
    let unguided = Sampler {
        guidance: 1.0,
        ..sampler
    };
    assert!(!unguided.is_guided_at(500.0));
}

#[test]
fn samplers_that_do_not_suit_the_objective_are_refused() {
    use SamplerKind::{Ddim, Ddpm, DpmSolverPp2m, Euler};
    let key = |sampler: Sampler, objective: &Objective| sampler.validate(objective).err().map(|error| error.key);
    let flow = flow(TimestepDensity::Uniform, TimestepShift::None);
    let epsilon = Objective::Epsilon(diffusion(LINEAR));
    let velocity = Objective::Velocity(diffusion(LINEAR));
    let refused = Some("sampler.kind");
    for (kind, by_flow, by_chain) in [
        (Ddpm, refused, None),
        (Ddim, refused, None),
        (DpmSolverPp2m, None, None),
        (Euler, None, refused),
    ] {
        assert_eq!(key(sampler(kind, 50), &flow), by_flow, "{kind:?}");
        for chain in [&epsilon, &velocity] {
            assert_eq!(key(sampler(kind, 50), chain), by_chain, "{kind:?}");
        }
    }
    assert_eq!(key(sampler(Ddim, 1001), &epsilon), Some("sampler.steps"));
    assert_eq!(key(sampler(Euler, 0), &flow), Some("sampler.steps"));
    let changed = |change: fn(&mut Sampler)| {
        let mut sampler = sampler(Euler, 10);
        change(&mut sampler);
        key(sampler, &flow)
    };
    assert_eq!(changed(|s| s.guidance = f64::NAN), Some("sampler.guidance"));
    assert_eq!(changed(|s| s.guidance_rescale = 1.5), Some("sampler.guidance_rescale"));
    for interval in [[0.5, 0.4], [-0.1, 1.0], [0.0, 1.1]] {
        let mut sampler = sampler(Euler, 10);
        sampler.guidance_interval = interval;
        assert_eq!(key(sampler, &flow), Some("sampler.guidance_interval"));
    }
}

#[test]
fn names_are_those_of_the_config() {
    use SamplerKind::{Ddim, Ddpm, DpmSolverPp2m, Euler};
    for kind in [Ddpm, Ddim, DpmSolverPp2m, Euler] {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
}
