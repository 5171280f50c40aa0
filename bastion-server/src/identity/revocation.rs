//! Parses revocation lists, OpenSSH's binary ones (KRL) and its plain lists of keys, and looks certificates
//! up in them.
//!
//! A file goes in; a [`Revocations`], or a [`Malformed`] with the offset of the fault, comes out. No IO, no
//! clock. Both formats mean here what they mean to sshd's `RevokedKeys`; each difference from sshd is noted
//! where it is made.

mod krl;
mod plain;
mod serials;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use ssh_key::{Certificate, encoding::Encode, public::KeyData};
use thiserror::Error;

use serials::Serials;

/// The largest list that is read, in bytes. A million unrelated serial numbers take eight million bytes.
pub(crate) const LARGEST: u64 = 32 * 1024 * 1024;
/// The most entries that one file may have; a range of serial numbers is one entry. This bounds the memory
/// that a file can take.
pub const MOST_ENTRIES: usize = 2_000_000;

/// Why a certificate is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Revoked {
    /// A list names the user's key or its fingerprint.
    #[error("its key is revoked")]
    Key,
    /// A list names this key id for the certificate's authority.
    #[error("its key id is revoked")]
    KeyId,
    /// A list names this serial number for the certificate's authority.
    #[error("its serial number is revoked")]
    Serial,
    /// A list names the authority's key or its fingerprint, which revokes all that it signed.
    #[error("its authority is revoked")]
    Authority,
}

impl Revoked {
    /// The reason code in logs, metrics and messages to clients.
    pub fn code(self) -> &'static str {
        match self {
            Self::Key => "key_revoked",
            Self::KeyId => "key_id_revoked",
            Self::Serial => "serial_revoked",
            Self::Authority => "authority_revoked",
        }
    }
}

/// Every list that is in force. The empty value revokes nothing.
#[derive(Debug, Clone, Default)]
pub struct RevocationList(Arc<[Arc<Revocations>]>);

impl FromIterator<Arc<Revocations>> for RevocationList {
    fn from_iter<I: IntoIterator<Item = Arc<Revocations>>>(lists: I) -> Self {
        Self(lists.into_iter().collect())
    }
}

impl RevocationList {
    /// Returns why a list revokes this certificate, if one does.
    pub fn revoked(&self, certificate: &Certificate) -> Option<Revoked> {
        if self.0.is_empty() {
            return None;
        }
        // A key without a name cannot be looked up; it is refused, as by sshd.
        let Some(key) = KeyName::of(certificate.public_key()) else { return Some(Revoked::Key) };
        let Some(authority) = KeyName::of(certificate.signature_key()) else {
            return Some(Revoked::Authority);
        };
        self.0.iter().find_map(|list| list.revoked(certificate, &key, &authority))
    }

    /// The number of entries in all lists.
    pub fn entries(&self) -> usize {
        self.0.iter().map(|list| list.entries()).sum()
    }
}

type Sha256 = [u8; 32];
type Sha1 = [u8; 20];

/// The fingerprints by which lists name a key.
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

/// The entries of one file.
#[derive(Debug, Default)]
pub struct Revocations {
    /// Revoked keys; a key that is listed in full is kept as its fingerprint.
    keys: HashSet<Sha256>,
    /// Revoked keys of which the file gives only the SHA-1 fingerprint.
    keys_by_sha1: HashSet<Sha1>,
    /// Revoked certificates, by authority.
    certificates: HashMap<Scope, Certificates>,
    entries: Entries,
}

/// The authority that a part of a list is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Scope {
    /// The authority with this key.
    Authority(Sha256),
    /// Every authority.
    EveryAuthority,
}

#[derive(Debug, Default)]
struct Certificates {
    serials: Serials,
    key_ids: HashSet<Box<[u8]>>,
}

impl Revocations {
    /// Parses one file: a KRL if it begins like one, otherwise a plain list, as sshd does.
    ///
    /// # Errors
    /// The place and kind of the fault. A file with a fault anywhere revokes nothing.
    pub fn parse(file: &[u8]) -> Result<Self, Malformed> {
        // sshd takes an empty file for a list that revokes nothing. But a file is also empty for a moment
        // while it is rewritten in place, and after a write to a full disk, so an empty file is refused here.
        if file.is_empty() {
            return Err(Fault::Empty.at(0));
        }
        if file.starts_with(krl::MAGIC) { krl::parse(file) } else { plain::parse(file) }
    }

