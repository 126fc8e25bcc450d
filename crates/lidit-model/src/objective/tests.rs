use super::*;
use crate::diffusion::BetaSchedule;
use crate::golden::Golden;

pub(crate) fn diffusion(schedule: BetaSchedule) -> Diffusion {
    Diffusion {
        num_timesteps: 1000,
        schedule,
        zero_terminal_snr: false,
        density: TimestepDensity::Uniform,
        shift: TimestepShift::None,
        weighting: LossWeighting::Uniform,
    }
}

pub(crate) const LINEAR: BetaSchedule = BetaSchedule::Linear {
    beta_start: 1e-4,
    beta_end: 0.02,
};
pub(crate) const SCALED_LINEAR: BetaSchedule = BetaSchedule::ScaledLinear {
    beta_start: 0.00085,
    beta_end: 0.012,
};
const LOGIT_NORMAL: TimestepDensity = TimestepDensity::LogitNormal { mean: -0.2, std: 1.5 };

pub(crate) fn flow(density: TimestepDensity, shift: TimestepShift) -> Objective {
    Objective::RectifiedFlow(RectifiedFlow {
        density,
        shift,
        weighting: LossWeighting::Uniform,
    })
}

#[test]
fn objectives_match_pytorch() {
    let golden = Golden::open("objective");
    let batch = golden.loss_batch(1024);
    let velocity = Diffusion {
        density: LOGIT_NORMAL,
        weighting: LossWeighting::MinSnr { gamma: 0.5 },
        ..diffusion(LINEAR)
    };
    let resolution = TimestepShift::Resolution { reference_tokens: 256 };
    for (name, objective) in [
        ("epsilon", Objective::Epsilon(diffusion(LINEAR))),
        ("velocity", Objective::Velocity(velocity)),
        ("uniform", flow(TimestepDensity::Uniform, TimestepShift::None)),
        ("logit_normal", flow(LOGIT_NORMAL, TimestepShift::None)),
        ("shifted", flow(LOGIT_NORMAL, resolution)),
    ] {
        let noised = objective.noise(&batch);
        golden.check(&format!("out.{name}.t"), noised.timesteps, 1e-5);
        golden.check(&format!("out.{name}.x"), noised.input, 1e-5);
        let losses = objective.loss_with(&batch, |x, t| {
            x.mul_scalar(0.5) + t.reshape([4, 1, 1, 1]).mul_scalar(0.002).sub_scalar(0.3)
        });
        golden.check(&format!("out.{name}.loss"), losses.sum, 1e-5);
        golden.check(&format!("out.{name}.each"), losses.each, 1e-5);
        for (time, told) in losses.times.iter().zip(golden.values(&format!("out.{name}.t"))) {
            assert!((time * 1000.0 - told).abs() < 1e-2, "{name}: {time} and {told}");
        }
    }
}

/// diffusers' tables are f32: a value may differ by 1e-4 of itself, or by 1e-7 where there is nearly no signal.
#[test]
fn schedules_and_min_snr_weights_match_diffusers() {
    let golden = Golden::open_in("schedulers", "schedulers");
    let near = |name: &str, actual: Vec<f64>| {
        let expected = golden.values(name);
        assert_eq!(actual.len(), expected.len(), "{name}");
        for (t, (a, b)) in actual.iter().zip(expected.iter().map(|&b| f64::from(b))).enumerate() {
            assert!((a - b).abs() <= (1e-4 * b).max(1e-7), "{name}[{t}]: {a}, diffusers {b}");
        }
    };
    for (name, schedule) in [
        ("linear", LINEAR),
        ("scaled_linear", SCALED_LINEAR),
        ("cosine", BetaSchedule::Cosine {}),
    ] {
        for (name, zero_terminal_snr) in [(name.to_owned(), false), (format!("{name}.zero"), true)] {
            let chain = Diffusion {
                zero_terminal_snr,
                weighting: LossWeighting::MinSnr { gamma: 5.0 },
                ..diffusion(schedule)
            };
            near(&format!("out.alpha_bars.{name}"), chain.alpha_bars());
            let levels = chain.levels(1);
            let weights = |objective: Objective| levels.iter().map(|level| objective.weight(level)).collect();
            near(
                &format!("out.min_snr.velocity.{name}"),
                weights(Objective::Velocity(chain.clone())),
            );
            if !zero_terminal_snr {
                near(
                    &format!("out.min_snr.epsilon.{name}"),
                    weights(Objective::Epsilon(chain.clone())),
                );
            }
        }
    }
}

