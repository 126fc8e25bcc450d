//! Laws of loss against parameters, data and compute, fitted to a table of runs. `docs/scaling.md` has the formulas.

mod bootstrap;
mod compute_cost;
mod error;
mod fit;
mod huber;
mod interval;
mod isoflop;
mod isoflop_group;
mod joint;
mod joint_law;
mod leave_out;
mod linear;
mod point;
mod power_law;
mod rank;
mod selection;
mod table;
mod text;
mod warning;

pub use self::compute_cost::ComputeCost;
pub use self::error::LawError;
pub use self::fit::{CurvePoint, Fit, FitOptions};
pub use self::interval::Interval;
pub use self::isoflop::{Budget, IsoFlop};
pub use self::joint::{Bands, JointFit, JointLaw};
pub use self::leave_out::{HeldOut, LeaveOut};
pub use self::point::Point;
pub use self::power_law::PowerLaw;
pub use self::selection::{LeftOut, Measurement};
pub use self::table::Table;
pub use self::warning::Warning;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod synthetic;
