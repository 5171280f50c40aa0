//! Who somebody is, once a certificate has proved it.
//!
//! [`Identity`] has no public constructor: [`certificate::admit`] is the only function that makes one.

pub(crate) mod authorities;
pub mod certificate;
pub(crate) mod key_id;
pub(crate) mod revocation;

use std::fmt;
use std::time::SystemTime;

use ssh_key::{Fingerprint, HashAlg, public::KeyData};

use crate::destination::pattern::DestinationPattern;

/// The largest key or certificate that is looked at, in bytes of its binary form. Keys nest in certificates, so the size of
/// what is parsed also bounds how deep a parser goes.
pub const MAX_BLOB: usize = 16 * 1024;

/// The name that a client logs in as. Not yet known to be allowed to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LoginName(String);

impl LoginName {
    /// The longest that logs in, in bytes.
    const MAX: usize = 64;

    /// Takes the name as the client sent it.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one that logs in: 1 to 64 characters of `[A-Za-z0-9._@-]`. It stands in records and messages, and a
    /// server or a program that reads lists and patterns takes it for one name.
    pub fn is_plain(&self) -> bool {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'@' | b'-');
        (1..=Self::MAX).contains(&self.0.len()) && self.0.bytes().all(allowed)
    }
}

impl fmt::Display for LoginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

/// A principal that a rule can name. It is compared with those of a certificate byte for byte, as sshd does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal(String);

impl Principal {
    /// The longest that a certificate may have, in bytes.
    pub const MAX: usize = 1024;

    /// Takes any text but an empty one, and one with a NUL, a comma or a glob character: those are lists and patterns to
    /// other programs, so a certificate that has one matches no rule by it.
    pub fn parse(name: &str) -> Option<Self> {
        let reserved = |byte: u8| matches!(byte, 0 | b',' | b'*' | b'?');
        ((1..=Self::MAX).contains(&name.len()) && !name.bytes().any(reserved)).then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

/// What a verified certificate proves about the other end of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    login: LoginName,
    principals: Vec<String>,
    key_id: String,
    serial: u64,
    authority: Fingerprint,
    key: Fingerprint,
    valid_before: SystemTime,
    may_forward: bool,
    confined_to: Option<Vec<DestinationPattern>>,
}

impl Identity {
    /// The name it logged in as, which is among the principals.
    pub fn login(&self) -> &LoginName {
        &self.login
    }

    /// Every principal of the certificate, in its order, those included that no rule can name. Free text: escape it before it
    /// is shown.
    pub fn principals(&self) -> &[String] {
        &self.principals
    }

    /// Whether the certificate has this principal.
    pub fn has(&self, principal: &Principal) -> bool {
        self.principals.iter().any(|name| name == principal.as_str())
    }

    /// What the authority calls this certificate. Free text: escape it before it is shown.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The certificate's number at its authority; 0 if the authority does not count.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The authority's key, as `SHA256:…`.
    pub fn authority(&self) -> Fingerprint {
        self.authority
    }

    /// The user's key, as `SHA256:…`.
    pub fn key(&self) -> Fingerprint {
        self.key
    }

    /// The first moment at which the certificate is no longer valid.
    pub fn valid_before(&self) -> SystemTime {
        self.valid_before
    }

    /// Whether the certificate carries `permit-port-forwarding`.
    pub fn may_forward(&self) -> bool {
        self.may_forward
    }

    /// The only destinations that the certificate is for, if it says so. It can take away and never gives.
    pub fn confined_to(&self) -> Option<&[DestinationPattern]> {
        self.confined_to.as_deref()
    }
}

/// The name of a key in logs and audit records: its SHA-256 fingerprint.
pub(crate) fn fingerprint(key: &KeyData) -> Fingerprint {
    key.fingerprint(HashAlg::Sha256)
}
