//! Answers a server's question about the password, for each plugin that is known.

use aws_lc_rs::{
    digest::{SHA1_FOR_LEGACY_USE_ONLY as SHA1, SHA256},
    rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey},
};
use ed25519_dalek::{
    VerifyingKey,
    hazmat::{ExpandedSecretKey, raw_sign},
};
use pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use sha2::{Digest as _, Sha512};
use zeroize::Zeroizing;

use crate::{hash::digest, password::Password};

type Answer = Zeroizing<Vec<u8>>;

fn xor(one: &[u8], other: &[u8]) -> Answer {
    Zeroizing::new(one.iter().zip(other.iter().cycle()).map(|(a, b)| a ^ b).collect())
}

/// `mysql_native_password`: SHA1(password) XOR SHA1(scramble, SHA1(SHA1(password))).
pub(crate) fn native(password: &Password, scramble: &[u8]) -> Answer {
    let once = digest(&SHA1, &[password.expose().as_bytes()]);
    let twice = digest(&SHA1, &[&once]);
    xor(&once, &digest(&SHA1, &[scramble, &twice]))
}

/// `caching_sha2_password`: SHA256(password) XOR SHA256(SHA256(SHA256(password)), scramble).
pub(crate) fn caching(password: &Password, scramble: &[u8]) -> Answer {
    let once = digest(&SHA256, &[password.expose().as_bytes()]);
    let twice = digest(&SHA256, &[&once]);
    xor(&once, &digest(&SHA256, &[&twice, scramble]))
}

/// MariaDB's `client_ed25519`: a signature of the scramble by the key that SHA512(password) expands to. An
/// ordinary key would be 32 random bytes, which libraries hash themselves.
pub(crate) fn ed25519(password: &Password, scramble: &[u8]) -> Answer {
    let mut hashed = Zeroizing::new([0; 64]);
    hashed.copy_from_slice(&Sha512::digest(password.expose()));
    let key = ExpandedSecretKey::from_bytes(&hashed);
    let public = VerifyingKey::from(&key);
    Zeroizing::new(raw_sign::<Sha512>(&key, scramble, &public).to_bytes().to_vec())
}

/// Why a key cannot encrypt a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableKey {
    /// It is no public key in PEM.
    #[error("this is no PEM file of a public key, as `caching_sha2_password_public_key_path` names one")]
    Pem,
    /// It is no RSA key of 2048 to 8192 bits.
    #[error("this is no RSA key of 2048 to 8192 bits")]
    Rsa,
}

/// A server's public RSA key, known beforehand. A key that the server sends over the connection could be an
/// attacker's, and is never asked for.
#[derive(Clone, Debug)]
pub struct ServerKey(PublicEncryptingKey);

impl ServerKey {
    /// Reads the file that the server has as `caching_sha2_password_public_key_path`.
    ///
    /// # Errors
    /// When it holds no such key.
    pub fn from_pem(pem: &[u8]) -> Result<Self, UnusableKey> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| UnusableKey::Pem)?;
        PublicEncryptingKey::from_der(&der).map(Self).map_err(|_| UnusableKey::Rsa)
    }

    /// The password, mixed with the scramble and encrypted with OAEP. `None` if it is too long for the key.
    pub(crate) fn encrypt(&self, password: &Password, scramble: &[u8]) -> Option<Answer> {
        let key = OaepPublicEncryptingKey::new(self.0.clone()).ok()?;
        let clear = clear(password);
        let mixed = xor(&clear, scramble);
        let mut out = Zeroizing::new(vec![0; key.ciphertext_size()]);
        let length = key.encrypt(&OAEP_SHA1_MGF1SHA1, &mixed, &mut out, None).ok()?.len();
        out.truncate(length);
        Some(out)
    }
}

/// The password with a zero byte behind it.
pub(crate) fn clear(password: &Password) -> Answer {
    let text = password.expose().as_bytes();
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() + 1));
    out.extend_from_slice(text);
    out.push(0);
    out
}
