//! Names a session in logs, metrics and audit records.

use std::{fmt, net::SocketAddr};

use tracing::Span;

/// A random name for one connection, the same in every log line, metric and audit record about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionId(u64);

impl SessionId {
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The connection that a record is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    pub id: SessionId,
    /// The client's address: the one that a trusted proxy announced, or else the peer's.
    pub client: SocketAddr,
}

impl Session {
    /// The span of every log line about this connection, present at every log level.
    pub(crate) fn span(&self) -> Span {
        tracing::error_span!("session", id = %self.id, client = %self.client)
    }
}
