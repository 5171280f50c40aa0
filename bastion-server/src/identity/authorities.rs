//! The set of authorities whose user certificates are accepted.

use std::sync::Arc;

use ssh_key::{EcdsaCurve, PublicKey, public::KeyData};
use thiserror::Error;

/// The smallest RSA key that may sign or be certified, in bits.
pub(crate) const RSA_MIN_BITS: usize = 2048;

/// The public keys that may sign user certificates. The empty set admits no client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthoritySet(Arc<[KeyData]>);

impl AuthoritySet {
    /// Collects the keys, each once, after checking that each may be an authority.
    ///
    /// # Errors
    /// The first key that may not be an authority, and why.
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

    /// A copy of the set with one more key, which used to be in it.
    pub(super) fn with(&self, key: &KeyData) -> Self {
        Self(self.iter().chain([key]).cloned().collect())
    }

    /// Whether the bastion trusts `key`.
    pub fn contains(&self, key: &KeyData) -> bool {
        self.0.contains(key)
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set is empty, so that no client can be admitted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over the keys.
    pub fn iter(&self) -> impl Iterator<Item = &KeyData> {
        self.0.iter()
    }
}

/// Why a key may be neither an authority's nor a user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unfit {
    /// An RSA key too short to resist factoring; holds its bits.
    #[error("it is an RSA key of {0} bits; at least {RSA_MIN_BITS} are needed")]
    ShortRsa(usize),
    /// A DSA key, a certificate instead of a key, or an unknown type.
    #[error("its type is not accepted; use ed25519, ecdsa, rsa or their sk variants")]
    Type,
}

/// Checks that a key is strong enough for an authority or a user.
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
        // The library's enum may gain variants; unknown types are refused.
        KeyData::Dsa(_) | KeyData::Certificate(_) | KeyData::Other(_) | _ => Err(Unfit::Type),
    }
}
