//! Raises the limit of open files.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Has the system allow as many open files as this process may have. The usual limit of 1024 is there for programs
/// that put file descriptors into a bit set, which this one does not.
pub(crate) fn raise() {
    let limit = Resource::RLIMIT_NOFILE;
    match getrlimit(limit).and_then(|(_, most)| setrlimit(limit, most, most).map(|()| most)) {
        Ok(most) => tracing::debug!(most, "open files are limited"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit on open files"),
    }
}
