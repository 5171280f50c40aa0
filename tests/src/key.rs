//! Keys of every kind that a certificate may name, made by the real `ssh-keygen`, and signatures under any
//! name.

use std::path::Path;

use russh::keys::signature::Signer;
use ssh_key::{
    EcdsaCurve, HashAlg, PrivateKey, Signature,
    private::{Ed25519Keypair, KeypairData},
};

use crate::{
    process::{Program, installed},
    scratch::Scratch,
    wire::Writer,
};

/// A kind of key, and its size where there is a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Ed25519.
    Ed25519,
    /// ECDSA over a NIST curve of this many bits.
    Ecdsa(u32),
    /// RSA with a modulus of this many bits.
    Rsa(u32),
}

/// A key pair.
#[derive(Clone, Debug)]
pub struct Key {
    private: PrivateKey,
}

impl Key {
    /// Makes a new one.
    #[must_use]
    pub fn generate(kind: Kind) -> Self {
        let (name, bits) = match kind {
            Kind::Ed25519 => ("ed25519", 256),
            Kind::Ecdsa(bits) => ("ecdsa", bits),
            Kind::Rsa(bits) => ("rsa", bits),
        };
        loop {
            let scratch = Scratch::new("key");
            let path = scratch.join("key");
            let _ = Program::new(installed("ssh-keygen"))
                .args(["-q", "-t", name, "-b", &bits.to_string(), "-N", "", "-C", "test", "-f"])
                .arg(&path)
                .succeed();
            // The ssh-key crate cannot read one ECDSA key of 256 bits in 256: its number has a byte less.
            match PrivateKey::read_openssh_file(&path) {
                Ok(private) => return Self { private },
                Err(ssh_key::Error::Encoding(_)) if bits == 256 && name == "ecdsa" => {}
                Err(error) => panic!("{name}: {error}"),
            }
        }
    }

    /// An Ed25519 key, the usual choice.
    #[must_use]
    pub fn ed25519() -> Self {
        Self::generate(Kind::Ed25519)
    }

    /// An Ed25519 key that is always the same.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { private: PrivateKey::from(Ed25519Keypair::from_seed(&seed)) }
    }

    /// Reads a private key in OpenSSH's format.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        Self { private: PrivateKey::read_openssh_file(path).unwrap() }
    }

    /// The name of its type, such as `ssh-ed25519`.
    #[must_use]
    pub fn name(&self) -> String {
        match self.private.key_data() {
            KeypairData::Rsa(_) => "ssh-rsa".to_owned(),
            _ => self.private.algorithm().as_str().to_owned(),
        }
    }

    /// The name of the signatures that it makes unless told otherwise: the strongest.
    #[must_use]
    pub fn signature_name(&self) -> String {
        match self.private.key_data() {
            KeypairData::Rsa(_) => "rsa-sha2-512".to_owned(),
            _ => self.name(),
        }
    }

    /// All the signatures that it may honestly make.
    #[must_use]
    pub fn signature_names(&self) -> Vec<String> {
        match self.private.key_data() {
            KeypairData::Rsa(_) => vec!["rsa-sha2-256".to_owned(), "rsa-sha2-512".to_owned()],
            _ => vec![self.name()],
        }
    }

    /// Its kind, with the size.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.private.key_data() {
            KeypairData::Rsa(pair) => Kind::Rsa(pair.key_size()),
            KeypairData::Ecdsa(pair) => Kind::Ecdsa(match pair.curve() {
                EcdsaCurve::NistP256 => 256,
                EcdsaCurve::NistP384 => 384,
                EcdsaCurve::NistP521 => 521,
            }),
            _ => Kind::Ed25519,
        }
    }

    /// The public key as it travels: the blob of RFC 4253 §6.6.
    #[must_use]
    pub fn blob(&self) -> Vec<u8> {
        self.private.public_key().to_bytes().unwrap()
    }

    /// The public key's own fields, after the name of its type: what a certificate holds.
    #[must_use]
    pub fn fields(&self) -> Vec<u8> {
        self.blob()[4 + self.name().len()..].to_vec()
    }

    /// The public key as one line.
    #[must_use]
    pub fn public_line(&self) -> String {
        self.private.public_key().to_openssh().unwrap()
    }

    /// The private key, for `ssh` and for `ssh-key`.
    #[must_use]
    pub fn private(&self) -> &PrivateKey {
        &self.private
    }

    /// The private key in OpenSSH's format.
    #[must_use]
    pub fn private_pem(&self) -> String {
        self.private.to_openssh(ssh_key::LineEnding::LF).unwrap().to_string()
    }

    /// A signature as it travels: its name and its bytes. For RSA the name chooses the hash.
    #[must_use]
    pub fn sign(&self, name: &str, data: &[u8]) -> Vec<u8> {
        let signature = self.raw_signature(name, data);
        Writer::new().string(name).string(signature.as_bytes()).0
    }

    fn raw_signature(&self, name: &str, data: &[u8]) -> Signature {
        match self.private.key_data() {
            KeypairData::Rsa(pair) => {
                let hash = match name {
                    "ssh-rsa" => None,
                    "rsa-sha2-256" => Some(HashAlg::Sha256),
                    _ => Some(HashAlg::Sha512),
                };
                (pair, hash).sign(data)
            }
            other => other.sign(data),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_signs() {
        for kind in [
            Kind::Ed25519,
            Kind::Ecdsa(256),
            Kind::Ecdsa(384),
            Kind::Ecdsa(521),
            Kind::Rsa(1024),
            Kind::Rsa(2048),
        ] {
            let key = Key::generate(kind);
            let blob = key.blob();
            assert!(blob.ends_with(&key.fields()) && key.fields().len() < blob.len(), "{kind:?}");
            assert!(!key.sign(&key.signature_name(), b"data").is_empty(), "{kind:?}");
        }
    }

    #[test]
    fn rsa_signs_with_sha1_when_asked() {
        let key = Key::generate(Kind::Rsa(2048));
        let signature = key.sign("ssh-rsa", b"data");
        assert!(signature.starts_with(&Writer::new().string("ssh-rsa").0));
        assert_ne!(signature[11..], key.sign("rsa-sha2-256", b"data")[16..]);
    }
}
