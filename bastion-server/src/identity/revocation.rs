//! What is revoked: OpenSSH's binary lists (KRL) and its plain lists of keys, and the question whether a certificate is in one.
//!
//! A file in, a [`Revocations`] or a [`Malformed`] with the byte at fault out. No IO, no clock. Both formats mean here what
//! they mean to sshd's `RevokedKeys`; what is refused although sshd takes it, or the reverse, is said where it happens.

mod krl;
mod plain;
mod serials;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use ssh_key::encoding::Encode;
use ssh_key::{Certificate, public::KeyData};
use thiserror::Error;

use serials::Serials;

/// The largest file that is worth reading, in bytes. A million serial numbers that have nothing in common take eight million.
pub(crate) const LARGEST: u64 = 32 * 1024 * 1024;
/// The most things that one file may revoke, a range of serial numbers being one. It bounds the memory that a file can ask for.
pub const MOST_ENTRIES: usize = 2_000_000;

/// Why a certificate is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Revoked {
    /// The user's key is listed, or its fingerprint.
    #[error("its key is revoked")]
    Key,
    /// Its authority's certificates of this key id are.
    #[error("its key id is revoked")]
    KeyId,
    /// Its authority's certificates of this serial number are.
    #[error("its serial number is revoked")]
    Serial,
    /// The authority's key is listed, or its fingerprint, and so is everything that it signed.
    #[error("its authority is revoked")]
    Authority,
}

impl Revoked {
    /// The reason as logs, metrics and clients know it.
    pub fn code(self) -> &'static str {
        match self {
            Self::Key => "key_revoked",
            Self::KeyId => "key_id_revoked",
            Self::Serial => "serial_revoked",
            Self::Authority => "authority_revoked",
        }
    }
}

/// Every list that is in force. The empty one revokes nothing.
#[derive(Debug, Clone, Default)]
pub struct RevocationList(Arc<[Arc<Revocations>]>);

impl FromIterator<Arc<Revocations>> for RevocationList {
    fn from_iter<I: IntoIterator<Item = Arc<Revocations>>>(lists: I) -> Self {
        Self(lists.into_iter().collect())
    }
}

impl RevocationList {
    /// Whether any of the lists revokes this certificate, and why.
    pub fn revoked(&self, certificate: &Certificate) -> Option<Revoked> {
        if self.0.is_empty() {
            return None;
        }
        // What cannot be named cannot be looked up; as for sshd, that is no reason to let it in.
        let Some(key) = KeyName::of(certificate.public_key()) else { return Some(Revoked::Key) };
        let Some(authority) = KeyName::of(certificate.signature_key()) else {
            return Some(Revoked::Authority);
        };
        self.0.iter().find_map(|list| list.revoked(certificate, &key, &authority))
    }

    /// How many entries there are in all lists.
    pub fn entries(&self) -> usize {
        self.0.iter().map(|list| list.entries()).sum()
    }
}

type Sha256 = [u8; 32];
type Sha1 = [u8; 20];

/// A key as lists name it.
#[derive(Debug)]
struct KeyName {
    sha256: Sha256,
    sha1: Sha1,
}

impl KeyName {
    fn of(key: &KeyData) -> Option<Self> {
        let mut blob = Vec::new();
        key.encode(&mut blob).ok()?;
        let sha1 = digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref().try_into().ok()?;
        Some(Self { sha256: sha256(&blob)?, sha1 })
    }
}

fn sha256(blob: &[u8]) -> Option<Sha256> {
    digest(&SHA256, blob).as_ref().try_into().ok()
}

/// What one file revokes.
#[derive(Debug, Default)]
pub struct Revocations {
    /// Keys; one that is listed as a whole is kept as its fingerprint too.
    keys: HashSet<Sha256>,
    /// Keys that are known only by this fingerprint.
    keys_by_sha1: HashSet<Sha1>,
    /// Certificates of one authority, or of whichever.
    certificates: HashMap<Scope, Certificates>,
    entries: Entries,
}

/// Whose certificates a part of a list is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Scope {
    /// Those of the authority with this key.
    Authority(Sha256),
    /// Those of every authority.
    Everybody,
}

#[derive(Debug, Default)]
struct Certificates {
    serials: Serials,
    key_ids: HashSet<Box<[u8]>>,
}

impl Revocations {
    /// Reads one file: a KRL if it begins like one, a plain list otherwise, as sshd tells them apart.
    ///
    /// # Errors
    /// Where it is wrong, and how. A file that is wrong anywhere revokes nothing.
    pub fn parse(file: &[u8]) -> Result<Self, Malformed> {
        // sshd takes a file without a byte for a list that revokes nothing. It is also what a file is for a moment that is not
        // replaced but written anew, and what a full disk leaves of it.
        if file.is_empty() {
            return Err(Fault::Empty.at(0));
        }
        if file.starts_with(krl::MAGIC) { krl::parse(file) } else { plain::parse(file) }
    }

    /// How many keys, key ids and ranges of serial numbers are revoked.
    pub fn entries(&self) -> usize {
        self.entries.0
    }

