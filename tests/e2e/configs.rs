//! Every file in `configs/` is read, and a part fits into a run.

use std::fs;
use std::path::PathBuf;

use crate::lidit::root;
use lidit_train::{ConfigFile, RunConfig};

fn files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("configs").join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "configs/{folder} is empty");
    files
}

#[test]
fn every_run_config_is_read() {
    for path in files("run") {
        let file = ConfigFile::read(&path).unwrap();
        let stages = file.stages().unwrap();
        let picks = stages.iter().map(|name| vec![format!("stage={name}")]);
        for sets in if stages.is_empty() {
            vec![Vec::new()]
        } else {
            picks.collect()
        } {
            file.run(&sets).unwrap_or_else(|error| panic!("{error:#}"));
        }
    }
}

#[test]
fn every_part_fits_into_the_debug_run() {
    let debug = root().join("configs/run/debug.toml");
    for folder in ["model", "data", "encoders", "train"] {
        for part in files(folder) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("run.toml");
            fs::write(&path, format!("include = [{debug:?}, {part:?}]\n")).unwrap();
            RunConfig::load(&path, &[]).unwrap_or_else(|error| panic!("{}: {error:#}", part.display()));
        }
    }
}
