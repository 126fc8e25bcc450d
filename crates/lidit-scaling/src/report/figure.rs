//! The report's plots.

use super::chart::Chart;

/// A heading over one plot or several beside each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// A short name for files and links.
    pub id: &'static str,
    /// Its heading.
    pub heading: &'static str,
    /// Its name among the page's links.
    pub link: &'static str,
    /// What to see in it.
    pub note: String,
    /// Plots with their own names; one without a name fills the width.
    pub charts: Vec<(String, Chart)>,
}
