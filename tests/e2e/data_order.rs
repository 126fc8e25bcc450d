//! Every sample exactly once per epoch, whatever the number of ranks.

use std::collections::BTreeMap;

use crate::lidit::{debug_config, json};

fn order(world: &str, steps: &str) -> BTreeMap<u64, Vec<u64>> {
    let config = debug_config();
    let report = json(
        &[
            "data",
            "order",
            config.to_str().unwrap(),
            "--steps",
            steps,
            "--world",
            world,
        ],
        0,
    );
    let mut by_step: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for row in report["steps"].as_array().unwrap() {
        let ids = row["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap());
        by_step.entry(row["step"].as_u64().unwrap()).or_default().extend(ids);
    }
    by_step
}

#[test]
fn a_global_batch_is_the_same_for_every_world_size() {
    let alone = order("1", "7");
    for world in ["2", "3", "5", "12"] {
        assert_eq!(order(world, "7"), alone, "{world} ranks");
    }
}

#[test]
fn two_epochs_hold_every_sample_twice() {
    let config = debug_config();
    let rows = json(
        &[
            "data",
            "inspect",
            crate::lidit::root().join("datasets/fixtures/emoji").to_str().unwrap(),
        ],
        0,
    )["rows"]
        .as_u64()
        .unwrap();
    assert!(
        config.is_file() && rows.is_multiple_of(12),
        "{rows} rows are no whole number of batches of 12"
    );
    let steps = 2 * rows / 12;
    let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
    for ids in order("3", &steps.to_string()).values() {
        for id in ids {
            *counts.entry(*id).or_default() += 1;
        }
    }
    assert_eq!(counts.len() as u64, rows);
    assert!(counts.values().all(|&count| count == 2), "{counts:?}");
}
