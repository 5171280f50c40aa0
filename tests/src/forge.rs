//! Certificates of every shape, in the format of OpenSSH's PROTOCOL.certkeys, put together by hand so that
//! nonsense can be said.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{key::Key, scratch::Scratch, wire::Writer};

/// A user certificate.
pub const USER: u32 = 1;
/// A host certificate.
pub const HOST: u32 = 2;

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A certificate before it is signed: an honest one, until a field is changed.
#[derive(Clone, Debug)]
pub struct Forge {
    /// The name in front; by default the key's own with `-cert-v01@openssh.com`.
    pub name: String,
    /// The nonce.
    pub nonce: Vec<u8>,
    /// The certified key's fields.
    pub key: Vec<u8>,
    /// The serial number.
    pub serial: u64,
    /// [`USER`], [`HOST`], or neither.
    pub kind: u32,
    /// The key id: any bytes.
    pub key_id: Vec<u8>,
    /// The principals: any bytes.
    pub principals: Vec<Vec<u8>>,
    /// The first second of its life.
    pub valid_after: u64,
    /// The first second after its life.
    pub valid_before: u64,
    /// Critical options in this very order; each value is what stands inside, already encoded.
    pub critical: Vec<(Vec<u8>, Vec<u8>)>,
    /// Extensions, likewise.
    pub extensions: Vec<(Vec<u8>, Vec<u8>)>,
    /// The reserved field.
    pub reserved: Vec<u8>,
    /// The authority's public key as it is embedded, when that is not the signer's.
    pub authority: Option<Vec<u8>>,
    /// The name of the signature; by default the signer's strongest.
    pub signature_name: Option<String>,
    /// The whole signature, instead of a real one.
    pub signature: Option<Vec<u8>>,
    /// What comes after the signature.
    pub trailing: Vec<u8>,
}

impl Forge {
    /// What an honest authority would issue for `key`: a user certificate for `principal` from a minute ago
    /// to an hour from now, that may forward ports and nothing else.
    #[must_use]
    pub fn user(key: &Key, principal: &str) -> Self {
        Self {
            name: format!("{}-cert-v01@openssh.com", key.name()),
            nonce: vec![7; 32],
            key: key.fields(),
            serial: 1,
            kind: USER,
            key_id: b"test-key-id".to_vec(),
            principals: vec![principal.into()],
            valid_after: now() - 60,
            valid_before: now() + 3600,
            critical: Vec::new(),
            extensions: vec![(b"permit-port-forwarding".to_vec(), Vec::new())],
            reserved: Vec::new(),
            authority: None,
            signature_name: None,
            signature: None,
            trailing: Vec::new(),
        }
    }

    /// An honest host certificate.
    #[must_use]
    pub fn host(key: &Key, principal: &str) -> Self {
        Self { kind: HOST, extensions: Vec::new(), ..Self::user(key, principal) }
    }

    /// Changes fields.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// One more critical option, with a text as its value, as every standard one has.
    #[must_use]
    pub fn critical(self, name: &str, value: &str) -> Self {
        self.with(|forge| forge.critical.push((name.into(), Writer::new().string(value).0)))
    }

    /// One more critical option without a value.
    #[must_use]
    pub fn critical_flag(self, name: &str) -> Self {
        self.with(|forge| forge.critical.push((name.into(), Vec::new())))
    }

    /// The bytes that the authority signs.
    #[must_use]
    pub fn to_be_signed(&self, signer: &Key) -> Vec<u8> {
        let principals = self.principals.iter().fold(Writer::new(), |all, one| all.string(one)).0;
        Writer::new()
            .string(&self.name)
            .string(&self.nonce)
            .raw(&self.key)
            .u64(self.serial)
            .u32(self.kind)
            .string(&self.key_id)
            .string(principals)
            .u64(self.valid_after)
            .u64(self.valid_before)
            .string(options(&self.critical))
            .string(options(&self.extensions))
            .string(&self.reserved)
            .string(self.authority.clone().unwrap_or_else(|| signer.blob()))
            .0
    }

    /// The certificate, signed by `signer`.
    #[must_use]
    pub fn sign(&self, signer: &Key) -> Vec<u8> {
        let body = self.to_be_signed(signer);
        let signature = self.signature.clone().unwrap_or_else(|| {
            signer.sign(&self.signature_name.clone().unwrap_or_else(|| signer.signature_name()), &body)
        });
        Writer(body).string(signature).raw(&self.trailing).0
    }
}

fn options(list: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    list.iter().fold(Writer::new(), |all, (name, value)| all.string(name).string(value)).0
}

/// The certificate as one line of text, as `ssh` reads it.
#[must_use]
pub fn line(blob: &[u8]) -> String {
    let mut reader = crate::wire::Reader(blob);
    let name = reader.text().unwrap_or_default();
    format!("{name} {} forged", base64(blob))
}

/// Writes a key and its certificate where `ssh -i` finds both, and returns the key's path.
pub fn write_identity(scratch: &Scratch, name: &str, key: &Key, certificate: &[u8]) -> PathBuf {
    let path = scratch.write(name, key.private_pem());
    scratch.write(&format!("{name}.pub"), key.public_line());
    scratch.write(&format!("{name}-cert.pub"), line(certificate));
    path
}

/// What `ssh-keygen -L` thinks of a certificate.
#[must_use]
pub fn describe(path: &Path) -> String {
    crate::process::Program::new(crate::process::installed("ssh-keygen"))
        .args(["-L", "-f"])
        .arg(path)
        .succeed()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let value =
            chunk.iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let index = (value >> (18 - 6 * position)) as usize & 63;
            text.push(if position <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Kind;

    #[test]
    fn the_real_ssh_keygen_reads_an_honest_forgery() {
        let key = Key::ed25519();
        for authority in
            [Kind::Ed25519, Kind::Ecdsa(256), Kind::Ecdsa(384), Kind::Ecdsa(521), Kind::Rsa(2048)]
        {
            let authority = Key::generate(authority);
            let blob = Forge::user(&key, "alice").critical("source-address", "127.0.0.1/32").sign(&authority);
            let scratch = Scratch::new("forge");
            let text = describe(&scratch.write("cert.pub", line(&blob)));
            for part in [
                "user certificate",
                "test-key-id",
                "alice",
                "source-address 127.0.0.1/32",
                "permit-port-forwarding",
            ] {
                assert!(text.contains(part), "{part} is missing in {text}");
            }
        }
    }

    #[test]
    fn ssh_key_verifies_an_honest_forgery() {
        let (key, authority) = (Key::ed25519(), Key::ed25519());
        let certificate =
            ssh_key::Certificate::from_bytes(&Forge::user(&key, "alice").sign(&authority)).unwrap();
        let trusted = authority.private().public_key().fingerprint(ssh_key::HashAlg::Sha256);
        certificate.validate_at(now(), &[trusted]).unwrap();
    }

    #[test]
    fn base64_pads() {
        assert_eq!(["", "f", "fo", "foo"].map(|text| base64(text.as_bytes())), ["", "Zg==", "Zm8=", "Zm9v"]);
    }
}
