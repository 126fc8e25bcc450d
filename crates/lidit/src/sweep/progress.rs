//! What a sweep says while it runs.

use std::io::{IsTerminal as _, Write as _};

/// A line on stderr, which may be gone.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "sweep: {line}");
}

/// A table on stderr, in the place of the one before where that is a terminal.
pub fn show(table: &str) {
    let mut stderr = std::io::stderr();
    let clear = if stderr.is_terminal() { "\x1b[2J\x1b[H" } else { "" };
    let _ = writeln!(stderr, "{clear}{table}");
}
