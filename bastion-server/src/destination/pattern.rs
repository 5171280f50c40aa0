//! Matches destinations: hosts by name or pattern, networks, ranges of ports.

use std::{fmt, net::SocketAddr, str::FromStr};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;
use thiserror::Error;

use super::{Host, Name};

/// The hosts and ports of one destination pattern: `*.default.svc:5432`, `10.20.0.0/16:1024-65535` or
/// `[2001:db8::/32]:443`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(
    with = "String",
    extend("pattern" = r"^(\*|(\*\.)?[A-Za-z0-9._/-]+|\[[0-9A-Fa-f:./]+\]):(\*|\d{1,5}(-\d{1,5})?)$")
)]
pub struct DestinationPattern {
    /// The hosts that match.
    pub hosts: HostPattern,
    /// The ports that match.
    pub ports: PortRange,
}

/// A set of hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// Every host, written `*`. The floor still applies.
    Any,
    /// One name, or with a leading `*.` every name below it at any depth. It matches the name that the client
    /// asked for, with or without a final dot. A pattern with a final dot makes the bastion resolve the
    /// complete name, never one below a domain of the search list.
    Name {
        name: Name,
        /// Whether the pattern matches the names below `name` rather than `name` itself.
        below: bool,
    },
    /// A network. It matches the addresses that the destination resolves to.
    Network(IpNet),
}

/// A range of ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is not a [`DestinationPattern`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// The text does not end in `:PORTS`.
    #[error("a destination is HOST:PORTS, for example `db.internal:5432`; here the ports are missing")]
    NoPorts,
    /// An IPv6 address or network stands without brackets.
    #[error("an IPv6 address or network stands in brackets: `[2001:db8::/32]:443`")]
    NoBrackets,
    /// The ports are neither a number, a range nor `*`.
    #[error("ports are a number from 1 to 65535, two of them as `8000-8100`, or `*`")]
    Ports,
    /// The network has bits to the right of its prefix; holds the network without them.
    #[error("the network has bits to the right of its prefix; write {0}")]
    HostBits(IpNet),
    /// The host is neither a name, nor a pattern, nor a network.
    #[error("this is no host name, no `*.name`, no address and no network")]
    Host,
}

/// Whether a pattern matches a destination. Of several patterns the greatest answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// The pattern does not match.
    No,
    /// The answer depends on the address behind the name.
    ByAddress,
    /// The pattern matches.
    Yes,
}

impl DestinationPattern {
    /// Whether the pattern matches a destination, as far as its name tells.
    pub fn matches_name(&self, host: &Host, port: u16) -> Match {
        if !self.ports.contains(port) {
            return Match::No;
        }
        let matches = match (&self.hosts, host) {
            (HostPattern::Any, _) => true,
            (HostPattern::Network(network), Host::Address(address)) => network.contains(address),
            (HostPattern::Network(_), Host::Name(_)) => return Match::ByAddress,
            (HostPattern::Name { .. }, Host::Address(_)) => false,
            (HostPattern::Name { name, below: false }, Host::Name(asked)) => asked.as_str() == name.as_str(),
            (HostPattern::Name { name, below: true }, Host::Name(asked)) => {
                asked.as_str().strip_suffix(name.as_str()).is_some_and(|front| front.ends_with('.'))
            }
        };
        if matches { Match::Yes } else { Match::No }
    }

    /// Whether the pattern matches an address that a name has resolved to.
    pub fn matches_address(&self, address: SocketAddr) -> bool {
        match &self.hosts {
            HostPattern::Network(network) => {
                self.ports.contains(address.port()) && network.contains(&address.ip())
            }
            HostPattern::Any | HostPattern::Name { .. } => false,
        }
    }
}

impl HostPattern {
    /// Whether the pattern is a name with a final dot.
    pub fn is_absolute(&self) -> bool {
        match self {
            Self::Name { name, .. } => name.is_absolute(),
            Self::Any | Self::Network(_) => false,
        }
    }
}

impl PortRange {
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for DestinationPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (hosts, ports) = text.rsplit_once(':').ok_or(PatternError::NoPorts)?;
        let hosts = match hosts.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
            Some(inner) => inner
                .parse()
                .ok()
                .filter(|pattern| matches!(pattern, HostPattern::Network(_)))
                .ok_or(PatternError::Host)?,
            None if hosts.contains(':') => return Err(PatternError::NoBrackets),
            None => hosts.parse()?,
        };
        Ok(Self { hosts, ports: ports.parse()? })
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Ok(network) = text.parse::<IpNet>() {
            return if network.trunc() == network {
                Ok(Self::Network(network))
            } else {
                Err(PatternError::HostBits(network.trunc()))
            };
        }
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        match Host::parse(name).map_err(|_| PatternError::Host)? {
            Host::Address(address) if !below => Ok(Self::Network(IpNet::from(address))),
            Host::Address(_) => Err(PatternError::Host),
            Host::Name(name) => Ok(Self::Name { name, below }),
        }
    }
}

