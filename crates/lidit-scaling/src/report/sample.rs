//! A report made from a known law, for tests and to look at.

use std::io::Cursor;

use super::*;
use crate::law::{FitOptions, JointLaw, Point, PowerLaw};

const LAW: JointLaw = JointLaw {
    floor: 0.42,
    n_factor: 9.0,
    n_power: 0.31,
    d_factor: 40.0,
    d_power: 0.33,
};
const COST: PowerLaw = PowerLaw {
    coefficient: 5.2,
    exponent: 1.0,
};
const TOKENS: f64 = 16.0;
const CATEGORIES: [&str; 8] = [
    "colour",
    "shape",
    "texture",
    "spatial",
    "counting",
    "two objects",
    "position",
    "attribution",
];

/// A number between -1 and 1 that depends on what it is for.
fn noise(of: usize) -> f64 {
    let mut state = (of as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(0x1234_5678);
    state ^= state >> 29;
    state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state ^= state >> 32;
    (state % 20_001) as f64 / 10_000.0 - 1.0
}

fn png(of: usize) -> Vec<u8> {
    let colour = |i: usize| (127.0 + 127.0 * noise(of * 7 + i)) as u8;
    let ground = image::Rgb([colour(3) / 4 + 180, colour(4) / 4 + 180, colour(5) / 4 + 180]);
    let mut picture = image::RgbImage::from_pixel(32, 32, ground);
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        if (f64::from(x) - 16.0).hypot(f64::from(y) - 16.0) < 9.0 {
            *pixel = image::Rgb([colour(0), colour(1), colour(2)]);
        }
    }
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

fn score(mean: f64, n: u64, chance: f64) -> Score {
    let half = 1.96 * (mean * (1.0 - mean) / n as f64).sqrt();
    Score {
        mean,
        low: (mean - half).max(0.0),
        high: (mean + half).min(1.0),
        n,
        chance: Some(chance),
    }
}

fn run(model: &str, n: f64, samples: f64, seed: u64, of: usize) -> ReportRun {
    let d = samples * TOKENS;
    let loss = LAW.loss(n, d) * (1.0 + 0.003 * noise(of));
    let skill = (0.9 - loss).clamp(0.02, 0.9);
    // Small networks cost more for each parameter, which the law warns of.
    let c = 5.2 * n * d * (n / 1e6).powf(if model.starts_with('b') { 0.0 } else { -0.12 });
    let config = [
        ("model.name", model.to_owned()),
        ("data.max_samples", samples.to_string()),
        ("train.seed", seed.to_string()),
        ("train.lr", if n > 2e6 { "0.0003" } else { "0.001" }.to_owned()),
        ("train.precision", "f32".to_owned()),
        ("data.template", "<b>{caption}</b>".to_owned()),
    ];
    ReportRun {
        name: format!("{model}-{samples}-s{seed}"),
        status: RunStatus::Finished,
        axes: [
            ("model", model.to_owned()),
            ("samples", samples.to_string()),
            ("seed", seed.to_string()),
        ]
        .map(|(axis, value)| (axis.to_owned(), value))
        .into(),
        n: Some(n),
        d: Some(d),
        c: Some(c),
        c_encoder: Some(4e9 * samples / 100.0),
        c_total: Some(c + 4e9 * samples / 100.0),
        loss: Some(loss),
        se: Some(0.004),
        held_out: Some(HeldOutLosses {
            digest: "sample".to_owned(),
            losses: (0..64)
                .map(|i| loss * (1.0 + 0.1 * noise(i)) + 1e-3 * noise(of * 64 + i))
                .collect(),
        }),
        prompt_gain: Some(0.1 * loss * skill),
        prompt_gain_se: Some(0.001),
        held_out_gains: Some(HeldOutLosses {
            digest: "sample".to_owned(),
            losses: (0..64)
                .map(|i| 0.1 * loss * skill + 1e-3 * noise(of * 64 + i))
                .collect(),
        }),
        u: Some(samples),
        seed: Some(seed),
        scores: CATEGORIES
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let mean = (skill * (1.6 - 0.15 * i as f64) + 0.12 + 0.03 * noise(of * 31 + i)).clamp(0.02, 0.97);
                (
                    (*name).to_owned(),
                    score(mean, 200, [0.125, 0.2, 0.25, 0.25, 0.125, 0.05, 0.25, 0.05][i]),
                )
            })
            .collect(),
        quartiles: (0..4)
            .map(|quartile| score((skill + 0.25 - 0.06 * f64::from(quartile)).clamp(0.05, 0.95), 300, 0.1))
            .collect(),
        curve: (1..=400)
            .map(|step| {
                let share = f64::from(step) / 400.0;
                CurveSample {
                    c: c * share,
                    loss: LAW.loss(n, d * share) * (1.0 + 0.01 * noise(of * 401 + step as usize)),
                }
            })
            .collect(),
        pictures: [
            "a red circle",
            "two blue squares left of a green star",
            "<script>alert(1)</script>",
        ]
        .iter()
        .enumerate()
        .map(|(i, prompt)| Picture {
            png: png(of * 3 + i),
            prompt: (*prompt).to_owned(),
            verdict: if i == 0 {
                "colour and shape hold"
            } else {
                "position is wrong: found right of"
            }
            .to_owned(),
            right: Some(i == 0),
        })
        .collect(),
        seconds: Some(c / 2e11),
        devices: Some(1.0),
        goodput: Some(0.93 + 0.03 * noise(of + 9)),
        cost: Some(c / 2e11 / 3600.0 * 2.5),
        config: config.map(|(key, value)| (key.to_owned(), value)).into(),
    }
}

