//! Fits of scipy and numpy: `tests/golden/law/generate.py`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::huber::{Problem, Starts};
use super::isoflop::IsoFlop;
use super::joint::JointLaw;
use super::power_law::PowerLaw;
use super::selection::{Measurement, Selection};
use super::table::Table;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden/law")
        .join(name)
}

fn fits() -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden("fits.json")).unwrap()).unwrap()
}

fn points(name: &str) -> Vec<Measurement> {
    Selection::of(&Table::read(&golden(name)).unwrap().points, None).used
}

#[test]
fn the_joint_law_is_scipys() {
    for name in ["grid", "outliers"] {
        let expected = &fits()[name];
        let law: JointLaw = serde_json::from_value(expected.clone()).unwrap();
        let coordinates: Vec<_> = points(&format!("{name}.csv"))
            .iter()
            .map(Measurement::coordinates)
            .collect();
        let problem = Problem::new(&coordinates);
        let found = problem.solve(Starts::Grid).unwrap();
        let objective = expected["objective"].as_f64().unwrap();
        assert!((problem.objective_at(&law) / objective - 1.0).abs() < 1e-6, "{name}");
        assert!(
            found.objective <= objective * (1.0 + 1e-6),
            "{name}: {} > {objective}",
            found.objective
        );
        for (key, value, expected, tolerance) in [
            ("E", found.law.floor, law.floor, 1e-3),
            ("a", found.law.n_power, law.n_power, 5e-3),
            ("b", found.law.d_power, law.d_power, 5e-3),
            ("A", found.law.n_factor.ln(), law.n_factor.ln(), 5e-3),
            ("B", found.law.d_factor.ln(), law.d_factor.ln(), 5e-3),
        ] {
            assert!(
                (value / expected - 1.0).abs() < tolerance,
                "{name}: {key} {value} {expected}"
            );
        }
    }
}

#[test]
fn the_isoflop_minima_are_numpys() {
    let expected = &fits()["isoflop"];
    let found = IsoFlop::of(&points("isoflop.csv"), 0.05, 0, 0).unwrap();
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-6;
    let optima: Vec<[f64; 3]> = serde_json::from_value(expected["optima"].clone()).unwrap();
    assert_eq!(found.budgets.len(), optima.len());
    for (budget, [c, n, loss]) in found.budgets.iter().zip(optima) {
        assert!(
            close(budget.c, c) && close(budget.n_opt, n) && close(budget.loss, loss),
            "{budget:?}"
        );
    }
    for (law, name) in [(found.n_opt, "n_opt"), (found.loss, "loss")] {
        let expected: PowerLaw = serde_json::from_value(expected[name].clone()).unwrap();
        assert!(
            close(law.exponent, expected.exponent) && close(law.coefficient, expected.coefficient),
            "{name}"
        );
    }
}
