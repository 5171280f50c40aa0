//! Parses and writes the messages that begin a connection: `StartupMessage`, `CancelRequest`, `SSLRequest`
//! and `GSSENCRequest`.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

use super::{
    MOST_PARAMETERS,
    message::{Writer, without_zero},
};
use crate::{reader::Reader, step::Outgoing};

/// The code of a `CancelRequest`, where others have their version.
const CANCEL: u32 = 80_877_102;
/// The code of an `SSLRequest`.
const SSL: u32 = 80_877_103;
/// The code of a `GSSENCRequest`.
const GSS: u32 = 80_877_104;
/// The lengths of a key that cancels: four bytes in protocol 3.0, more in 3.2.
const KEY_LENGTHS: std::ops::RangeInclusive<usize> = 4..=256;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(u32);

impl Version {
    /// The version of all servers since 2003.
    pub const V3_0: Self = Self::new(3, 0);
    /// The version of PostgreSQL 18, with longer keys that cancel.
    pub const V3_2: Self = Self::new(3, 2);

    /// A version by its numbers.
    #[must_use]
    pub const fn new(major: u16, minor: u16) -> Self {
        Self(((major as u32) << 16) | minor as u32)
    }

    /// Before the point.
    #[must_use]
    pub fn major(self) -> u32 {
        self.0 >> 16
    }

    /// After the point.
    #[must_use]
    pub fn minor(self) -> u32 {
        self.0 & 0xffff
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

/// A text that is sent with a zero byte behind it holds one itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text holds a zero byte, with which PostgreSQL ends texts")]
pub struct ZeroByte;

/// Why a first message is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedStartup {
    /// The message ends in the middle of something, or goes on after its end.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    /// It has more parameters than any client sends.
    #[error("the startup packet has more than {MOST_PARAMETERS} parameters")]
    TooManyParameters,
    /// It cancels with a key that no server gives out.
    #[error("invalid length of cancel request packet")]
    Key,
}

/// What a client begins with.
#[derive(Debug)]
pub(crate) enum First {
    Ssl,
    Gss,
    Cancel(CancelKey),
    Startup(Startup),
    /// A version that this crate does not speak.
    Other(Version),
}

pub(crate) fn parse(body: &[u8]) -> Result<First, MalformedStartup> {
    let mut reader = Reader(body);
    let code = reader.u32_be().ok_or(MalformedStartup::Layout)?;
    match code {
        SSL | GSS if !reader.is_empty() => Err(MalformedStartup::Layout),
        SSL => Ok(First::Ssl),
        GSS => Ok(First::Gss),
        CANCEL => CancelKey::parse(reader.rest()).map(First::Cancel).ok_or(MalformedStartup::Key),
        _ if Version(code).major() == 3 => Startup::parse(Version(code), reader).map(First::Startup),
        _ => Ok(First::Other(Version(code))),
    }
}

pub(crate) fn ssl_request() -> Outgoing {
    Writer::new().message(0, &[&SSL.to_be_bytes()]).finish()
}

/// A name and a value.
type Parameter = (Box<[u8]>, Box<[u8]>);

/// A `StartupMessage`: the version, and the parameters in the order in which they came.
///
/// Values are bytes, since a client may write them in any encoding. They are kept as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    version: Version,
    parameters: Vec<Parameter>,
}

impl Startup {
    /// A message with nothing but a user and a database.
    ///
    /// # Errors
    /// When one of them holds a zero byte.
    pub fn new(version: Version, user: &str, database: &str) -> Result<Self, ZeroByte> {
        Self { version, parameters: Vec::new() }.for_login(user, database)
    }

    fn parse(version: Version, mut reader: Reader<'_>) -> Result<Self, MalformedStartup> {
        let mut parameters = Vec::new();
        loop {
            let name = reader.until_zero().ok_or(MalformedStartup::Layout)?;
            if name.is_empty() {
                break;
            }
            if parameters.len() == MOST_PARAMETERS {
                return Err(MalformedStartup::TooManyParameters);
            }
            let value = reader.until_zero().ok_or(MalformedStartup::Layout)?;
            parameters.push((name.into(), value.into()));
        }
        if reader.is_empty() { Ok(Self { version, parameters }) } else { Err(MalformedStartup::Layout) }
    }

    /// The version that the client asks for.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// A parameter, such as `application_name`. Of several, the server takes the last.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let found = self.parameters.iter().rev().find(|(known, _)| **known == *name.as_bytes());
        found.map(|(_, value)| &**value)
    }

    /// All parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.parameters.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The user that the client names.
    #[must_use]
    pub fn user(&self) -> Option<&[u8]> {
        self.get("user").filter(|user| !user.is_empty())
    }

    /// The database that the client means. One with the name of the user is none: libpq says so where its
    /// user named no database.
    #[must_use]
    pub fn database(&self) -> Option<&[u8]> {
        self.get("database").filter(|database| !database.is_empty() && Some(*database) != self.user())
    }

    /// The same message for another user, and for a database where the client means none. All else stays,
    /// byte for byte: options, encodings, replication, and what a newer protocol adds.
    ///
    /// # Errors
    /// When one of them holds a zero byte.
    pub fn for_login(&self, user: &str, database: &str) -> Result<Self, ZeroByte> {
        let database = self.database().unwrap_or(database.as_bytes());
        let ours: [(&[u8], &[u8]); 2] =
            [(b"user", without_zero(user.as_bytes())?), (b"database", without_zero(database)?)];
        let others = self.parameters().filter(|(name, _)| *name != b"user" && *name != b"database");
        let parameters = ours.into_iter().chain(others);
        Ok(Self {
            version: self.version,
            parameters: parameters.map(|(name, value)| (name.into(), value.into())).collect(),
        })
    }

    /// The message as it is sent.
    #[must_use]
    pub fn to_message(&self) -> Outgoing {
        let mut body = self.version.0.to_be_bytes().to_vec();
        for (name, value) in self.parameters() {
            body.extend_from_slice(name);
            body.push(0);
            body.extend_from_slice(value);
            body.push(0);
        }
        body.push(0);
        Writer::new().message(0, &[&body]).finish()
    }
}

/// The key that cancels the statements of one session: `BackendKeyData`, and the `CancelRequest` with it.
#[derive(Clone)]
pub struct CancelKey {
    process: u32,
    secret: Zeroizing<Vec<u8>>,
}

impl CancelKey {
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let mut reader = Reader(body);
        let process = reader.u32_be()?;
        let secret = reader.rest();
        KEY_LENGTHS.contains(&secret.len()).then(|| Self { process, secret: Zeroizing::new(secret.to_vec()) })
    }

    /// The number of the server's process, which is no secret.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.process
    }

    /// Whether a request with `self` cancels what `known` belongs to. The time that it takes tells no part
    /// of the secret.
    #[must_use]
    pub fn is(&self, known: &Self) -> bool {
        self.process == known.process && verify_slices_are_equal(&self.secret, &known.secret).is_ok()
    }

    /// The `CancelRequest`.
    #[must_use]
    pub fn to_message(&self) -> Outgoing {
        let pieces: [&[u8]; 3] = [&CANCEL.to_be_bytes(), &self.process.to_be_bytes(), &self.secret];
        Writer::new().message(0, &pieces).finish()
    }
}

impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancelKey(process {})", self.process)
    }
}
