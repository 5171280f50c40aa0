//! A private key that never leaves memory, and the certificate for it.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ssh_key::{Algorithm, Certificate, EcdsaCurve, PrivateKey, PublicKey, private::RsaKeypair};

use crate::{
    request::Request,
    signer::{SignError, Signer},
};

/// The kinds of key that can be made. Roles of Vault may allow only some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum KeyType {
    /// What is used unless told otherwise.
    #[default]
    Ed25519,
    /// ECDSA on a NIST curve.
    Ecdsa(EcdsaCurve),
    /// RSA, of so many bits.
    Rsa(usize),
}

impl KeyType {
    /// All of them, by name.
    pub const ALL: [(&str, Self); 7] = [
        ("ed25519", Self::Ed25519),
        ("ecdsa-256", Self::Ecdsa(EcdsaCurve::NistP256)),
        ("ecdsa-384", Self::Ecdsa(EcdsaCurve::NistP384)),
        ("ecdsa-521", Self::Ecdsa(EcdsaCurve::NistP521)),
        ("rsa-2048", Self::Rsa(2048)),
        ("rsa-3072", Self::Rsa(3072)),
        ("rsa-4096", Self::Rsa(4096)),
    ];

    fn key(self) -> Result<PrivateKey, ssh_key::Error> {
        let mut random = rand::rng();
        match self {
            Self::Ed25519 => PrivateKey::random(&mut random, Algorithm::Ed25519),
            Self::Ecdsa(curve) => PrivateKey::random(&mut random, Algorithm::Ecdsa { curve }),
            Self::Rsa(bits) => Ok(RsaKeypair::random(&mut random, bits)?.into()),
        }
    }
}

/// Not a [`KeyType`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a type of key here; there are ed25519, ecdsa-256, ecdsa-384, ecdsa-521, rsa-2048, rsa-3072 and rsa-4096"
)]
pub struct UnknownKeyType;

impl FromStr for KeyType {
    type Err = UnknownKeyType;

    fn from_str(text: &str) -> Result<Self, UnknownKeyType> {
        Self::ALL.into_iter().find(|(name, _)| *name == text).map(|(_, kind)| kind).ok_or(UnknownKeyType)
    }
}

impl TryFrom<String> for KeyType {
    type Error = UnknownKeyType;

    fn try_from(text: String) -> Result<Self, UnknownKeyType> {
        text.parse()
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.into_iter().find(|(_, kind)| kind == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

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
        Self::generate_of(KeyType::default(), signer, request).await
    }

    /// Makes a key of another type and has it signed.
    ///
    /// # Errors
    /// See [`SignError`].
    pub async fn generate_of(
        key_type: KeyType,
        signer: &dyn Signer,
        request: &Request,
    ) -> Result<Self, SignError> {
        // An RSA key takes a second or more to be found.
        let key = tokio::task::spawn_blocking(move || key_type.key())
            .await
            .map_err(|_| SignError::Key(ssh_key::Error::Crypto))?
            .map_err(SignError::Key)?;
        Self::for_key(signer, key, request).await
    }

    /// Has a key signed that exists already, such as a host's.
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
