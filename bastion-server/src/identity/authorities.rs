//! The authorities whose certificates are accepted.

use std::sync::Arc;

use ssh_key::{EcdsaCurve, PublicKey, public::KeyData};
use thiserror::Error;

/// The smallest RSA key that signs or is signed, in bits.
pub(crate) const RSA_MIN_BITS: usize = 2048;

/// The public keys that may sign user certificates. The empty set admits nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthoritySet(Arc<[KeyData]>);

impl AuthoritySet {
    /// Takes the keys that are fit to be authorities, each once.
    ///
    /// # Errors
    /// Names the first key that is not fit, and why.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Result<Self, Unfit> {
        let mut fit: Vec<KeyData> = Vec::new();
        for key in keys {
            check(key.key_data())?;
            if !fit.contains(key.key_data()) {
                fit.push(key.key_data().clone());
            }
        }
        Ok(Self(fit.into()))
    }

    /// These and one more, which had been one of them.
    pub(super) fn with(&self, key: &KeyData) -> Self {
        Self(self.iter().chain([key]).cloned().collect())
    }

    /// Whether `key` is one of them.
    pub fn contains(&self, key: &KeyData) -> bool {
        self.0.contains(key)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody at all can be admitted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys.
    pub fn iter(&self) -> impl Iterator<Item = &KeyData> {
        self.0.iter()
    }
}

/// Why a key cannot be an authority, or a user's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unfit {
    /// An RSA key that can be factored too soon.
    #[error("it is an RSA key of {0} bits; at least {RSA_MIN_BITS} are needed")]
    ShortRsa(usize),
    /// DSA, a certificate in place of a key, or something unknown.
    #[error("its type is not accepted; use ed25519, ecdsa, rsa or their sk variants")]
    Type,
}

/// Whether a key is strong enough to sign anything here.
///
/// # Errors
/// When it is not.
pub(crate) fn check(key: &KeyData) -> Result<(), Unfit> {
    match key {
        KeyData::Ed25519(_) | KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => Ok(()),
        KeyData::Ecdsa(key) => match key.curve() {
            EcdsaCurve::NistP256 | EcdsaCurve::NistP384 | EcdsaCurve::NistP521 => Ok(()),
        },
        KeyData::Rsa(key) => match usize::try_from(key.key_size()).unwrap_or_default() {
            bits if bits >= RSA_MIN_BITS => Ok(()),
            bits => Err(Unfit::ShortRsa(bits)),
        },
        // The library's enum may grow; what is not known here is not accepted.
        KeyData::Dsa(_) | KeyData::Certificate(_) | KeyData::Other(_) | _ => Err(Unfit::Type),
    }
}
