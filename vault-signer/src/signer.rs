//! The trait of what signs public keys, and why one does not.

pub mod local;
pub mod vault;

use ssh_key::{Certificate, PublicKey};

use crate::{BoxFuture, certificate::Mismatch, http::Error, request::Request};

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

impl plain_text::Hint for SignError {}

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
