//! Parses the host and port that a client asks for, and matches them against patterns.

pub(crate) mod pattern;

use std::{fmt, net::IpAddr};

use thiserror::Error;

/// The longest host name, in bytes (RFC 1035 §2.3.4, without the trailing dot).
const HOST_MAX: usize = 253;
/// The longest label of a host name, in bytes.
const LABEL_MAX: usize = 63;

/// The host and port of a client's request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    host: Host,
    port: u16,
}

/// A host, by name or by address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name.
    Name(Name),
    /// An address; an IPv4-mapped IPv6 address is stored as IPv4.
    Address(IpAddr),
}

/// A DNS host name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    text: String,
    absolute: bool,
}

impl Name {
    /// The name in lower case, without a final dot.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the name ends in a dot, so that it is complete and the search list does not apply (RFC 1034
    /// §3.1).
    pub fn is_absolute(&self) -> bool {
        self.absolute
    }

    /// The same name with a final dot.
    #[must_use]
    pub fn absolute(&self) -> Self {
        Self { text: self.text.clone(), absolute: true }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, if self.absolute { "." } else { "" })
    }
}

/// Why a request does not name a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadDestination {
    /// The port is 0 or above 65535: the request has 32 bits for it (RFC 4254 §7.2).
    #[error("the port must be from 1 to 65535")]
    Port,
    /// The host is empty, too long, or has characters that no host name has.
    #[error("this is no host name and no address")]
    Host,
    /// The host is an IPv4 address in an unusual spelling, such as `127.1`, `0x7f000001` or `2130706433`.
    #[error("an IPv4 address is written as four decimal numbers")]
    Spelling,
}

impl Destination {
    /// Parses the two fields of a `direct-tcpip` request.
    ///
    /// # Errors
    /// When they do not name a destination.
    pub fn parse(host: &str, port: u32) -> Result<Self, BadDestination> {
        let host = Host::parse(host)?;
        match u16::try_from(port) {
            Ok(port) if port != 0 => Ok(Self { host, port }),
            _ => Err(BadDestination::Port),
        }
    }

    /// The host that the client asked for.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same port of the host with a final dot.
    pub(super) fn absolute(self) -> Self {
        let host = match self.host {
            Host::Name(name) => Host::Name(name.absolute()),
            address @ Host::Address(_) => address,
        };
        Self { host, ..self }
    }
}

impl Host {
    /// Parses a name or an address. Brackets, a zone or white space are errors.
    ///
    /// # Errors
    /// When the text is neither.
    pub fn parse(text: &str) -> Result<Self, BadDestination> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let (name, absolute) = match text.strip_suffix('.') {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.is_empty() || name.len() > HOST_MAX || !name.split('.').all(is_label) {
            return Err(BadDestination::Host);
        }
        // A resolver takes a name whose last label is a number for an address, as inet_aton(3) does.
        if name.rsplit('.').next().is_some_and(is_number) {
            return Err(BadDestination::Spelling);
        }
        Ok(Self::Name(Name { text: name.to_ascii_lowercase(), absolute }))
    }
}

/// Underscores are not part of host names (RFC 952) but are common in names of services.
fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=LABEL_MAX).contains(&label.len())
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x").or_else(|| label.strip_prefix("0X")) {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            Host::Address(IpAddr::V4(_)) | Host::Name(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn destinations() {
        for (host, port, expected) in [
            ("db.internal", 5432, Ok("db.internal:5432")),
            ("DB.Internal", 5432, Ok("db.internal:5432")),
            ("DB.Internal.", 5432, Ok("db.internal.:5432")),
            ("_ldap._tcp.example", 389, Ok("_ldap._tcp.example:389")),
            ("10.0.0.1", 80, Ok("10.0.0.1:80")),
            ("::ffff:127.0.0.1", 80, Ok("127.0.0.1:80")),
            ("2001:db8::1", 80, Ok("[2001:db8::1]:80")),
            ("db", 0, Err(BadDestination::Port)),
            ("db", 65_536, Err(BadDestination::Port)),
            ("db", 72_739, Err(BadDestination::Port)),
            ("db", u32::MAX, Err(BadDestination::Port)),
            ("", 80, Err(BadDestination::Host)),
            (".", 80, Err(BadDestination::Host)),
            ("a..b", 80, Err(BadDestination::Host)),
            ("[::1]", 80, Err(BadDestination::Host)),
            ("fe80::1%eth0", 80, Err(BadDestination::Host)),
            ("a b", 80, Err(BadDestination::Host)),
            ("a\0b", 80, Err(BadDestination::Host)),
            ("a\nb", 80, Err(BadDestination::Host)),
            ("\u{1b}[2J", 80, Err(BadDestination::Host)),
            ("dätabase", 80, Err(BadDestination::Host)),
            ("2130706433", 80, Err(BadDestination::Spelling)),
            ("0x7f000001", 80, Err(BadDestination::Spelling)),
            ("0x7f.1", 80, Err(BadDestination::Spelling)),
            ("127.1", 80, Err(BadDestination::Spelling)),
            ("0177.0.0.1", 80, Err(BadDestination::Spelling)),
            ("127.0.0.1.", 80, Err(BadDestination::Spelling)),
            ("2130706433.", 80, Err(BadDestination::Spelling)),
            ("0x7f.1.", 80, Err(BadDestination::Spelling)),
            ("0177.0.0.1.", 80, Err(BadDestination::Spelling)),
            ("::1.", 80, Err(BadDestination::Host)),
            ("localhost..", 80, Err(BadDestination::Host)),
            ("256.0.0.1", 80, Err(BadDestination::Spelling)),
        ] {
            let parsed = Destination::parse(host, port).map(|destination| destination.to_string());
            assert_eq!(parsed, expected.map(str::to_owned), "{host:?} {port}");
        }
        assert_eq!(Host::parse(&"a".repeat(64)), Err(BadDestination::Host));
        assert!(Host::parse(&["a"; 127].join(".")).is_ok(), "253 bytes");
        assert_eq!(Host::parse(&["a"; 128].join(".")), Err(BadDestination::Host));
    }

    proptest! {
        #[test]
        fn what_is_accepted_prints_plain(host in any::<String>(), port in any::<u32>()) {
            if let Ok(destination) = Destination::parse(&host, port) {
                prop_assert!(destination.to_string().bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
