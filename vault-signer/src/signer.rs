//! Who signs: what is asked for, and the trait that everybody who signs has.

pub mod local;
pub mod vault;

use std::time::Duration;

use ssh_key::{Certificate, PublicKey};

use crate::BoxFuture;
use crate::certificate::Mismatch;
use crate::http::Error;

/// The extension without which an SSH server forwards nothing.
pub const PERMIT_PORT_FORWARDING: &str = "permit-port-forwarding";

/// Whom a certificate names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Somebody who logs in.
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
    /// Login names, or a host's names. None: the role's own choice, of which there must be at least one.
    pub principals: Vec<String>,
    /// How long the certificate shall live.
    pub ttl: Duration,
    /// Whether the role may choose another time: nobody asked for this one.
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

    /// The same, whose time to live nobody chose: where the role does not allow it, the role's own is taken.
    #[must_use]
    pub fn with_guessed_ttl(self) -> Self {
        Self { ttl_is_a_guess: true, ..self }
    }
}

/// Signs public keys. What it returns has passed [`crate::certificate::check`].
pub trait Signer: Send + Sync {
    /// Has `key` signed.
    ///
    /// # Errors
    /// See [`SignError`].
    fn sign<'a>(
        &'a self,
        key: &'a PublicKey,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Certificate, SignError>>;

    /// The public keys that it signs with, now.
    ///
    /// # Errors
    /// See [`SignError`].
    fn authorities(&self) -> BoxFuture<'_, Result<Vec<PublicKey>, SignError>>;
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The signer does not sign this.
    #[error("signing with role `{role}` was refused: {reason}")]
    Refused {
        /// The role, escaped.
        role: String,
        /// The signer's words, and what to do.
        reason: String,
    },
    /// What came back is not what was asked for, and is not used.
    #[error(
        "the certificate that came back is not the one that was asked for: {0}\n  It is not used. Compare the role in Vault with what is asked for"
    )]
    Mismatch(#[from] Mismatch),
    /// Something on the way to Vault.
    #[error(transparent)]
    Server(#[from] Error),
    /// The key cannot be made or used here.
    #[error("the key cannot be used: {0}")]
    Key(ssh_key::Error),
}

impl SignError {
    /// Whether asking again may succeed with nothing changed by a person.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Server(error) => error.is_transient(),
            Self::Refused { .. } | Self::Mismatch(_) | Self::Key(_) => false,
        }
    }
}
