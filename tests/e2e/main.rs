//! Runs the real program in temporary folders: what a user must be able to trust.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod audit;
mod averages;
mod bench;
mod chaos;
mod configs;
mod data_order;
mod data_sets;
mod disk_faults;
mod doctor;
mod evaluation;
mod exports;
mod feature_cache;
mod hosts;
mod incidents;
mod kubernetes;
mod latents;
mod launchers;
mod lidit;
mod mistakes;
mod plan;
mod ranks;
mod render;
mod replay;
mod resume;
mod sampling;
mod scenes;
mod signals;
mod slurm;
mod stages;
mod sweeps;
mod training;
mod vae;
mod validation;
mod widths;
mod workspace;
