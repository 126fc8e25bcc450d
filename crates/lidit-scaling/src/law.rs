//! Laws of loss against parameters, data and compute, fitted to a table of runs.
