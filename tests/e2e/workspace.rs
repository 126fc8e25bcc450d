//! The crate graph, as docs/architecture.md draws it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::lidit::root;
use toml::{Table, Value};

/// What each crate may use of the workspace.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("cubecl-llvm", &[]),
    ("lidit-data", &[]),
    ("lidit-dist", &[]),
    ("lidit-encoders", &["lidit-kernels"]),
    ("lidit-kernels", &[]),
    ("lidit-model", &["lidit-kernels"]),
    ("lidit-scaling", &[]),
    (
        "lidit-train",
        &[
            "lidit-data",
            "lidit-dist",
            "lidit-encoders",
            "lidit-kernels",
            "lidit-model",
        ],
    ),
    (
        "lidit",
        &[
            "lidit-data",
            "lidit-dist",
            "lidit-encoders",
            "lidit-kernels",
            "lidit-model",
            "lidit-scaling",
            "lidit-train",
        ],
    ),
];

/// Crates that know no tensors.
const WITHOUT_BURN: [&str; 3] = ["lidit-data", "lidit-dist", "lidit-scaling"];

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| {
            let folder = entry.unwrap();
            let manifest: Table = fs::read_to_string(folder.path().join("Cargo.toml"))
                .unwrap()
                .parse()
                .unwrap();
            let tables = ["dependencies", "dev-dependencies", "build-dependencies"];
            let used = tables
                .iter()
                .filter_map(|table| manifest.get(*table).and_then(Value::as_table))
                .flat_map(|table| table.keys().cloned())
                .collect();
            (folder.file_name().into_string().unwrap(), used)
        })
        .collect()
}

#[test]
fn leaves_never_use_each_other_and_nothing_uses_the_binary() {
    let dependencies = dependencies();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    assert_eq!(
        dependencies.keys().map(String::as_str).collect::<Vec<_>>(),
        allowed.keys().copied().collect::<Vec<_>>()
    );
    for (name, used) in &dependencies {
        for other in used.iter().filter(|other| dependencies.contains_key(*other)) {
            assert!(
                allowed[name.as_str()].contains(&other.as_str()),
                "{name} must not use {other}"
            );
        }
    }
}

#[test]
fn data_and_processes_know_no_tensors() {
    let dependencies = dependencies();
    for name in WITHOUT_BURN {
        let burn: Vec<&String> = dependencies[name]
            .iter()
            .filter(|other| other.starts_with("burn"))
            .collect();
        assert!(burn.is_empty(), "{name} must not use {burn:?}");
    }
}

#[test]
fn candle_stays_behind_the_readers_of_foreign_files() {
    const READERS: [&str; 2] = ["lidit-encoders/src/gguf.rs", "lidit-encoders/src/pth.rs"];
    let sources = root().join("crates");
    for entry in fs::read_dir(sources).unwrap() {
        let src = entry.unwrap().path().join("src");
        for file in fs::read_dir(src).unwrap().map(|file| file.unwrap().path()) {
            let Ok(text) = fs::read_to_string(&file) else { continue };
            assert!(
                !text.contains("candle_core") || READERS.iter().any(|reader| file.ends_with(reader)),
                "{} uses candle",
                file.display()
            );
        }
    }
}
