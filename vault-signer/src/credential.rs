//! A private key that never leaves memory, and the certificate for it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ssh_key::{Algorithm, Certificate, PrivateKey, PublicKey};

use crate::signer::{Request, SignError, Signer};

/// A key and its certificate. The key is wiped when this is dropped.
#[derive(Clone)]
pub struct Credential {
    key: PrivateKey,
    certificate: Certificate,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("key_id", &self.certificate.key_id())
            .field("serial", &self.certificate.serial())
            .finish_non_exhaustive()
    }
}

impl Credential {
    /// Makes an ed25519 key and has it signed.
    ///
    /// # Errors
    /// See [`SignError`].
    pub async fn generate(signer: &dyn Signer, request: &Request) -> Result<Self, SignError> {
        let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).map_err(SignError::Key)?;
        Self::for_key(signer, key, request).await
    }

    /// Has a key signed that somebody has already, as a host does.
    ///
    /// # Errors
    /// See [`SignError`].
    pub async fn for_key(signer: &dyn Signer, key: PrivateKey, request: &Request) -> Result<Self, SignError> {
        let certificate = signer.sign(key.public_key(), request).await?;
        Ok(Self { key, certificate })
    }

    /// The private key.
    #[must_use]
    pub fn private_key(&self) -> &PrivateKey {
        &self.key
    }

    /// The certificate, as it was checked.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The key that signed the certificate.
    #[must_use]
    pub fn authority(&self) -> PublicKey {
        self.certificate.signature_key().clone().into()
    }

    /// From when it is valid.
    #[must_use]
    pub fn valid_after(&self) -> SystemTime {
        time(self.certificate.valid_after())
    }

    /// The first moment at which it is not valid any more.
    #[must_use]
    pub fn valid_before(&self) -> SystemTime {
        time(self.certificate.valid_before())
    }

    /// How long it is still valid; zero if it is not.
    #[must_use]
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.valid_before().duration_since(now).unwrap_or_default()
    }
}

/// Checked certificates have times that fit; for any other the answer is the epoch, long ago.
fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}
