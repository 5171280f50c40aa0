//! What an operator should hear of where operators look: told to whoever listens, without waiting for them.

use tokio::sync::mpsc;

/// Warnings that wait to be told. What is beyond is only in the log.
const WAITING: usize = 16;

/// Something that an operator should see to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A source of authorities cannot be read.
    AuthorityUnreadable,
    /// A list of what is revoked cannot be read.
    RevocationUnreadable,
    /// The host key is not to be had, or its certificate is not renewed.
    HostKeyUnavailable,
}

impl Reason {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AuthorityUnreadable => "AuthorityUnreadable",
            Self::RevocationUnreadable => "RevocationUnreadable",
            Self::HostKeyUnavailable => "HostKeyUnavailable",
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Warning {
    /// The kind.
    pub reason: Reason,
    /// One line.
    pub message: String,
}

/// Where warnings are told. By default nobody listens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Warnings(Option<mpsc::Sender<Warning>>);

impl Warnings {
    /// With somebody who listens.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Warning>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(Some(sender)), receiver)
    }

    /// Tells it, if there is room.
    pub(crate) fn raise(&self, reason: Reason, message: impl Into<String>) {
        if let Some(sender) = &self.0 {
            // Nobody is held up by whoever does not listen; it is in the log.
            let _ = sender.try_send(Warning { reason, message: message.into() });
        }
    }
}
