//! Hands warnings to the cluster's Events as well as the log, without waiting for a reader.

use tokio::sync::mpsc;

/// The most warnings that wait for the reader. Later ones are only in the log.
const WAITING: usize = 16;

/// A problem that an operator should act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A source of authorities cannot be read.
    AuthorityUnreadable,
    /// A revocation list cannot be read.
    RevocationUnreadable,
    /// The host key cannot be had, or its certificate is not renewed.
    HostKeyUnavailable,
}

impl Reason {
    /// The reason of the Event, as `kubectl get events` shows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AuthorityUnreadable => "AuthorityUnreadable",
            Self::RevocationUnreadable => "RevocationUnreadable",
            Self::HostKeyUnavailable => "HostKeyUnavailable",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Warning {
    pub reason: Reason,
    /// One line of text.
    pub message: String,
}

/// The sending half; the default value has no reader.
#[derive(Clone, Debug, Default)]
pub(crate) struct Warnings(Option<mpsc::Sender<Warning>>);

impl Warnings {
    /// The sending half with a reader.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Warning>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(Some(sender)), receiver)
    }

    /// Sends a warning, if there is room.
    pub(crate) fn raise(&self, reason: Reason, message: impl Into<String>) {
        if let Some(sender) = &self.0 {
            // A slow reader must not hold the sender up; the warning is in the log too.
            let _ = sender.try_send(Warning { reason, message: message.into() });
        }
    }
}
