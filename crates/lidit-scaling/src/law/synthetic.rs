//! Tables made from known laws, to be found again.

use super::bootstrap::Draws;
use super::fit::{Fit, FitOptions};
use super::joint::{JointFit, JointLaw};
use super::point::Point;
use super::power_law::PowerLaw;
use super::selection::Selection;

/// Hoffmann et al. 2022 (arXiv 2203.15556), equation 10.
const CHINCHILLA: JointLaw = JointLaw {
    floor: 1.69,
    n_factor: 406.4,
    n_power: 0.34,
    d_factor: 410.7,
    d_power: 0.28,
};

const COST: PowerLaw = PowerLaw {
    coefficient: 6.0,
    exponent: 1.0,
};

const OPTIONS: FitOptions = FitOptions {
    tolerance: 0.05,
    draws: 100,
    seed: 1,
    tokens_per_sample: None,
};

/// The law with `N_opt = 0.0009 C^0.5681`, `D_opt = C / (6 N_opt)` and `L_opt = 2.3943 C^-0.0273`: Liang et al. 2024 (arXiv
/// 2410.08184). A power of compute alone has no floor, and its terms share the loss as `b : a`.
fn diffusion_transformers() -> JointLaw {
    let (n_power, d_power) = (0.0273 / 0.5681, 0.0273 / 0.4319);
    let tokens_factor: f64 = 1.0 / (6.0 * 0.0009);
    JointLaw {
        floor: 0.0,
        n_factor: 0.5681 * 2.3943 * f64::powf(0.0009, n_power),
        n_power,
        d_factor: 0.4319 * 2.3943 * tokens_factor.powf(d_power),
        d_power,
    }
}

/// Gaussian noise of a relative size, by Box and Muller.
fn noisy(draws: &mut Draws, loss: f64, noise: f64) -> f64 {
    let radius = (-2.0 * (1.0 - draws.uniform()).ln()).sqrt();
    loss * (noise * radius * (std::f64::consts::TAU * draws.uniform()).cos()).exp()
}

fn point(n: f64, d: f64, loss: f64) -> Point {
    Point {
        name: format!("n{n:.2e}-d{d:.2e}"),
        n,
        d,
        c: 6.0 * n * d,
        loss,
        se: None,
        u: None,
        seed: None,
    }
}

/// Five sizes at each of five budgets, around the best.
fn isoflop_table(law: &JointLaw, budgets: [f64; 5], noise: f64, seed: u64) -> Vec<Point> {
    let mut draws = Draws::new(seed);
    let mut points = Vec::new();
    for c in budgets {
        let (best, _) = law.optimum(c, COST);
        for factor in [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0] {
            let (n, d) = (best * factor, c / (6.0 * best * factor));
            points.push(point(n, d, noisy(&mut draws, law.loss(n, d), noise)));
        }
    }
    points
}

/// All sizes with all amounts of data.
fn grid_table(law: &JointLaw, noise: f64, seed: u64) -> Vec<Point> {
    let mut draws = Draws::new(seed);
    let mut points = Vec::new();
    for n in [3e7, 1e8, 3e8, 1e9, 3e9] {
        for d in [1e9, 4e9, 1.6e10, 6.4e10, 2.5e11] {
            points.push(point(n, d, noisy(&mut draws, law.loss(n, d), noise)));
        }
    }
    points
}

const CHINCHILLA_BUDGETS: [f64; 5] = [6e18, 3e19, 1e20, 6e20, 3e21];
const DIT_BUDGETS: [f64; 5] = [1e17, 6e17, 1e18, 6e18, 6e19];

#[test]
fn chinchillas_law_is_found_in_a_grid_within_its_bands() {
    let fit = Fit::of(&grid_table(&CHINCHILLA, 0.003, 5), OPTIONS).unwrap();
    let joint = fit.joint.as_ref().unwrap();
    let bands = joint.bands;
    for (name, truth, band) in [
        ("E", 1.69, bands.floor),
        ("A", 406.4, bands.n_factor),
        ("a", 0.34, bands.n_power),
        ("B", 410.7, bands.d_factor),
        ("b", 0.28, bands.d_power),
        ("n_opt", 0.28 / 0.62, bands.n_opt_exponent),
        ("d_opt", 0.34 / 0.62, bands.d_opt_exponent),
    ] {
        assert!(band.unwrap().contains(truth), "{name}: {band:?}");
    }
    let band = bands.n_opt_exponent.unwrap();
    assert!(band.high - band.low < 0.15, "{band:?}");
    assert!(fit.isoflop.is_none() && fit.not_fitted[0].contains("isoFLOP"));
    assert!(fit.warnings.is_empty(), "{:?}", fit.warnings);
}

