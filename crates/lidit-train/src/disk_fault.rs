//! Why a write failed, and what a person can do about it.

use std::io::{Error, ErrorKind};
use std::path::Path;

/// The error of doing `what` (such as `cannot write`) with `path`, with what to do about it.
pub(crate) fn explained(error: Error, what: &str, path: &Path) -> anyhow::Error {
    let text = match advice(&error) {
        Some(advice) => format!("{what} {}: {advice}", path.display()),
        None => format!("{what} {}", path.display()),
    };
    anyhow::Error::new(error).context(text)
}

fn advice(error: &Error) -> Option<&'static str> {
    Some(match error.kind() {
        ErrorKind::StorageFull => "the disk is full: free space on it",
        ErrorKind::QuotaExceeded => "the disk quota is used up: free space or ask for more",
        ErrorKind::FileTooLarge => "it would be larger than files may be here: raise the limit (ulimit -f)",
        ErrorKind::ReadOnlyFilesystem => {
            "the file system is read-only: mount it for writing (a failing disk turns so by itself)"
        }
        ErrorKind::PermissionDenied => "this user may not write there: change the permissions",
        ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle => {
            "its folder is gone: bring it back if it was unmounted, moved or removed"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_where_it_was_what_to_do_and_its_cause() {
        for (kind, named) in [
            (ErrorKind::StorageFull, "disk is full"),
            (ErrorKind::FileTooLarge, "ulimit"),
            (ErrorKind::ReadOnlyFilesystem, "read-only"),
            (ErrorKind::NotFound, "unmounted"),
        ] {
            let text = format!("{:#}", explained(kind.into(), "cannot write", Path::new("/a/b")));
            assert!(
                text.starts_with("cannot write /a/b: ") && text.contains(named),
                "{text}"
            );
        }
        let other = format!(
            "{:#}",
            explained(ErrorKind::TimedOut.into(), "cannot write", Path::new("/a/b"))
        );
        assert_eq!(other, "cannot write /a/b: timed out");
    }
}
