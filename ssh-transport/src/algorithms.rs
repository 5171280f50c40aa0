//! Lists the algorithms offered in a key exchange, best first, and why the rest is missing or asked for by name ([`More`]).

use std::borrow::Cow;

use russh::{
    Preferred, cipher, compression, kex,
    keys::{Algorithm, EcdsaCurve, HashAlg},
    mac,
};
use schemars::JsonSchema;
use serde::Deserialize;

/// Hybrid post-quantum first, then the curve that every peer has.
///
/// No finite-field Diffie-Hellman: it costs the server milliseconds a handshake, enough for one flooding peer to hold
/// up the logins of all clients.
const KEX: &[kex::Name] = &[kex::MLKEM768X25519_SHA256, kex::CURVE25519, kex::CURVE25519_PRE_RFC_8731];

/// Behind every key exchange, those included that are in [`More`].
const KEX_EXTENSIONS: &[kex::Name] = &[
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

/// What a server offers only where its operator says so, for clients that know nothing else: those in FIPS mode, and paramiko
/// before 3.5. Each is without a known weakness, and has its price. There is no CBC, no SHA-1 and no finite-field
/// Diffie-Hellman to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum More {
    /// A cipher beside a MAC: twice the work of GCM for each byte, and a client that prefers it gets it.
    #[serde(rename = "aes128-ctr")]
    Aes128Ctr,
    /// The same.
    #[serde(rename = "aes192-ctr")]
    Aes192Ctr,
    /// The same.
    #[serde(rename = "aes256-ctr")]
    Aes256Ctr,
    /// Over curves whose constants have no published derivation, and recorded traffic can be read once there are quantum computers.
    #[serde(rename = "ecdh-sha2-nistp256")]
    EcdhNistp256,
    /// The same, at several times the processor time of a login.
    #[serde(rename = "ecdh-sha2-nistp384")]
    EcdhNistp384,
    /// The same, and still slower.
    #[serde(rename = "ecdh-sha2-nistp521")]
    EcdhNistp521,
    /// Over the plain text instead of over what is sent: what was forged is decrypted before it is refused.
    #[serde(rename = "hmac-sha2-256")]
    HmacSha256,
    /// The same.
    #[serde(rename = "hmac-sha2-512")]
    HmacSha512,
}

impl More {
    /// Puts it behind what is offered anyway.
    fn add_to(self, offer: &mut Preferred) {
        match self {
            Self::Aes128Ctr => offer.cipher.to_mut().push(cipher::AES_128_CTR),
            Self::Aes192Ctr => offer.cipher.to_mut().push(cipher::AES_192_CTR),
            Self::Aes256Ctr => offer.cipher.to_mut().push(cipher::AES_256_CTR),
            Self::EcdhNistp256 => offer.kex.to_mut().push(kex::ECDH_SHA2_NISTP256),
            Self::EcdhNistp384 => offer.kex.to_mut().push(kex::ECDH_SHA2_NISTP384),
            Self::EcdhNistp521 => offer.kex.to_mut().push(kex::ECDH_SHA2_NISTP521),
            Self::HmacSha256 => offer.mac.to_mut().push(mac::HMAC_SHA256),
            Self::HmacSha512 => offer.mac.to_mut().push(mac::HMAC_SHA512),
        }
    }
}

/// What a server offers: the best, and what its operator adds.
pub fn for_server(more: &[More]) -> Preferred {
    let mut offer = Preferred { kex: Cow::Borrowed(KEX), ..with_host_keys() };
    more.iter().for_each(|more| more.add_to(&mut offer));
    offer.kex.to_mut().extend_from_slice(KEX_EXTENSIONS);
    offer
}

/// Host keys a client accepts when it has some pinned, whose algorithms are `pinned`: those first, since a server that has
/// keys of several kinds presents the one that its client likes best. The others stay behind them: a server without any
/// of those kinds should fail with the key that it has instead.
pub fn with_pinned_keys<'a>(pinned: impl IntoIterator<Item = &'a Algorithm>) -> Preferred {
    let pinned: Vec<&Algorithm> = pinned.into_iter().collect();
    let is_pinned = |offered: &&Algorithm| pinned.iter().any(|pinned| is_of_same_key(pinned, offered));
    let (first, rest): (Vec<&Algorithm>, Vec<&Algorithm>) = KEYS.iter().partition(is_pinned);
    Preferred { key: first.into_iter().chain(rest).cloned().collect(), ..with_host_keys() }
}