/// Four sizes on five amounts of data with two seeds each, a fitted law, and one run of each other status.
pub fn grid() -> Report {
    let sizes = [("femto", 2.1e5), ("pico", 9.4e5), ("nano", 3.6e6), ("micro", 1.3e7)];
    let mut runs = Vec::new();
    for (model, n) in sizes {
        for samples in [5e3, 2e4, 8e4, 3.2e5, 1.28e6] {
            for seed in 0..2 {
                runs.push(run(model, n, samples, seed, runs.len()));
            }
        }
    }
    let fit = fitted(&runs);
    for status in [RunStatus::Failed, RunStatus::Planned, RunStatus::Unfinished] {
        let finished = run("tiny", 5.2e7, 1.28e6, 0, 99);
        runs.push(ReportRun {
            name: format!("tiny-{}", status.word()),
            status,
            axes: finished.axes,
            n: finished.n,
            curve: if status == RunStatus::Planned {
                Vec::new()
            } else {
                finished.curve[..80].to_vec()
            },
            config: finished.config,
            ..ReportRun::default()
        });
    }
    report("Scenes grid: 4 sizes × 5 amounts of data", Some(fit), runs)
}

/// Five sizes at each of five budgets.
pub fn budgets() -> Report {
    let mut runs = Vec::new();
    for (i, c) in [1e12, 4e12, 1.6e13, 6.4e13, 2.5e14].into_iter().enumerate() {
        let (best, _) = LAW.optimum(c, COST);
        for factor in [0.25, 0.5, 1.0, 2.0, 4.0] {
            let n = best * factor;
            runs.push(run(&format!("b{i}x{factor}"), n, c / (5.2 * n * TOKENS), 0, runs.len()));
        }
    }
    let fit = fitted(&runs);
    report("IsoFLOP ladder", Some(fit), runs)
}

/// Two hundred runs of one size that differ in an axis of words, without a law.
pub fn many() -> Report {
    let runs = (0..200).map(|i| {
        let mut run = run(
            ["full", "no refiner", "causal", "no gate"][i % 4],
            [9.4e5, 5.3e5, 9.4e5, 9.1e5][i % 4],
            2e4,
            i as u64 / 4,
            i,
        );
        run.pictures.truncate(usize::from(i < 20));
        run
    });
    report("Components, fifty seeds", None, runs.collect())
}

fn fitted(runs: &[ReportRun]) -> Fit {
    let points: Vec<Point> = runs
        .iter()
        .filter_map(|run| {
            Some(Point {
                name: run.name.clone(),
                n: run.n?,
                d: run.d?,
                c: run.c?,
                loss: run.loss?,
                se: run.se,
                u: run.u,
                seed: run.seed,
            })
        })
        .collect();
    let options = FitOptions {
        tolerance: 0.05,
        draws: 60,
        seed: 0,
        tokens_per_sample: Some(TOKENS),
    };
    Fit::of(&points, options).unwrap()
}

fn report(title: &str, fit: Option<Fit>, runs: Vec<ReportRun>) -> Report {
    Report {
        title: title.to_owned(),
        made: "22 November 2026".to_owned(),
        version: "lidit 0.1.0".to_owned(),
        currency: "USD".to_owned(),
        notes: Vec::new(),
        fit,
        runs,
    }
}

/// Pages of every kind of sweep, which `tests/e2e/check_report.py` looks at in a browser.
#[test]
fn every_kind_of_sweep_has_a_page() {
    let nothing = report("Nothing yet", None, Vec::new());
    let planned = ReportRun {
        name: "first".to_owned(),
        ..ReportRun::default()
    };
    let one = report("One run", None, vec![grid().runs.swap_remove(0)]);
    let reports = [
        ("grid", grid()),
        ("budgets", budgets()),
        ("many", many()),
        ("one", one),
        ("planned", report("Planned", None, vec![planned])),
        ("nothing", nothing),
    ];
    let folder = tempfile::tempdir().unwrap();
    let root = std::env::var_os("LIDIT_REPORT_PAGES").map_or_else(|| folder.path().to_owned(), Into::into);
    for (name, report) in reports {
        let out = root.join(name);
        report.write(&out).unwrap();
        let page = std::fs::read_to_string(out.join("report.html")).unwrap();
        assert!(
            !page.contains("<script>alert") && !page.contains("<b>{caption}"),
            "{name}"
        );
        assert!(!page.contains("NaN") && !page.contains("inf,"), "{name}");
        let plots = std::fs::read_dir(out.join("plots")).unwrap().count();
        assert_eq!(
            plots,
            2 * report.figures().iter().map(|figure| figure.charts.len()).sum::<usize>(),
            "{name}"
        );
    }
    let table = crate::law::Table::read(&root.join("budgets/table.csv")).unwrap();
    assert_eq!(table.points.len(), 25);
}

#[test]
fn figures_are_those_that_the_runs_have_numbers_for() {
    let names = |report: &Report| -> Vec<&str> { report.figures().iter().map(|figure| figure.id).collect() };
    let whole = [
        "loss-compute",
        "loss-size",
        "heat-map",
        "scores",
        "position-quartiles",
        "training",
    ];
    assert_eq!(names(&grid()), whole);
    assert_eq!(names(&budgets()), whole);
    assert_eq!(
        names(&many()),
        ["loss-group", "gain-group", "scores", "position-quartiles", "training"]
    );
    assert!(names(&Report::default()).is_empty());
    assert!(names(&report("planned", None, vec![ReportRun::default()])).is_empty());
}
