//! A host and a port as a person writes them: `host:80`, `192.0.2.1:80`, `[2001:db8::1]:80`.

mod forward;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU16,
    str::FromStr,
};

pub(crate) use forward::Local;
pub use forward::{BadForward, Forward, On};

/// A name or an address. A name has only characters that a DNS name can have, so it is safe to print.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name, as it was typed.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// A host and a TCP port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    host: Host,
    port: NonZeroU16,
}

/// Why a text is not an endpoint. Says what is wrong without repeating the text, which may come from a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// `host`
    #[error("the port is missing")]
    NoPort,
    /// `host:0`, `host:99999`, `host:x`
    #[error("the port is not a number from 1 to 65535")]
    BadPort,
    /// `:80`
    #[error("the host is missing")]
    NoHost,
    /// `user@host:80`
    #[error("a user does not belong here (see --user)")]
    User,
    /// `[::1:80`
    #[error("the bracket around the IPv6 address is not closed or not followed by :PORT")]
    Bracket,
    /// `::1:80`
    #[error("an IPv6 address needs brackets, as in [2001:db8::1]:80")]
    Bare,
    /// `[fe80::1%eth0]:80`
    #[error("an IPv6 address cannot have a zone here")]
    Zone,
    /// `[x]:80`
    #[error("what stands in brackets is not an IPv6 address")]
    NotIpv6,
    /// `$(id):80`
    #[error("the host holds a character that no host name has")]
    Character,
    /// `-x:80`, `a..b:80`
    #[error("a part of the host name is empty, longer than 63 characters, or begins or ends with a hyphen")]
    Label,
    /// More than 253 characters.
    #[error("the host name is longer than 253 characters")]
    Long,
}

impl Host {
    /// The host as SSH wants it: without brackets (RFC 4254 section 7.2).
    pub fn bare(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Address(address) => address.to_string(),
        }
    }
}

impl Endpoint {
    /// Both.
    pub fn new(host: Host, port: NonZeroU16) -> Self {
        Self { host, port }
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port.get()
    }

    /// `host:port`, or `host` alone where a port is usual.
    ///
    /// # Errors
    /// When the text is neither.
    pub fn with_default_port(text: &str, port: NonZeroU16) -> Result<Self, BadEndpoint> {
        let bracketed_alone = text.starts_with('[') && text.ends_with(']');
        if bracketed_alone || (!text.contains(':') && !text.is_empty()) {
            return Ok(Self { host: text.parse()?, port });
        }
        text.parse()
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let (host, port) = if text.starts_with('[') {
            let (_, after) = text.split_once(']').ok_or(BadEndpoint::Bracket)?;
            let port = match after.strip_prefix(':') {
                Some(port) => port,
                None if after.is_empty() => return Err(BadEndpoint::NoPort),
                None => return Err(BadEndpoint::Bracket),
            };
            (text.strip_suffix(after).unwrap_or_default(), port)
        } else {
            let (host, port) = text.rsplit_once(':').ok_or(BadEndpoint::NoPort)?;
            if host.contains(':') {
                return Err(BadEndpoint::Bare);
            }
            (host, port)
        };
        if port.is_empty() {
            return Err(BadEndpoint::NoPort);
        }
        let host = host.parse()?;
        let port = port_number(port).and_then(NonZeroU16::new).ok_or(BadEndpoint::BadPort)?;
        Ok(Self { host, port })
    }
}

impl FromStr for Host {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        if let Some(inside) = text.strip_prefix('[') {
            let inside = inside.strip_suffix(']').ok_or(BadEndpoint::Bracket)?;
            if inside.contains('%') {
                return Err(BadEndpoint::Zone);
            }
            let address: Ipv6Addr = inside.parse().map_err(|_| BadEndpoint::NotIpv6)?;
            return Ok(Self::Address(address.into()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return if address.is_ipv6() { Err(BadEndpoint::Bare) } else { Ok(Self::Address(address)) };
        }
        if text.is_empty() {
            return Err(BadEndpoint::NoHost);
        }
        if text.contains('@') {
            return Err(BadEndpoint::User);
        }
        if !text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) {
            return Err(BadEndpoint::Character);
        }
        if text.len() > 253 {
            return Err(BadEndpoint::Long);
        }
        // One trailing dot is how a name says that it is complete.
        let labels = text.strip_suffix('.').unwrap_or(text).split('.');
        let good =
            |label: &str| (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
        if labels.into_iter().all(good) { Ok(Self::Name(text.to_owned())) } else { Err(BadEndpoint::Label) }
    }
}

/// A port of ASCII digits, 0 included: `u16::from_str` would take `+80`.
pub(crate) fn port_number(text: &str) -> Option<u16> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_endpoints() {
        for text in
            ["demo.internal:80", "192.0.2.1:5432", "[::1]:80", "a_b.svc:65535", "x:1", "db.local.:5432"]
        {
            assert_eq!(text.parse::<Endpoint>().map(|endpoint| endpoint.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn bad_endpoints_say_why() {
        use BadEndpoint::*;
        for (text, why) in [
            ("", NoPort),
            ("host", NoPort),
            ("host:", NoPort),
            ("[::1]", NoPort),
            (":80", NoHost),
            ("host:0", BadPort),
            ("host:99999", BadPort),
            ("host:+80", BadPort),
            ("host:-1", BadPort),
            ("host:8x", BadPort),
            ("host:８０", BadPort),
            ("host:٣", BadPort),
            ("[::1:80", Bracket),
            ("[::1]80", Bracket),
            ("::1:80", Bare),
            ("[fe80::1%eth0]:80", Zone),
            ("[host]:80", NotIpv6),
            ("[127.0.0.1]:80", NotIpv6),
            ("user@host:80", User),
            ("$(id):80", Character),
            ("a b:80", Character),
            ("a\0b:80", Character),
            ("bücher.example:80", Character),
            ("-oProxyCommand=x:80", Character),
            ("-host:80", Label),
            ("a..b:80", Label),
            (".:80", Label),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(why), "{text:?}");
        }
        assert_eq!(format!("{}:80", "a".repeat(64)).parse::<Endpoint>(), Err(Label));
        assert_eq!(format!("{}:80", "a.".repeat(127)).parse::<Endpoint>(), Err(Long));
    }

    #[test]
    fn the_usual_port_is_added() {
        let ssh = NonZeroU16::new(22).unwrap();
        let parse = |text| Endpoint::with_default_port(text, ssh).map(|endpoint| endpoint.to_string());
        assert_eq!(parse("bastion.example.com"), Ok("bastion.example.com:22".into()));
        assert_eq!(parse("bastion.example.com:2222"), Ok("bastion.example.com:2222".into()));
        assert_eq!(parse("[::1]"), Ok("[::1]:22".into()));
        assert_eq!(parse("[::1]:2222"), Ok("[::1]:2222".into()));
        assert_eq!(parse(""), Err(BadEndpoint::NoPort));
        assert_eq!(parse("host:"), Err(BadEndpoint::NoPort));
    }

    proptest! {
        #[test]
        fn anything_is_parsed_or_refused(text in ".{0,40}") {
            let _ = text.parse::<Endpoint>();
        }

        #[test]
        fn what_is_printed_is_parsed_again(
            host in prop_oneof![
                any::<IpAddr>().prop_map(Host::Address),
                "[a-z0-9_]{1,20}(\\.[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?){1,4}\\.[a-z]{2,5}".prop_map(Host::Name),
            ],
            port in 1..=u16::MAX,
        ) {
            let endpoint = Endpoint { host, port: NonZeroU16::new(port).unwrap() };
            prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }
    }
}
