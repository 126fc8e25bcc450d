//! Grids of runs over a base config.