impl FromStr for PortRange {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Ok(Self { first: 1, last: u16::MAX });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        if first > last { Err(PatternError::Ports) } else { Ok(Self { first, last }) }
    }
}

/// Accepts digits only: `u16::from_str` would also accept a leading plus.
fn port(text: &str) -> Result<u16, PatternError> {
    match text.parse() {
        Ok(port) if port != 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err(PatternError::Ports),
    }
}

impl TryFrom<String> for DestinationPattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for DestinationPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            HostPattern::Any => f.write_str("*")?,
            HostPattern::Name { name, below } => write!(f, "{}{name}", if *below { "*." } else { "" })?,
            HostPattern::Network(network @ IpNet::V6(_)) => write!(f, "[{network}]")?,
            HostPattern::Network(network) => write!(f, "{network}")?,
        }
        match (self.ports.first, self.ports.last) {
            (1, u16::MAX) => f.write_str(":*"),
            (first, last) if first == last => write!(f, ":{first}"),
            (first, last) => write!(f, ":{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_parse_and_print() {
        for (text, printed) in [
            ("db.internal:5432", "db.internal:5432"),
            ("DB.Internal:5432", "db.internal:5432"),
            ("DB.Internal.:5432", "db.internal.:5432"),
            ("*.DB.Internal.:5432", "*.db.internal.:5432"),
            ("*.default.svc.cluster.local:5432", "*.default.svc.cluster.local:5432"),
            ("10.20.0.0/16:1024-65535", "10.20.0.0/16:1024-65535"),
            ("10.20.0.1:80", "10.20.0.1/32:80"),
            ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
            ("[2001:db8::1]:443", "[2001:db8::1/128]:443"),
            ("*:*", "*:*"),
        ] {
            let pattern: DestinationPattern = text.parse().unwrap();
            assert_eq!(pattern.to_string(), printed);
            assert_eq!(printed.parse::<DestinationPattern>().unwrap(), pattern);
        }
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        for (text, expected) in [
            ("db.internal", PatternError::NoPorts),
            ("db.internal:", PatternError::Ports),
            ("db.internal:0", PatternError::Ports),
            ("db.internal:+80", PatternError::Ports),
            ("db.internal:65536", PatternError::Ports),
            ("db.internal:90-80", PatternError::Ports),
            ("2001:db8::1:443", PatternError::NoBrackets),
            ("10.20.0.1/16:80", PatternError::HostBits("10.20.0.0/16".parse().unwrap())),
            ("*.*.internal:80", PatternError::Host),
            ("d*.internal:80", PatternError::Host),
            ("*.10.0.0.1:80", PatternError::Host),
            ("[db.internal]:80", PatternError::Host),
            (":80", PatternError::Host),
            ("a b:80", PatternError::Host),
        ] {
            assert_eq!(text.parse::<DestinationPattern>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn names_match_as_they_were_asked_for() {
        let matches = |pattern: &str, host: &str, port| {
            pattern.parse::<DestinationPattern>().unwrap().matches_name(&Host::parse(host).unwrap(), port)
        };
        assert_eq!(matches("*.svc:5432", "orders.default.svc", 5432), Match::Yes);
        assert_eq!(matches("*.svc:5432", "svc", 5432), Match::No, "below it, not it");
        assert_eq!(matches("*.svc:5432", "evilsvc", 5432), Match::No);
        assert_eq!(matches("*.svc:5432", "orders.svc", 5433), Match::No);
        assert_eq!(matches("db.internal:5432", "DB.internal.", 5432), Match::Yes);
        assert_eq!(matches("10.0.0.0/8:80", "10.1.2.3", 80), Match::Yes);
        assert_eq!(matches("10.0.0.0/8:80", "::ffff:10.1.2.3", 80), Match::Yes);
        assert_eq!(matches("10.0.0.0/8:80", "db.internal", 80), Match::ByAddress, "depends on where that is");
        assert_eq!(matches("10.0.0.0/8:80", "db.internal", 81), Match::No);
        assert_eq!(matches("*:80", "anything.at.all", 80), Match::Yes);
    }
}