#[test]
fn a_shift_lowers_the_log_snr_and_a_time_means_the_same_level_at_every_size() {
    let chain = Diffusion {
        zero_terminal_snr: true,
        ..diffusion(SCALED_LINEAR)
    };
    let shifted = Diffusion {
        shift: TimestepShift::Resolution { reference_tokens: 64 },
        ..chain.clone()
    };
    let (plain, moved) = (chain.levels(256), shifted.levels(256));
    for (plain, moved) in plain.iter().zip(&moved) {
        assert!((moved.snr() - plain.snr() / 4.0).abs() <= 1e-9 * plain.snr());
    }
    // The level that a shifted picture is told lies between those of the chain that are told just less and just more.
    for level in &moved {
        let above = plain.partition_point(|plain| plain.time < level.time);
        assert!(plain[above].noise >= level.noise - 1e-12);
        assert!(above == 0 || plain[above - 1].noise <= level.noise + 1e-12);
    }
    let last = moved.last().map(|level| (level.signal, level.time));
    assert_eq!(last, Some((0.0, 999.0)));
    for (plain, same) in plain.iter().zip(shifted.levels(64)) {
        assert!((plain.noise - same.noise).abs() < 1e-12 && (plain.time - same.time).abs() < 1e-6);
    }
}

/// A draw of density `uniform` is its own time, so both ways lead to the same noise; a shift moves draws alone.
#[test]
fn given_times_are_those_that_the_network_is_told_whatever_the_shift() {
    let golden = Golden::open("objective");
    let mut batch = golden.loss_batch(1024);
    let times = [0.0625, 0.3125, 0.5625, 0.9375];
    batch.draws = times.map(|time| [time as f32, 0.0]).to_vec();
    let shift = TimestepShift::Constant { factor: 3.0 };
    for plain in [
        Objective::Epsilon(diffusion(LINEAR)),
        Objective::Velocity(diffusion(BetaSchedule::Cosine {})),
        flow(TimestepDensity::Uniform, TimestepShift::None),
    ] {
        let mut shifted = plain.clone();
        match &mut shifted {
            Objective::Epsilon(chain) | Objective::Velocity(chain) => chain.shift = shift,
            Objective::RectifiedFlow(flow) => (flow.shift, flow.density) = (shift, LOGIT_NORMAL),
        }
        let drawn = plain.noise(&batch);
        for objective in [plain, shifted] {
            let given = objective.noise_at(&batch.images, &batch.noise, &times);
            assert_eq!(given.levels, drawn.levels);
            for (a, b) in [(&given.input, &drawn.input), (&given.target, &drawn.target)] {
                assert_eq!(a.to_data(), b.to_data());
            }
            assert_eq!(given.timesteps.to_data(), drawn.timesteps.to_data());
        }
    }
}

#[test]
fn extreme_draws_stay_finite_and_in_range() {
    let below_one = 1.0 - f32::EPSILON / 2.0;
    let zero_terminal = Diffusion {
        zero_terminal_snr: true,
        density: LOGIT_NORMAL,
        shift: TimestepShift::Constant { factor: 3.0 },
        weighting: LossWeighting::MinSnr { gamma: 5.0 },
        ..diffusion(BetaSchedule::Cosine {})
    };
    for objective in [
        Objective::Epsilon(diffusion(LINEAR)),
        Objective::Velocity(zero_terminal),
        flow(TimestepDensity::Uniform, TimestepShift::None),
        flow(LOGIT_NORMAL, TimestepShift::Constant { factor: 3.0 }),
    ] {
        for draw in [
            [0.0, 0.0],
            [below_one, below_one],
            [below_one, 0.0],
            [0.0, 0.5],
            [below_one, 0.5],
        ] {
            let level = objective.levels(&[draw], 16)[0];
            assert!((0.0..=1000.0).contains(&level.time), "{draw:?}: {}", level.time);
            assert!(level.signal.is_finite() && level.noise.is_finite());
            assert!((0.0..=1.0).contains(&objective.weight(&level)));
        }
    }
}

