//! Every file in `configs/` is read, and a part fits into a run.

use std::fs;
use std::path::PathBuf;

use crate::lidit::{error, root};
use lidit_scaling::sweep::Sweep;
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

#[test]
fn every_run_of_every_sweep_is_a_config_on_a_cpu_and_the_paper_s_on_a_cluster() {
    for path in files("sweep") {
        let sweep = Sweep::parse(&fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let beside = path.parent().unwrap();
        let mut bases = vec![beside.join(&sweep.base)];
        if path.file_name().unwrap().to_str().unwrap().starts_with("paper-") {
            bases.push(root().join("configs/run/ablation-1b.toml"));
        }
        for base in bases {
            for choice in sweep.choices().unwrap() {
                let file = ConfigFile::read(&base).unwrap();
                let file = choice
                    .pieces
                    .into_iter()
                    .try_fold(file, |file, piece| file.with(piece, &path));
                let read = file.and_then(|file| file.run(&[]));
                read.unwrap_or_else(|error| panic!("{}, {}: {error:#}", path.display(), choice.name));
            }
        }
        if let Some(evaluate) = sweep.evaluate {
            let said = error(&["eval", beside.join(evaluate).to_str().unwrap(), "--run", "/no/such/run"]);
            assert!(said.contains("/no/such/run"), "{said}");
        }
    }
}
