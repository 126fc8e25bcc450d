//! The `lidit` command line: parses and dispatches.
mod outcome;
fn main() {}
