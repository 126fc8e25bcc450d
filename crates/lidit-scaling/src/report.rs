//! A sweep's report: one page, its plots and tables.

mod axis;
mod chart;
mod chart_mark;
mod config_diff;
mod drawing;
mod error;
mod escape;
mod figure;
mod figures;
mod group;
mod group_table;
mod ink;
mod law_section;
mod legend;
mod numbers;
mod page;
mod page_data;
mod raster;
mod run;
mod run_table;
mod sections;
mod shade;
mod summary;
mod svg;
mod write;

use serde::{Deserialize, Serialize};

pub use self::error::ReportError;
pub use self::run::{CurveSample, HeldOutLosses, Picture, ReportRun, RunStatus, Score};
use crate::law::Fit;

/// All that a report shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The sweep's name.
    pub title: String,
    /// When it was made, as people write it.
    pub made: String,
    /// The program's version.
    pub version: String,
    /// What `cost` counts, as `USD`.
    pub currency: String,
    /// Sentences to stand at the top, for instance why there is no law.
    pub notes: Vec<String>,
    /// The law, if one was fitted.
    pub fit: Option<Fit>,
    /// The sweep's runs.
    pub runs: Vec<ReportRun>,
}

#[cfg(test)]
mod sample;
