//! Parses a forward: a local address and port, and the destination behind it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::{BadEndpoint, Endpoint, port_number};

/// One forward as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Where to listen.
    pub listen: Local,
    /// Where the bastion connects to.
    pub destination: Endpoint,
}

/// Where a forward listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// On which addresses.
    pub on: On,
    /// On which port of each; 0 means any that is free on all of them.
    pub port: u16,
}

/// The addresses of a forward, as ssh's `-L` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// A plain port, or `localhost`: both loopback addresses, since a program may take either for `localhost`.
    Loopback,
    /// `*`: every address of this computer.
    Everywhere,
    /// One address.
    Address(IpAddr),
}

impl On {
    /// The addresses, the one that is shown first.
    pub fn addresses(self) -> Vec<IpAddr> {
        match self {
            Self::Loopback => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Self::Everywhere => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            Self::Address(address) => vec![address],
        }
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.on {
            On::Loopback => write!(f, "localhost:{}", self.port),
            On::Everywhere => write!(f, "*:{}", self.port),
            On::Address(address) => SocketAddr::new(address, self.port).fmt(f),
        }
    }
}

/// Why the arguments name no forward. Displays as one line that names the bad part and shows a right one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part}: {why}; write, for example, {right}")]
pub struct BadForward {
    part: String,
    why: Why,
    right: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Why {
    #[error("{0}")]
    Destination(#[from] BadEndpoint),
    #[error("the local port is not a number from 0 to 65535")]
    LocalPort,
    #[error("the local address is not an IP address")]
    LocalAddress,
    #[error("an empty local address means every address of this computer to ssh; here that is written *")]
    EmptyAddress,
    #[error("slashes do not separate the parts, colons do")]
    Slashes,
    #[error("a path is a Unix socket to ssh, and only TCP is forwarded here")]
    Socket,
    #[error("the local port is missing")]
    NoLocalPort,
    #[error("not of the form [BIND:]PORT:HOST:PORT")]
    Form,
}

const EXAMPLE: &str = "pf-tunnel postgres.default.svc:5432 5432";
const EXAMPLE_L: &str = "-L 5432:postgres.default.svc:5432";

impl Forward {
    /// Reads `HOST:PORT LOCAL HOST:PORT LOCAL …`.
    ///
    /// # Errors
    /// When an argument is not what its place asks for, or the last destination has no local port.
    pub fn pairs(arguments: &[String]) -> Result<Vec<Self>, BadForward> {
        arguments
            .chunks(2)
            .map(|pair| match pair {
                [destination, local] => {
                    let destination = parse_destination(destination)?;
                    let listen = parse_local(local).map_err(|why| BadForward {
                        part: local.clone(),
                        why,
                        right: format!("pf-tunnel {destination} {}", destination.port()),
                    })?;
                    Ok(Self { listen, destination })
                }
                [alone] => {
                    let destination = parse_destination(alone)?;
                    let right = format!("pf-tunnel {destination} {}", destination.port());
                    Err(BadForward { part: alone.clone(), why: Why::NoLocalPort, right })
                }
                _ => Err(BadForward { part: String::new(), why: Why::Form, right: EXAMPLE.to_owned() }),
            })
            .collect()
    }
}

fn parse_destination(text: &str) -> Result<Endpoint, BadForward> {
    text.parse().map_err(|why: BadEndpoint| BadForward {
        part: text.to_owned(),
        why: why.into(),
        right: EXAMPLE.to_owned(),
    })
}

/// `3000`, `127.0.0.1:3000` or `[::1]:3000`.
fn parse_local(text: &str) -> Result<Local, Why> {
    let (on, port) = match text.rsplit_once(':') {
        Some((address, port)) => (bind_address(address)?, port),
        None => (On::Loopback, text),
    };
    Ok(Local { on, port: port_number(port).ok_or(Why::LocalPort)? })
}

/// ssh takes brackets around anything; an IPv6 address needs them.
fn bind_address(text: &str) -> Result<On, Why> {
    let inside = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match inside.unwrap_or(text) {
        "" => Err(Why::EmptyAddress),
        "*" => Ok(On::Everywhere),
        name if name.eq_ignore_ascii_case("localhost") => Ok(On::Loopback),
        address => match address.parse() {
            Ok(address @ IpAddr::V4(_)) => Ok(On::Address(address)),
            Ok(address @ IpAddr::V6(_)) if inside.is_some() => Ok(On::Address(address)),
            Ok(IpAddr::V6(_)) | Err(_) => Err(Why::LocalAddress),
        },
    }
}

/// A host without the brackets that ssh takes around a name too.
fn unbracketed(destination: &str) -> Option<String> {
    let (inside, port) = destination.strip_prefix('[')?.split_once(']')?;
    (!inside.contains(':')).then(|| format!("{inside}{port}"))
}

/// The form of `ssh -L`: `[BIND:]PORT:HOST:PORT`.
impl FromStr for Forward {
    type Err = BadForward;

    fn from_str(text: &str) -> Result<Self, BadForward> {
        let bad = |why| BadForward { part: text.to_owned(), why, right: EXAMPLE_L.to_owned() };
        if text.contains('/') {
            return Err(bad(if text.contains(':') { Why::Socket } else { Why::Slashes }));
        }
        let colons: Vec<usize> = colons_outside_brackets(text);
        let (local_end, bind) = match *colons.as_slice() {
            [port_end, _] => (port_end, None),
            [bind_end, port_end, _] => (port_end, Some(bind_end)),
            _ => return Err(bad(Why::Form)),
        };
        let local = text.get(..local_end).unwrap_or_default();
        let destination = text.get(local_end + 1..).unwrap_or_default();
        // An empty bind address means every interface to ssh; here that has to be written out.
        if bind == Some(0) {
            return Err(bad(Why::EmptyAddress));
        }
        let listen = parse_local(local).map_err(bad)?;
        let plain = unbracketed(destination);
        let destination = plain.as_deref().unwrap_or(destination);
        let destination = destination.parse().map_err(|why: BadEndpoint| bad(why.into()))?;
        Ok(Self { listen, destination })
    }
}

fn colons_outside_brackets(text: &str) -> Vec<usize> {
    let mut inside = false;
    text.char_indices()
        .filter_map(|(at, character)| {
            match character {
                '[' => inside = true,
                ']' => inside = false,
                _ => {}
            }
            (character == ':' && !inside).then_some(at)
        })
        .collect()
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.listen, self.destination)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(arguments: &[&str]) -> Result<Vec<String>, String> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let print = |forwards: Vec<Forward>| forwards.iter().map(ToString::to_string).collect();
        Forward::pairs(&arguments).map(print).map_err(|error| error.to_string())
    }

