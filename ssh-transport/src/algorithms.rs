//! What we offer in a key exchange, best first, and why the rest is missing.

use std::borrow::Cow;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::{Preferred, cipher, compression, kex, mac};

/// Hybrid post-quantum first, then the curve that every peer has.
///
/// No finite-field Diffie-Hellman: it costs the server milliseconds a handshake, enough for one flooding peer to hold
/// up everybody's login.
const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

/// Authenticated ciphers only, the fastest first.
const CIPHERS: &[cipher::Name] = &[cipher::AES_128_GCM, cipher::AES_256_GCM, cipher::CHACHA20_POLY1305];

/// Every cipher above brings its own authentication; a list must not be empty all the same (RFC 4253 §7.1).
const MACS: &[mac::Name] = &[mac::HMAC_SHA512_ETM, mac::HMAC_SHA256_ETM];

/// None: zlib has been a way to exhaust a server's memory, and what is worth compressing is compressed above us.
const COMPRESSION: &[compression::Name] = &[compression::NONE];

/// Signature algorithms of host keys and of the keys in certificates. No `ssh-rsa`, which signs SHA-1.
const KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

/// Host keys a client accepts when it has one pinned.
pub fn with_host_keys() -> Preferred {
    Preferred {
        kex: Cow::Borrowed(KEX),
        key: Cow::Borrowed(KEYS),
        host_key_certificates: Cow::Borrowed(&[]),
        cipher: Cow::Borrowed(CIPHERS),
        mac: Cow::Borrowed(MACS),
        compression: Cow::Borrowed(COMPRESSION),
    }
}

/// Host certificates a client demands when it knows a host authority, with bare keys behind them.
///
/// The bare names stay in the offer because a server without a certificate should fail with "it has only a bare key",
/// which the client's verification says, and not with "no common algorithm".
pub fn with_host_certificates() -> Preferred {
    Preferred { host_key_certificates: Cow::Borrowed(KEYS), ..with_host_keys() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_weak_is_offered() {
        let offered = with_host_certificates();
        let names: Vec<&str> = offered
            .kex
            .iter()
            .map(AsRef::as_ref)
            .chain(offered.cipher.iter().map(AsRef::as_ref))
            .chain(offered.mac.iter().map(AsRef::as_ref))
            .chain(offered.compression.iter().map(AsRef::as_ref))
            .collect();
        for weak in ["group", "sha1", "-cbc", "-ctr", "zlib", "md5", "3des", "arcfour"] {
            assert!(names.iter().all(|name| !name.contains(weak)), "{weak} in {names:?}");
        }
        assert!(offered.key.iter().all(|key| key.to_string() != "ssh-rsa"));
        assert_eq!(offered.cipher.first(), Some(&cipher::AES_128_GCM));
    }
}