#[test]
fn both_methods_find_chinchillas_exponents() {
    let fit = Fit::of(&isoflop_table(&CHINCHILLA, CHINCHILLA_BUDGETS, 0.002, 3), OPTIONS).unwrap();
    let joint = fit.joint.unwrap();
    assert!(
        joint.bands.n_opt_exponent.unwrap().contains(0.28 / 0.62),
        "{:?}",
        joint.bands
    );
    let isoflop = fit.isoflop.unwrap();
    assert_eq!(isoflop.budgets.len(), 5);
    assert!(isoflop.n_opt_band.unwrap().contains(0.28 / 0.62), "{isoflop:?}");
    assert!((isoflop.n_opt.exponent - 0.28 / 0.62).abs() < 0.05, "{isoflop:?}");
}

#[test]
fn both_methods_find_the_law_of_diffusion_transformers() {
    let law = diffusion_transformers();
    let fit = Fit::of(&isoflop_table(&law, DIT_BUDGETS, 0.0005, 2), OPTIONS).unwrap();
    let joint = fit.joint.as_ref().unwrap();
    assert!(
        joint.bands.n_opt_exponent.unwrap().contains(0.5681),
        "{:?}",
        joint.bands
    );
    let isoflop = fit.isoflop.as_ref().unwrap();
    for (name, truth, found, band) in [
        ("N_opt", 0.5681, isoflop.n_opt, isoflop.n_opt_band),
        ("D_opt", 0.4319, isoflop.d_opt, isoflop.d_opt_band),
        ("loss", -0.0273, isoflop.loss, isoflop.loss_band),
    ] {
        assert!(band.unwrap().contains(truth), "{name}: {found:?} {band:?}");
    }
    for (found, c) in [(isoflop.loss.at(1e18), 1e18), (isoflop.loss.at(6e19), 6e19)] {
        assert!((found / (2.3943 * f64::powf(c, -0.0273)) - 1.0).abs() < 2e-3, "{found}");
    }
    assert!((isoflop.n_opt.at(1e18) / (0.0009 * f64::powf(1e18, 0.5681)) - 1.0).abs() < 0.2);
}

#[test]
fn ninety_five_percent_intervals_hold_the_truth_most_of_the_time() {
    let (mut exponent, mut floor, mut best) = (0, 0, 0);
    let rounds = 20;
    for seed in 0..rounds {
        let table = grid_table(&CHINCHILLA, 0.005, 100 + seed);
        let joint = JointFit::of(&Selection::of(&table, None).used, 100, seed).unwrap();
        exponent += usize::from(joint.bands.n_opt_exponent.unwrap().contains(0.28 / 0.62));
        floor += usize::from(joint.bands.floor.unwrap().contains(1.69));
        best += usize::from(joint.band(1e9, 1.6e10).unwrap().contains(CHINCHILLA.loss(1e9, 1.6e10)));
    }
    eprintln!("inside: exponent {exponent}, E {floor}, loss {best} of {rounds}");
    assert!(exponent >= 17 && floor >= 17 && best >= 17, "{exponent} {floor} {best}");
}

#[test]
fn the_largest_runs_are_foretold_within_their_bands() {
    let fit = Fit::of(&grid_table(&CHINCHILLA, 0.002, 8), OPTIONS).unwrap();
    let [sizes, compute] = &fit.leave_largest_out[..] else {
        panic!()
    };
    assert_eq!((sizes.points, sizes.held_out.len()), (20, 5));
    assert_eq!((compute.points, compute.held_out.len()), (24, 1));
    for held_out in sizes.held_out.iter().chain(&compute.held_out) {
        assert!(held_out.error_percent.abs() < 2.0, "{held_out:?}");
    }
    let inside = sizes.held_out.iter().filter(|point| point.inside == Some(true)).count();
    assert!(inside >= 4, "{sizes:?}");
}

