//! What a sweep says while it runs.

use std::io::Write as _;

/// A line on stderr, which may be gone.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "sweep: {line}");
}
