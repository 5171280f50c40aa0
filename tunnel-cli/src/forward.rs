//! What is to be forwarded: a local address and port, and the destination behind it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use crate::endpoint::{BadEndpoint, Endpoint, port_number};

/// One forward as it was asked for. Port 0 of `listen` means any free port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the bastion connects to.
    pub destination: Endpoint,
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
fn parse_local(text: &str) -> Result<SocketAddr, Why> {
    let (address, port) = match text.rsplit_once(':') {
        Some((address, port)) => (bind_address(address)?, port),
        None => (Ipv4Addr::LOCALHOST.into(), text),
    };
    Ok(SocketAddr::new(address, port_number(port).ok_or(Why::LocalPort)?))
}

fn bind_address(text: &str) -> Result<IpAddr, Why> {
    if text == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    match text.strip_prefix('[') {
        Some(inside) => inside.strip_suffix(']').unwrap_or_default().parse().map(IpAddr::V6).ok(),
        None => text.parse().map(IpAddr::V4).ok(),
    }
    .ok_or(Why::LocalAddress)
}

/// The form of `ssh -L`: `[BIND:]PORT:HOST:PORT`.
impl FromStr for Forward {
    type Err = BadForward;

    fn from_str(text: &str) -> Result<Self, BadForward> {
        let bad = |why| BadForward { part: text.to_owned(), why, right: EXAMPLE_L.to_owned() };
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
            return Err(bad(Why::LocalAddress));
        }
        let listen = parse_local(local).map_err(bad)?;
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
                "127.0.0.1:3000:demo.internal:80".into(),
                "127.0.0.1:0:[::1]:5432".into(),
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
            ("3000:demo.internal:80", "127.0.0.1:3000", "demo.internal:80"),
            ("0.0.0.0:3000:demo.internal:80", "0.0.0.0:3000", "demo.internal:80"),
            ("localhost:3000:demo.internal:80", "127.0.0.1:3000", "demo.internal:80"),
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
            "*:3000:host:80",
            "[::1:3000:host:80",
            "3000:host:",
        ] {
            let line = text.parse::<Forward>().unwrap_err().to_string();
            assert!(line.contains("-L 5432:postgres.default.svc:5432") && !line.contains('\n'), "{line}");
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
            v4 in any::<Ipv4Addr>(), v6 in any::<std::net::Ipv6Addr>(), six in any::<bool>(), local in any::<u16>(), port in 1..=u16::MAX,
        ) {
            let bind: IpAddr = if six { v6.into() } else { v4.into() };
            let destination = SocketAddr::new(if six { v4.into() } else { v6.into() }, port).to_string();
            let forward = Forward {
                listen: SocketAddr::new(bind, local),
                destination: destination.parse().unwrap(),
            };
            prop_assert_eq!(forward.to_string().parse(), Ok(forward));
        }
    }
}
