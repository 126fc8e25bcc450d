//! The commands that a sweep's runs are made of.

use std::path::Path;

use super::folder::SweepFolder;
use super::grid::GridPoint;
use super::shared_features::SharedFeatures;
use crate::device::DeviceArg;

/// Who runs what, and where.
pub struct Commands<'a> {
    /// The sweep's folder.
    pub folder: &'a SweepFolder,
    /// Ranks of a run.
    pub nproc: u16,
    /// Runs at once.
    pub jobs: u16,
    /// As the command line gave it.
    pub device: DeviceArg,
}

impl Commands<'_> {
    /// Encodes what runs share.
    pub fn cache(&self, features: &SharedFeatures) -> Vec<String> {
        let config = text(&self.folder.config(&features.name()));
        let words = vec!["cache".to_owned(), config, "--out".to_owned(), text(&features.folder)];
        self.on(0, words)
    }

    /// Trains a run, as the `job`-th of those at once.
    pub fn train(&self, point: &GridPoint, job: usize) -> Vec<String> {
        let name = &point.planned.name;
        let mut words = Vec::new();
        if self.nproc > 1 {
            words.extend(["launch", "--nproc"].map(String::from));
            words.extend([self.nproc.to_string(), "--".to_owned()]);
        }
        words.extend(["train".to_owned(), text(&self.folder.config(name))]);
        words.extend([
            "--run-dir".to_owned(),
            text(&self.folder.run(name)),
            "--resume".to_owned(),
        ]);
        self.on(job, words)
    }

    /// Evaluates a run by the config file `evaluate`.
    pub fn evaluate(&self, point: &GridPoint, evaluate: &Path, job: usize) -> Vec<String> {
        let run = text(&self.folder.run(&point.planned.name));
        self.on(job, vec!["eval".to_owned(), text(evaluate), "--run".to_owned(), run])
    }

    /// On a GPU of its own, for each of several runs at once.
    fn on(&self, job: usize, mut words: Vec<String>) -> Vec<String> {
        let device = match self.device {
            DeviceArg::Cuda(None) if self.jobs > 1 => DeviceArg::Cuda(Some(job)),
            device => device,
        };
        words.extend(["--device".to_owned(), device.to_string()]);
        words
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
