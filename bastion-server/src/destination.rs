//! The host and port that a client asks for, parsed, and the patterns that match them.

pub(crate) mod pattern;

use std::fmt;
use std::net::IpAddr;

use thiserror::Error;

/// The longest host name, in bytes (RFC 1035 §2.3.4, without the trailing dot).
const HOST_MAX: usize = 253;
/// The longest label of a host name, in bytes.
const LABEL_MAX: usize = 63;

/// A host and a port, as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    host: Host,
    port: u16,
}

/// A host, by name or by address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name.
    Name(Name),
    /// IPv4 inside IPv6 is IPv4 here.
    Address(IpAddr),
}

/// A host's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// Lower case, without the final dot.
    text: String,
    absolute: bool,
}

impl Name {
    /// The name in lower case, without a final dot.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has a final dot, by which it is complete: nothing is looked for below a search list's domains (RFC 1034 §3.1).
    pub fn is_absolute(&self) -> bool {
        self.absolute
    }

    /// The same name, complete.
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

/// Why a request names no destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadDestination {
    /// 0, or above 65535: the request has room for 32 bits (RFC 4254 §7.2).
    #[error("the port must be from 1 to 65535")]
    Port,
    /// Empty, too long, or with characters that no host name has.
    #[error("this is no host name and no address")]
    Host,
    /// `127.1`, `0x7f000001`, `2130706433`: one address, many spellings.
    #[error("an IPv4 address is written as four decimal numbers")]
    Spelling,
}

impl Destination {
    /// Takes the two fields of a `direct-tcpip` request.
    ///
    /// # Errors
    /// When they name no destination.
    pub fn parse(host: &str, port: u32) -> Result<Self, BadDestination> {
        let host = Host::parse(host)?;
        match u16::try_from(port) {
            Ok(port) if port != 0 => Ok(Self { host, port }),
            _ => Err(BadDestination::Port),
        }
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same port of the host whose name is complete.
    pub(super) fn absolute(self) -> Self {
        let host = match self.host {
            Host::Name(name) => Host::Name(name.absolute()),
            address @ Host::Address(_) => address,
        };
        Self { host, ..self }
    }
}

impl Host {
    /// Takes a name or an address, and nothing that is almost one: no brackets, no zone, no white space.
    ///
    /// # Errors
    /// When it is neither.
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
        // A resolver takes what ends in a number for an address, as inet_aton(3) does.
        if name.rsplit('.').next().is_some_and(is_number) {
            return Err(BadDestination::Spelling);
        }
        Ok(Self::Name(Name { text: name.to_ascii_lowercase(), absolute }))
    }
}

/// Underscores are no part of host names and are common in names of services.
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
