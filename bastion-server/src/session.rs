//! Names a session in logs, metrics and audit records.

use std::{fmt, net::SocketAddr};

use tracing::Span;

/// A random name for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionId(u64);

impl SessionId {
    /// A new name.
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Which connection a record is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    /// Its name.
    pub id: SessionId,
    /// Where it comes from.
    pub client: SocketAddr,
}

impl Session {
    /// The span in which everything that concerns this connection is logged. It is there at every level of the log.
    pub(crate) fn span(&self) -> Span {
        tracing::error_span!("session", id = %self.id, client = %self.client)
    }
}
