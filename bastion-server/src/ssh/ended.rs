//! Classifies the ends of sessions, for audit records, the log, metrics and clients.

use std::io::ErrorKind;

use crate::identity::certificate::Refused;

/// Why a session ended. Only the first is the client's own decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// The client disconnected, or closed the connection.
    ByClient,
    /// The connection broke: it was reset, or the client's host stopped answering.
    Lost,
    /// The client broke the SSH protocol, or an attacker changed its packets on the path.
    Protocol,
    /// The client did not answer the bastion's questions.
    Silent,
    /// The client read nothing of what was sent to it.
    NotReading,
    /// A memory budget was spent, and this client had read nothing for longest among those who spent it.
    OverBudget,
    /// The client makes no progress and blocks its session, for example by a key exchange that it does not
    /// finish.
    Stalled,
    /// The bastion began a key exchange, because the client had not, and more data arrived before the
    /// client's part of it than the SSH library holds.
    Overrun,
    /// The bastion cut the connection from outside the session.
    Cut,
    /// A defect of the bastion.
    Defect,
    /// The certificate would no longer be admitted: it expired, was revoked, or its authority is no longer
    /// trusted.
    Refused(Refused),
    /// The bastion shuts down.
    Shutdown,
}

impl Ended {
    /// Classifies an error of the SSH library.
    pub(super) fn by(error: &russh::Error) -> Self {
        use russh::Error;
        match error {
            Error::Disconnect | Error::HUP => Self::ByClient,
            Error::IO(error) => Self::by_socket(error),
            Error::KeepaliveTimeout | Error::InactivityTimeout => Self::Silent,
            Error::Pending => Self::Overrun,
            Error::Kex
            | Error::KexInit
            | Error::UnknownAlgo
            | Error::NoCommonAlgo { .. }
            | Error::Version
            | Error::PacketAuth
            | Error::DecryptionError
            | Error::PacketSize(_)
            | Error::Inconsistent
            | Error::NotAuthenticated
            | Error::UnsupportedAuthMethod
            | Error::IndexOutOfBounds
            | Error::WrongChannel
            | Error::Utf8(_)
            | Error::StrictKeyExchangeViolation { .. }
            | Error::Signature(_)
            | Error::SshKey(_)
            | Error::SshEncoding(_) => Self::Protocol,
            // An error that is not listed here is not the client's fault until shown otherwise.
            _ => Self::Defect,
        }
    }

    fn by_socket(error: &std::io::Error) -> Self {
        match (error.kind(), error.raw_os_error()) {
            (ErrorKind::UnexpectedEof, _) => Self::ByClient,
            // An error without an OS error number comes from `CarrierSocket`, not from the kernel.
            (ErrorKind::TimedOut, None) => Self::NotReading,
            (ErrorKind::ConnectionAborted, None) => Self::Cut,
            // The bounds before the login end a connection with this error.
            (ErrorKind::InvalidData, None) => Self::Protocol,
            _ => Self::Lost,
        }
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::ByClient => "client_left",
            Self::Lost => "connection_lost",
            Self::Protocol => "protocol_error",
            Self::Silent => "client_silent",
            Self::NotReading => "client_not_reading",
            Self::OverBudget => super::MEMORY_BUDGET,
            Self::Stalled => "client_stalled",
            Self::Overrun => "key_exchange_overrun",
            Self::Cut => "cut",
            Self::Defect => "defect",
            Self::Refused(refused) => refused.code(),
            Self::Shutdown => "shutdown",
        }
    }

    /// The remedy, for an operator, of an end that the bastion itself caused without need.
    pub(super) fn is_ours(&self) -> Option<&'static str> {
        match self {
            Self::Overrun => Some(
                "the client starts no key exchanges, so that the bastion had to, with too much under way; set the \
                 client's own limit (RekeyLimit), or use one that has one",
            ),
            Self::Defect => Some("this is a defect; the log says more at level debug"),
            Self::ByClient
            | Self::Lost
            | Self::Protocol
            | Self::Silent
            | Self::NotReading
            | Self::OverBudget
            | Self::Stalled
            | Self::Cut
            | Self::Refused(_)
            | Self::Shutdown => None,
        }
    }

    /// The description of the SSH disconnect (RFC 4253 §11.1).
    pub(super) fn farewell(&self) -> Option<String> {
        match self {
            Self::Refused(refused) => Some(format!("certificate refused: {}: {refused}", self.code())),
            Self::Shutdown => Some(format!("{}: the bastion is shutting down; connect again", self.code())),
            // A stalled session takes no message, and the other clients are gone.
            Self::ByClient
            | Self::Lost
            | Self::Protocol
            | Self::Silent
            | Self::NotReading
            | Self::OverBudget
            | Self::Stalled
            | Self::Overrun
            | Self::Cut
            | Self::Defect => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error as Io;

    use super::*;

    #[test]
    fn only_a_client_that_left_reads_as_one_that_left() {
        let kernel = |number| russh::Error::IO(Io::from_raw_os_error(number));
        let ours = |kind| russh::Error::IO(Io::new(kind, "ours"));
        for (error, expected) in [
            (russh::Error::Disconnect, "client_left"),
            (ours(ErrorKind::UnexpectedEof), "client_left"),
            (kernel(nix::libc::ECONNRESET), "connection_lost"),
            (kernel(nix::libc::ETIMEDOUT), "connection_lost"),
            (kernel(nix::libc::EPIPE), "connection_lost"),
            (ours(ErrorKind::TimedOut), "client_not_reading"),
            (ours(ErrorKind::ConnectionAborted), "cut"),
            (russh::Error::KeepaliveTimeout, "client_silent"),
            (russh::Error::Pending, "key_exchange_overrun"),
            (russh::Error::DecryptionError, "protocol_error"),
            (russh::Error::PacketAuth, "protocol_error"),
            (russh::Error::Inconsistent, "protocol_error"),
            (russh::Error::SendError, "defect"),
        ] {
            let ended = Ended::by(&error);
            assert_eq!(ended.code(), expected, "{error}");
            assert_eq!(ended.is_ours().is_some(), matches!(expected, "key_exchange_overrun" | "defect"));
        }
    }
}
