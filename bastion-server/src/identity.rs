//! The identity that a certificate has proved.
//!
//! [`Identity`] has no public constructor: [`certificate::admit`] is the only function that makes one.

pub(crate) mod authorities;
pub mod certificate;
pub(crate) mod key_id;
pub(crate) mod revocation;

use std::{fmt, time::SystemTime};

use ssh_key::{Fingerprint, HashAlg, public::KeyData};

use crate::destination::pattern::DestinationPattern;

/// The largest key or certificate that is parsed, in bytes of its binary form. Keys nest in certificates, so
/// this bound also limits the depth to which a parser recurses.
pub const MAX_BLOB: usize = 16 * 1024;

/// The login name that a client sends, not yet checked against the certificate or `login.users`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LoginName(String);

impl LoginName {
    /// The longest login name that is accepted, in bytes.
    const MAX: usize = 64;

    /// Takes the name as the client sent it.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name as the client sent it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name is one that may log in: 1 to 64 characters of `[A-Za-z0-9._@-]`. The name appears in
    /// records and messages, and programs that read lists or patterns must take it for a single name.
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

/// A principal that a rule can name. It is compared byte for byte with the certificate's principals, as sshd
/// does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal(String);

impl Principal {
    /// The longest principal that a certificate may have, in bytes.
    pub const MAX: usize = 1024;

    /// Accepts any text that is not empty and has no NUL, comma or glob character. Other programs read those
    /// as lists and patterns, so a rule cannot name a principal that contains one.
    pub fn parse(name: &str) -> Option<Self> {
        let reserved = |byte: u8| matches!(byte, 0 | b',' | b'*' | b'?');
        ((1..=Self::MAX).contains(&name.len()) && !name.bytes().any(reserved)).then(|| Self(name.to_owned()))
    }

    /// The principal as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

/// What a verified certificate proves about the client of a session.
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
    /// The name that the client logged in as; it is one of the principals.
    pub fn login(&self) -> &LoginName {
        &self.login
    }

    /// Every principal of the certificate, in its order, those included that no rule can name. Free text:
    /// escape it before showing it.
    pub fn principals(&self) -> &[String] {
        &self.principals
    }

    /// Whether the certificate lists this principal.
    pub fn has(&self, principal: &Principal) -> bool {
        self.principals.iter().any(|name| name == principal.as_str())
    }

    /// The key id that the authority gave the certificate. Free text: escape it before showing it.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The serial number that the authority gave the certificate; 0 if the authority does not number
    /// certificates.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The fingerprint of the authority's key, as `SHA256:…`.
    pub fn authority(&self) -> Fingerprint {
        self.authority
    }

    /// The fingerprint of the user's key, as `SHA256:…`.
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

    /// The destinations that the certificate's `permit-open` option limits it to, if it has one. The option
    /// restricts and never grants.
    pub fn confined_to(&self) -> Option<&[DestinationPattern]> {
        self.confined_to.as_deref()
    }
}

/// The SHA-256 fingerprint that names a key in logs and audit records.
pub(crate) fn fingerprint(key: &KeyData) -> Fingerprint {
    key.fingerprint(HashAlg::Sha256)
}
