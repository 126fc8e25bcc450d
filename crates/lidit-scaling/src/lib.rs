//! Sweeps over model and data size: their grids, the laws fitted to them, their report, and the Scenes world with its
//! judge. Plain numbers and pictures in, tables and pages out; no tensors.

pub mod law;
pub mod report;
pub mod scenes;
pub mod sweep;
