//! What finished sweeps give: the law, the report, a table's rows.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::lidit::{error, json};
use crate::sweeps::{command, sweep};

/// A CSV table's rows, without its header.
fn rows(table: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(table).unwrap();
    text.lines()
        .skip(1)
        .map(|line| line.split(',').map(str::to_owned).collect())
        .collect()
}

#[test]
fn finished_runs_become_points_of_the_law_and_unlike_runs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = "values = [{ name = \"wide\", model.hidden_size = 96, model.num_heads = 2 }, { name = \"small\"";
    let changes = [
        ("values = [\n    { name = \"small\"", sizes),
        (
            "values = [8, 16]",
            "values = [4, 8, 16]\n[[axes]]\nname = \"prefix\"\nkey = \"encoders.prefix\"\nvalues = [\"none\", \"neutral\"]",
        ),
        ("steps = 4", "global_batch = 4\nmicro_batch = 4\ncaption_dropout = 0.0"),
        (
            "features = \"shared\"",
            "features = \"shared\"\n[rules]\nlength = { epochs = 1.0 }",
        ),
    ];
    let sweep = sweep(dir.path(), &changes);
    let out = dir.path().join("out");
    let none = error(&command("fit", &sweep, &out, &[]));
    assert!(none.contains("sweep.points.json"), "{none}");
    let done = json(&command("run", &sweep, &out, &["--jobs", "2"]), 0);
    assert_eq!(done["done"], 18);

    let refusal = error(&command("fit", &sweep, &out, &[]));
    assert!(
        refusal.contains("encoders.prefix") && refusal.contains("--only"),
        "{refusal}"
    );
    let refusal = error(&command("fit", &sweep, &out, &["--only", "prefix=nothing"]));
    assert!(refusal.contains("prefix=neutral"), "{refusal}");

    let fits = dir.path().join("fits");
    let extra = [
        "--only",
        "prefix=none",
        "--draws",
        "10",
        "--out",
        fits.to_str().unwrap(),
    ];
    let fit = json(&command("fit", &sweep, &out, &extra), 0);
    assert_eq!(
        (&fit["runs_used"], &fit["points_used"]),
        (&Value::from(9), &Value::from(9))
    );
    assert!(!fit["warnings"].as_array().unwrap().is_empty(), "{fit}");
    let plan = json(&command("plan", &sweep, &out, &[]), 0);
    let planned = |name: &str| {
        plan["runs"]
            .as_array()
            .unwrap()
            .iter()
            .find(|run| run["name"] == name)
            .unwrap()
            .clone()
    };
    let validation = |name: &str| -> Value {
        let result = fs::read_to_string(out.join("runs").join(name).join("result.json")).unwrap();
        serde_json::from_str::<Value>(&result).unwrap()["val_loss"].clone()
    };
    // name, n, d, c, loss, se, u, seed
    for row in rows(&fits.join("points.csv")) {
        let run = planned(&row[0]);
        let number = |column: usize| row[column].parse::<f64>().unwrap();
        let is = |column: usize, expected: &Value, times: f64| {
            let expected = times * expected.as_f64().unwrap();
            assert!(
                (number(column) / expected - 1.0).abs() < 1e-6,
                "{column} of {row:?}: {expected}"
            );
        };
        is(1, &run["params"], 1.0);
        // 16 pixels are 16 tokens.
        is(2, &run["samples_seen"], 16.0);
        is(6, &run["unique_samples"], 1.0);
        is(4, &validation(&row[0]), 1.0);
        is(3, &run["c_model"], 1.0);
    }

    let report = json(
        &command("report", &sweep, &out, &["--only", "prefix=none", "--draws", "10"]),
        0,
    );
    assert_eq!(
        (&report["finished"], &report["law"]),
        (&Value::from(18), &Value::from(true))
    );
    let page = fs::read_to_string(report["report"].as_str().unwrap()).unwrap();
    assert!(page.contains("wide-samples8-prefixneutral"));
    assert_eq!(rows(&out.join("report/table.csv")).len(), 18);
    // Without a choice there is no law, and the page says why.
    let report = json(
        &command("report", &sweep, &out, &["--price", "2", "--currency", "USD"]),
        0,
    );
    assert_eq!(report["law"], false);
    assert!(
        report["notes"][0].as_str().unwrap().contains("encoders.prefix"),
        "{report}"
    );
}

#[test]
fn rows_of_a_table_are_compared_seed_by_seed() {
    let dir = tempfile::tempdir().unwrap();
    let seeds = [(
        "name = \"samples\"\nkey = \"data.max_samples\"\nvalues = [8, 16]",
        "name = \"seed\"\nkey = \"train.seed\"\nvalues = [0, 1]",
    )];
    let sweep = sweep(dir.path(), &seeds);
    let out = dir.path().join("out");
    assert_eq!(json(&command("run", &sweep, &out, &["--jobs", "2"]), 0)["done"], 4);
    let report = json(&command("report", &sweep, &out, &["--draws", "0"]), 0);
    let page = fs::read_to_string(report["report"].as_str().unwrap()).unwrap();
    assert!(page.contains("loss less small"));
    let rows = rows(&out.join("report/groups.csv"));
    assert_eq!(rows.iter().map(|row| &row[0]).collect::<Vec<_>>(), ["small", "large"]);
    let run = |name: &str| out.join("runs").join(name).to_str().unwrap().to_owned();
    let differences = [0, 1].map(|seed| {
        let [large, small] = ["large", "small"].map(|size| run(&format!("{size}-seed{seed}")));
        json(&["eval", "compare", &large, &small], 0)["difference"]
            .as_f64()
            .unwrap()
    });
    // group, runs, loss and its interval, difference and its interval
    let difference: f64 = rows[1][5].parse().unwrap();
    let expected = f64::midpoint(differences[0], differences[1]);
    assert!((difference - expected).abs() < 1e-7, "{difference} and {expected}");
    assert_eq!((rows[1][1].as_str(), rows[0][5].as_str()), ("2", ""));
}