/// An RSA key signs with either hash.
fn is_of_same_key(one: &Algorithm, other: &Algorithm) -> bool {
    match (one, other) {
        (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
        (one, other) => one == other,
    }
}

/// Host keys, the fastest first.
pub fn with_host_keys() -> Preferred {
    Preferred {
        kex: Cow::Owned([KEX, KEX_EXTENSIONS].concat()),
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

    fn names(offer: &Preferred) -> Vec<&str> {
        let kex = offer.kex.iter().map(AsRef::as_ref).chain(offer.cipher.iter().map(AsRef::as_ref));
        let others = offer.mac.iter().map(AsRef::as_ref).chain(offer.compression.iter().map(AsRef::as_ref));
        kex.chain(others).collect()
    }

    const ALL: [More; 8] = [
        More::Aes128Ctr,
        More::Aes192Ctr,
        More::Aes256Ctr,
        More::EcdhNistp256,
        More::EcdhNistp384,
        More::EcdhNistp521,
        More::HmacSha256,
        More::HmacSha512,
    ];

    #[test]
    fn the_kind_that_is_pinned_is_asked_for_first_and_none_is_lost() {
        let names = |pinned: &[&str]| -> Vec<String> {
            let pinned: Vec<Algorithm> = pinned.iter().map(|name| name.parse().unwrap()).collect();
            with_pinned_keys(&pinned).key.iter().map(ToString::to_string).collect()
        };
        let all: Vec<String> = KEYS.iter().map(ToString::to_string).collect();
        assert_eq!(names(&[]), all);
        for (pinned, first) in [
            (&["ssh-rsa"] as &[&str], &["rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519"] as &[&str]),
            (&["ecdsa-sha2-nistp384"], &["ecdsa-sha2-nistp384", "ssh-ed25519", "ecdsa-sha2-nistp256"]),
            (&["ssh-ed25519"], &["ssh-ed25519", "ecdsa-sha2-nistp256"]),
            (&["ssh-rsa", "ecdsa-sha2-nistp256"], &["ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"]),
        ] {
            let offered = names(pinned);
            assert_eq!(offered[..first.len()], *first, "{pinned:?}");
            let mut sorted = [offered, all.clone()];
            sorted.iter_mut().for_each(|names| names.sort());
            assert_eq!(sorted[0], sorted[1], "{pinned:?}");
        }
    }

    #[test]
    fn nothing_weak_is_offered() {
        for offered in [with_host_certificates(), for_server(&[])] {
            let names = names(&offered);
            for weak in ["group", "sha1", "-cbc", "-ctr", "nistp", "zlib", "md5", "3des", "arcfour"] {
                assert!(names.iter().all(|name| !name.contains(weak)), "{weak} in {names:?}");
            }
            assert!(offered.key.iter().all(|key| key.to_string() != "ssh-rsa"));
            assert_eq!(offered.cipher.first(), Some(&cipher::AES_128_GCM));
        }
    }

    #[test]
    fn more_comes_behind_and_opens_nothing_that_is_broken() {
        let (usual, offered) = (for_server(&[]), for_server(&ALL));
        let names = names(&offered);
        for broken in ["group", "sha1", "-cbc", "zlib", "md5", "3des", "arcfour"] {
            assert!(names.iter().all(|name| !name.contains(broken)), "{broken} in {names:?}");
        }
        assert!(offered.kex.starts_with(KEX) && offered.kex.ends_with(KEX_EXTENSIONS));
        assert!(offered.cipher.starts_with(&usual.cipher) && offered.mac.starts_with(&usual.mac));
        for more in ALL {
            // Each is called in the settings as in the protocol, and adds itself alone.
            let name: &str = match more {
                More::Aes128Ctr => "aes128-ctr",
                More::Aes192Ctr => "aes192-ctr",
                More::Aes256Ctr => "aes256-ctr",
                More::EcdhNistp256 => "ecdh-sha2-nistp256",
                More::EcdhNistp384 => "ecdh-sha2-nistp384",
                More::EcdhNistp521 => "ecdh-sha2-nistp521",
                More::HmacSha256 => "hmac-sha2-256",
                More::HmacSha512 => "hmac-sha2-512",
            };
            let read: More =
                More::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(name))
                    .unwrap();
            assert_eq!(read, more);
            let alone = for_server(&[more]);
            let added: Vec<&str> =
                self::names(&alone).into_iter().filter(|name| !self::names(&usual).contains(name)).collect();
            assert_eq!(added, [name]);
        }
        let unknown = serde::de::value::StrDeserializer::<serde::de::value::Error>::new("aes256-cbc");
        assert!(More::deserialize(unknown).unwrap_err().to_string().contains("hmac-sha2-512"));
    }
}
