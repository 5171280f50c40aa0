//! Describes the certificate that a signer is asked for.

use std::time::Duration;

/// The extension without which an SSH server forwards nothing.
pub(crate) const PERMIT_PORT_FORWARDING: &str = "permit-port-forwarding";

/// What a certificate names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A user who logs in.
    User,
    /// A server.
    Host,
}

impl Kind {
    /// As Vault spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Host => "host",
        }
    }
}

/// What is asked for, apart from the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// User or host.
    pub kind: Kind,
    /// The role of the SSH engine.
    pub role: String,
    /// Login names, or a host's names. Empty leaves the choice to the role, which has to make one.
    pub principals: Vec<String>,
    /// How long the certificate shall live.
    pub ttl: Duration,
    /// Whether the role may choose another time, because this one is only a default.
    pub ttl_is_a_guess: bool,
    /// Extensions that must be in it. A host certificate has none.
    pub extensions: Vec<String>,
}

impl Request {
    /// A user's certificate that can forward ports.
    #[must_use]
    pub fn forwarding(role: impl Into<String>, principals: Vec<String>, ttl: Duration) -> Self {
        let extensions = vec![PERMIT_PORT_FORWARDING.to_owned()];
        Self { kind: Kind::User, role: role.into(), principals, ttl, ttl_is_a_guess: false, extensions }
    }

    /// A host's certificate.
    #[must_use]
    pub fn host(role: impl Into<String>, names: Vec<String>, ttl: Duration) -> Self {
        let (kind, role) = (Kind::Host, role.into());
        Self { kind, role, principals: names, ttl, ttl_is_a_guess: false, extensions: Vec::new() }
    }

    /// The same with a time to live that is only a default: where the role does not allow it, the role's own is taken.
    #[must_use]
    pub fn with_guessed_ttl(self) -> Self {
        Self { ttl_is_a_guess: true, ..self }
    }
}