    /// The number of revoked keys, key ids and ranges of serial numbers.
    pub fn entries(&self) -> usize {
        self.entries.0
    }

    fn revoked(&self, certificate: &Certificate, key: &KeyName, authority: &KeyName) -> Option<Revoked> {
        if self.has(key) {
            return Some(Revoked::Key);
        }
        for scope in [Scope::Authority(authority.sha256), Scope::EveryAuthority] {
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

    /// Sorts the ranges; call it once when every entry has been added.
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
        // Revoking 0 would revoke every certificate of an authority that does not number them.
        if first == 0 {
            return Err(Fault::SerialZero);
        }
        if first > last {
            return Err(Fault::RangeReversed);
        }
        entries.count(self.serials.add(first, last))
    }

    fn revoked(&self, certificate: &Certificate) -> Option<Revoked> {
        // sshd reads key ids as C strings, which end at the first NUL.
        let key_id = certificate.key_id().as_bytes();
        let key_id = key_id.strip_suffix(b"\0").unwrap_or(key_id);
        if self.key_ids.contains(key_id) {
            return Some(Revoked::KeyId);
        }
        self.serials.contains(certificate.serial()).then_some(Revoked::Serial)
    }
}

/// Counts the entries of a file against [`MOST_ENTRIES`].
#[derive(Debug, Default)]
struct Entries(usize);

impl Entries {
    fn count(&mut self, is_new: bool) -> Result<(), Fault> {
        self.0 += usize::from(is_new);
        if self.0 > MOST_ENTRIES { Err(Fault::TooMany) } else { Ok(()) }
    }
}

/// Why a file is not a revocation list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("byte {offset}: {fault}")]
pub struct Malformed {
    /// The offset in bytes, counted from 0, of the part that is at fault.
    pub offset: usize,
    pub fault: Fault,
}

/// A fault in a revocation list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// The file is empty.
    #[error("the file is empty; one that is to revoke nothing holds a comment")]
    Empty,
    /// The file has more entries than [`MOST_ENTRIES`].
    #[error("it revokes more than {MOST_ENTRIES} keys, key ids and ranges of serial numbers")]
    TooMany,
    /// A line of a plain list is not a public key; holds its number. The message never shows the line.
    #[error("line {0} is no public key; only a KRL can hold anything else")]
    NoKeyInLine(usize),
    /// A field is longer than what contains it.
    #[error("it is cut short")]
    Truncated,
    /// The version is newer than this program.
    #[error("it is a KRL of version {0}; only version 1 is known")]
    Version(u32),
    /// A section has an unknown type, so the parser cannot tell what the section revokes.
    #[error("a section of the unknown type {0}")]
    UnknownSection(u8),
    /// A part of a section about certificates has an unknown type.
    #[error("a section about certificates of the unknown type {0}")]
    UnknownCertificateSection(u8),
    /// An extension is marked critical, and the parser knows none.
    #[error("an extension that must be understood, and is not known")]
    CriticalExtension,
    /// The file contains a signature. The parser does not verify signatures.
    #[error(
        "it is signed inside; as OpenSSH since 9.4, this is refused. Sign the file from outside (ssh-keygen -Y)"
    )]
    Signature,
    /// Bytes follow the last field of a section.
    #[error("there is more than fits the section")]
    Trailing,
    /// The authority's key cannot be parsed, or is a certificate.
    #[error("this is not the public key of an authority")]
    NoAuthority,
    /// A fingerprint has the wrong length; holds its length in bytes.
    #[error("this is no fingerprint: it has {0} bytes")]
    Fingerprint(usize),
    /// A text contains a NUL.
    #[error("a text with a NUL in it")]
    Nul,
    /// The file revokes serial number 0, which certificates without a serial number have.
    #[error("the serial number 0, which cannot be revoked; revoke the key id")]
    SerialZero,
    /// A range ends before it begins.
    #[error("a range of serial numbers that ends before it begins")]
    RangeReversed,
    /// A bitmap is negative, or longer than OpenSSH accepts.
    #[error("this is no bitmap of serial numbers")]
    Bitmap,
    /// A bitmap reaches past serial number 2^64 - 1.
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
