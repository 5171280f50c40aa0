//! Says what TLS has to be, and what it was.

/// Whether our connection to the server uses TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// No TLS is asked for.
    Disable,
    /// A server without TLS is refused. An attacker in the middle is not noticed.
    Require,
    /// A server without TLS is refused, and so is one whose certificate was not verified.
    Verify,
}

/// What the caller found out while it began TLS as a client.
#[derive(Clone, Copy, Debug)]
pub struct TlsFacts<'a> {
    /// Whether the server's certificate was verified, for the name that was meant.
    pub verified: bool,
    /// The server's own certificate in DER, to which a login can be bound.
    pub certificate: Option<&'a [u8]>,
}

/// Whether our connection with the local client may use TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalTls {
    /// A client that asks is told that there is no TLS here.
    Absent,
    /// A client that asks gets TLS, and one that does not ask is served as well.
    Offered,
}

/// When a password is sent as it is, to a server that asks for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClearPassword {
    /// Never.
    Never,
    /// Inside of TLS with a verified certificate.
    OverVerifiedTls,
    /// Inside of any TLS: an attacker in the middle who makes a certificate of its own gets the password.
    DangerouslyOverAnyTls,
}

impl ClearPassword {
    pub(crate) fn is_safe(self, link: Link) -> bool {
        match (self, link) {
            (Self::Never, _) | (_, Link::Plain) => false,
            (Self::OverVerifiedTls, link) => link == Link::Verified,
            (Self::DangerouslyOverAnyTls, Link::Encrypted | Link::Verified) => true,
        }
    }
}

/// What a connection with the server is by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Plain,
    Encrypted,
    Verified,
}

impl Link {
    /// The link after TLS has begun; `None` if it is less than was asked for.
    pub(crate) fn after_tls(mode: TlsMode, facts: TlsFacts<'_>) -> Option<Self> {
        match (mode, facts.verified) {
            (_, true) => Some(Self::Verified),
            (TlsMode::Disable | TlsMode::Require, false) => Some(Self::Encrypted),
            (TlsMode::Verify, false) => None,
        }
    }
}
