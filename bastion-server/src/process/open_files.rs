//! Raises the limit on open files.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit on open files to the hard limit. The usual soft limit of 1024 protects programs that
/// use `select(2)`, and the bastion does not.
pub(crate) fn raise() {
    let limit = Resource::RLIMIT_NOFILE;
    match getrlimit(limit).and_then(|(_, most)| setrlimit(limit, most, most).map(|()| most)) {
        Ok(most) => tracing::debug!(most, "limit on open files raised"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit on open files"),
    }
}