    fn revoked(&self, certificate: &Certificate, key: &KeyName, authority: &KeyName) -> Option<Revoked> {
        if self.has(key) {
            return Some(Revoked::Key);
        }
        for scope in [Scope::Authority(authority.sha256), Scope::Everybody] {
            if let Some(revoked) =
                self.certificates.get(&scope).and_then(|listed| listed.revoked(certificate))
            {
                return Some(revoked);
            }
        }
        self.has(authority).then_some(Revoked::Authority)
    }

    fn has(&self, key: &KeyName) -> bool {
        self.keys.contains(&key.sha256) || self.keys_by_sha1.contains(&key.sha1)
    }

    fn add_key(&mut self, key: Sha256) -> Result<(), Fault> {
        self.entries.count(self.keys.insert(key))
    }

    fn add_key_by_sha1(&mut self, key: Sha1) -> Result<(), Fault> {
        self.entries.count(self.keys_by_sha1.insert(key))
    }

    /// To be called once when everything is added.
    fn finish(mut self) -> Self {
        for certificates in self.certificates.values_mut() {
            certificates.serials.finish();
        }
        self
    }
}

impl Certificates {
    fn add_key_id(&mut self, key_id: &[u8], entries: &mut Entries) -> Result<(), Fault> {
        entries.count(self.key_ids.insert(key_id.into()))
    }

    /// Adds all serial numbers from `first` to `last`, both included.
    fn add_serials(&mut self, first: u64, last: u64, entries: &mut Entries) -> Result<(), Fault> {
        // To revoke 0 would be to revoke all certificates of an authority that does not number them.
        if first == 0 {
            return Err(Fault::SerialZero);
        }
        if first > last {
            return Err(Fault::RangeReversed);
        }
        entries.count(self.serials.add(first, last))
    }

    fn revoked(&self, certificate: &Certificate) -> Option<Revoked> {
        // sshd reads texts up to a NUL that ends them.
        let key_id = certificate.key_id().as_bytes();
        let key_id = key_id.strip_suffix(b"\0").unwrap_or(key_id);
        if self.key_ids.contains(key_id) {
            return Some(Revoked::KeyId);
        }
        self.serials.contains(certificate.serial()).then_some(Revoked::Serial)
    }
}

/// How much a file revokes, which is bounded.
#[derive(Debug, Default)]
struct Entries(usize);

impl Entries {
    fn count(&mut self, is_new: bool) -> Result<(), Fault> {
        self.0 += usize::from(is_new);
        if self.0 > MOST_ENTRIES { Err(Fault::TooMany) } else { Ok(()) }
    }
}

/// Why a file is not a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("byte {offset}: {fault}")]
pub struct Malformed {
    /// Where the part begins that is wrong, counted from 0.
    pub offset: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// Not one byte.
    #[error("the file is empty; one that is to revoke nothing holds a comment")]
    Empty,
    /// It revokes more than [`MOST_ENTRIES`].
    #[error("it revokes more than {MOST_ENTRIES} keys, key ids and ranges of serial numbers")]
    TooMany,
    /// A line of a plain list that is no key. What it holds is never shown.
    #[error("line {0} is no public key; only a KRL can hold anything else")]
    NoKeyInLine(usize),
    /// A field reaches past the end of what it is in.
    #[error("it is cut short")]
    Truncated,
    /// A format that came after this program.
    #[error("it is a KRL of version {0}; only version 1 is known")]
    Version(u32),
    /// A section of a kind that is not known, so that it cannot be known what is revoked.
    #[error("a section of the unknown type {0}")]
    UnknownSection(u8),
    /// Likewise, inside a section about certificates.
    #[error("a section about certificates of the unknown type {0}")]
    UnknownCertificateSection(u8),
    /// An extension that says that it must be understood.
    #[error("an extension that must be understood, and is not known")]
    CriticalExtension,
    /// A signature, which nobody checks.
    #[error(
        "it is signed inside; as OpenSSH since 9.4, this is refused. Sign the file from outside (ssh-keygen -Y)"
    )]
    Signature,
    /// Something stands behind the last field of a section.
    #[error("there is more than fits the section")]
    Trailing,
    /// The key of an authority cannot be read, or is a certificate.
    #[error("this is not the public key of an authority")]
    NoAuthority,
    /// A fingerprint that is none.
    #[error("this is no fingerprint: it has {0} bytes")]
    Fingerprint(usize),
    /// A text with a NUL inside.
    #[error("a text with a NUL in it")]
    Nul,
    /// Serial number 0, which is that of certificates without one.
    #[error("the serial number 0, which cannot be revoked; revoke the key id")]
    SerialZero,
    /// A range that ends before it begins.
    #[error("a range of serial numbers that ends before it begins")]
    RangeReversed,
    /// A bitmap that is negative or longer than OpenSSH takes.
    #[error("this is no bitmap of serial numbers")]
    Bitmap,
    /// A serial number past 2^64 - 1.
    #[error("a bitmap with serial numbers past the largest")]
    BitmapWraps,
}

impl Fault {
    fn at(self, offset: usize) -> Malformed {
        Malformed { offset, fault: self }
    }
}

#[cfg(test)]
mod tests;