    #[test]
    fn pairs_of_destination_and_local_port() {
        assert_eq!(
            pairs(&["demo.internal:80", "3000", "[::1]:5432", "0", "db:1", "[::1]:2", "db:1", "0.0.0.0:2"]),
            Ok(vec![
                "localhost:3000:demo.internal:80".into(),
                "localhost:0:[::1]:5432".into(),
                "[::1]:2:db:1".into(),
                "0.0.0.0:2:db:1".into(),
            ])
        );
    }

    #[test]
    fn a_bad_argument_is_named_and_a_right_one_shown_in_one_line() {
        for (arguments, expected) in [
            (
                &["host"] as &[&str],
                "host: the port is missing; write, for example, pf-tunnel postgres.default.svc:5432 5432",
            ),
            (&["host:80"], "host:80: the local port is missing; write, for example, pf-tunnel host:80 80"),
            (
                &["host:80", "70000"],
                "70000: the local port is not a number from 0 to 65535; write, for example, pf-tunnel host:80 80",
            ),
            (
                &["host:80", "example.com:80"],
                "example.com:80: the local address is not an IP address; write, for example, pf-tunnel host:80 80",
            ),
            (
                &["3000", "host:80"],
                "3000: the port is missing; write, for example, pf-tunnel postgres.default.svc:5432 5432",
            ),
        ] {
            assert_eq!(pairs(arguments), Err(expected.to_owned()));
        }
    }

    #[test]
    fn the_form_of_ssh_is_understood() {
        for (text, listen, destination) in [
            ("3000:demo.internal:80", "localhost:3000", "demo.internal:80"),
            ("0.0.0.0:3000:demo.internal:80", "0.0.0.0:3000", "demo.internal:80"),
            ("localhost:3000:demo.internal:80", "localhost:3000", "demo.internal:80"),
            ("*:3000:demo.internal:80", "*:3000", "demo.internal:80"),
            ("[*]:3000:[demo.internal]:80", "*:3000", "demo.internal:80"),
            ("[127.0.0.1]:3000:demo.internal:80", "127.0.0.1:3000", "demo.internal:80"),
            ("[::1]:0:[2001:db8::1]:80", "[::1]:0", "[2001:db8::1]:80"),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!(forward.listen.to_string(), listen);
            assert_eq!(forward.destination.to_string(), destination);
        }
        for text in [
            "",
            "80",
            "3000:host",
            "::::",
            ":3000:host:80",
            "**:3000:host:80",
            "::1:3000:host:80",
            "[::1:3000:host:80",
            "3000:host:",
        ] {
            let line = text.parse::<Forward>().unwrap_err().to_string();
            assert!(line.contains("-L 5432:postgres.default.svc:5432") && !line.contains('\n'), "{line}");
        }
        for (text, words) in [
            ("8080/host/80", "slashes do not separate"),
            ("8080:/run/postgres.sock", "a Unix socket"),
            ("/tmp/socket:host:80", "a Unix socket"),
            (":3000:host:80", "here that is written *"),
            ("[]:3000:host:80", "here that is written *"),
        ] {
            let line = text.parse::<Forward>().unwrap_err().to_string();
            assert!(line.contains(words), "{line}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_parsed_or_refused(text in ".{0,60}") {
            let _ = text.parse::<Forward>();
            let _ = Forward::pairs(&[text.clone(), text]);
        }

        #[test]
        fn what_is_printed_is_parsed_again(
            v4 in any::<Ipv4Addr>(), v6 in any::<Ipv6Addr>(), kind in 0..4, local in any::<u16>(), port in 1..=u16::MAX,
        ) {
            let six = kind == 1;
            let on = match kind {
                0 => On::Address(v4.into()),
                1 => On::Address(v6.into()),
                2 => On::Loopback,
                _ => On::Everywhere,
            };
            let destination = SocketAddr::new(if six { v4.into() } else { v6.into() }, port).to_string();
            let forward = Forward {
                listen: Local { on, port: local },
                destination: destination.parse().unwrap(),
            };
            prop_assert_eq!(forward.to_string().parse(), Ok(forward));
        }
    }
}