#[test]
fn objectives_read_from_a_config_and_refuse_misspelt_keys() {
    let read = |text: &str| serde_json::from_str::<Objective>(text).map_err(|error| error.to_string());
    let text = r#"{"kind": "rectified_flow", "density": "uniform", "shift": "none", "weighting": "uniform"}"#;
    assert_eq!(read(text), Ok(flow(TimestepDensity::Uniform, TimestepShift::None)));
    let text = r#"{"kind": "rectified_flow", "density": {"logit_normal": {"mean": -0.2, "std": 1.5}},
                   "shift": {"resolution": {"reference_tokens": 256}}, "weighting": "uniform"}"#;
    let shift = TimestepShift::Resolution { reference_tokens: 256 };
    assert_eq!(read(text), Ok(flow(LOGIT_NORMAL, shift)));
    let text = |kind: &str, rest: &str| {
        format!(
            r#"{{"kind": "{kind}", "num_timesteps": 1000, "zero_terminal_snr": false, "density": "uniform",
                 "shift": "none", {rest}}}"#
        )
    };
    let linear = r#""weighting": "uniform", "schedule": {"kind": "linear", "beta_start": 1e-4, "beta_end": 0.02}"#;
    assert_eq!(
        read(&text("epsilon", linear)),
        Ok(Objective::Epsilon(diffusion(LINEAR)))
    );
    let cosine = r#""weighting": {"min_snr": {"gamma": 5}}, "schedule": {"kind": "cosine"}"#;
    let weighted = Diffusion {
        weighting: LossWeighting::MinSnr { gamma: 5.0 },
        ..diffusion(BetaSchedule::Cosine {})
    };
    assert_eq!(read(&text("velocity", cosine)), Ok(Objective::Velocity(weighted)));
    let misspelt = [
        ("cosine", "cosin"),
        ("gamma", "gama"),
        ("weighting", "weight"),
        ("min_snr", "minsnr"),
    ];
    for (right, wrong) in misspelt {
        assert!(
            read(&text("velocity", &cosine.replace(right, wrong))).is_err(),
            "{wrong}"
        );
    }
    assert!(read(&text("flow", cosine)).is_err());
    let leftover = linear.replace("linear", "cosine");
    assert!(read(&text("epsilon", &leftover)).is_err(), "{leftover}");
}

#[test]
fn numbers_that_make_no_schedule_are_refused_with_the_key() {
    let key = |objective: Objective| objective.validate().err().map(|error| error.key);
    let chain = diffusion(LINEAR);
    let epsilon = |diffusion: Diffusion| key(Objective::Epsilon(diffusion));
    assert_eq!(epsilon(chain.clone()), None);
    let num_timesteps = 1;
    assert_eq!(
        epsilon(Diffusion {
            num_timesteps,
            ..chain.clone()
        }),
        Some("objective.num_timesteps")
    );
    let (beta_start, beta_end) = (0.02, 1e-4);
    let falling = diffusion(BetaSchedule::ScaledLinear { beta_start, beta_end });
    assert_eq!(epsilon(falling), Some("objective.schedule"));
    let zero_terminal_snr = true;
    let zero = Diffusion {
        zero_terminal_snr,
        ..chain.clone()
    };
    assert_eq!(epsilon(zero.clone()), Some("objective.zero_terminal_snr"));
    assert_eq!(key(Objective::Velocity(zero.clone())), None);
    let weighting = LossWeighting::MinSnr { gamma: 5.0 };
    assert_eq!(
        key(Objective::Velocity(Diffusion { weighting, ..zero })),
        Some("objective.weighting")
    );
    let weighting = LossWeighting::MinSnr { gamma: 0.0 };
    assert_eq!(epsilon(Diffusion { weighting, ..chain }), Some("objective.weighting"));

    let flat = TimestepDensity::LogitNormal { mean: 0.0, std: 0.0 };
    assert_eq!(key(flow(flat, TimestepShift::None)), Some("objective.density"));
    for shift in [
        TimestepShift::Constant { factor: 0.0 },
        TimestepShift::Resolution { reference_tokens: 0 },
    ] {
        assert_eq!(key(flow(TimestepDensity::Uniform, shift)), Some("objective.shift"));
    }
    let weighted = RectifiedFlow {
        density: TimestepDensity::Uniform,
        shift: TimestepShift::None,
        weighting: LossWeighting::MinSnr { gamma: 5.0 },
    };
    assert_eq!(key(Objective::RectifiedFlow(weighted)), Some("objective.weighting"));
}