#[test]
fn the_same_table_and_seed_give_the_same_fit() {
    let table = grid_table(&CHINCHILLA, 0.005, 4);
    assert_eq!(Fit::of(&table, OPTIONS).unwrap(), Fit::of(&table, OPTIONS).unwrap());
}

const QUICK: FitOptions = FitOptions { draws: 20, ..OPTIONS };

fn warnings(points: &[Point]) -> Vec<String> {
    let fit = Fit::of(points, QUICK).unwrap();
    fit.warnings.into_iter().map(|warning| warning.kind).collect()
}

fn has(warnings: &[String], kind: &str) -> bool {
    warnings.iter().any(|warning| warning == kind)
}

#[test]
fn tables_that_say_little_are_warned_of() {
    let loss = |n: f64, d: f64| CHINCHILLA.loss(n, d);
    let table = |pairs: &[(f64, f64)]| -> Vec<Point> {
        let mut draws = Draws::new(9);
        pairs
            .iter()
            .map(|(n, d)| point(*n, *d, noisy(&mut draws, loss(*n, *d), 0.002)))
            .collect()
    };
    let together: Vec<_> = (0..16)
        .map(|i| 1e7 * f64::powf(1.6, f64::from(i)))
        .map(|n| (n, 20.0 * n))
        .collect();
    assert!(has(&warnings(&table(&together)), "confounded"));
    let few: Vec<_> = [1e8, 1e9, 1e10]
        .iter()
        .flat_map(|n| [(*n, 1e10), (*n, 1e11), (*n, 1e12)])
        .collect();
    assert!(has(&warnings(&table(&few)), "too-few-points"));
    let near: Vec<_> = [1e8, 1.3e8, 1.7e8, 2e8]
        .iter()
        .flat_map(|n| [1e10, 1.3e10, 1.7e10, 2e10].map(|d| (*n, d)))
        .collect();
    assert!(has(&warnings(&table(&near)), "little-spread"));
    let large: Vec<_> = [1e10, 2e10, 5e10, 1e11]
        .iter()
        .flat_map(|n| [1e9, 2e9, 5e9, 1e10].map(|d| (*n, d)))
        .collect();
    assert!(has(&warnings(&table(&large)), "under-trained"));
    let small: Vec<_> = [1e6, 2e6, 5e6, 1e7]
        .iter()
        .flat_map(|n| [1e10, 2e10, 5e10, 1e11].map(|d| (*n, d)))
        .collect();
    assert!(has(&warnings(&table(&small)), "over-trained"));
    let mut draws = Draws::new(2);
    let flat: Vec<_> = grid_table(&CHINCHILLA, 0.0, 1)
        .iter()
        .map(|at| point(at.n, at.d, noisy(&mut draws, 0.5 + 100.0 / at.n.sqrt(), 0.01)))
        .collect();
    assert!(has(&warnings(&flat), "term-in-noise"), "{:?}", warnings(&flat));
}

#[test]
fn uneven_costs_and_unknown_epochs_are_warned_of() {
    let mut points = grid_table(&CHINCHILLA, 0.002, 1);
    for point in &mut points {
        point.c *= (point.n / 1e9).powf(-0.2);
        point.u = Some(1e6);
    }
    let fit = Fit::of(&points, QUICK).unwrap();
    assert!((fit.cost.per_token.exponent - 0.8).abs() < 1e-9);
    let kinds: Vec<_> = fit.warnings.iter().map(|warning| warning.kind.as_str()).collect();
    assert!(
        kinds.contains(&"uneven-cost") && kinds.contains(&"epochs-unknown"),
        "{kinds:?}"
    );
    let known = FitOptions {
        tokens_per_sample: Some(1.6e4),
        ..QUICK
    };
    let fit = Fit::of(&points, known).unwrap();
    assert_eq!((fit.left_out.len(), fit.points_used), (10, 15));
}

#[test]
fn too_few_points_and_senseless_options_are_errors() {
    let points = grid_table(&CHINCHILLA, 0.0, 1);
    let message = Fit::of(&points[..5], OPTIONS).unwrap_err().to_string();
    assert!(
        message.contains("not 5 with 1 and 5") && message.contains("have 0 of 5"),
        "{message}"
    );
    let message = Fit::of(
        &points,
        FitOptions {
            tolerance: -1.0,
            ..OPTIONS
        },
    )
    .unwrap_err()
    .to_string();
    assert_eq!(message, "tolerance must be at least 0 and below 1, not -1");
}
