//! Parses PROXY protocol headers, versions 1 and 2, as HAProxy's proxy-protocol.txt specifies them.
//!
//! The parser gets everything read so far and answers how many more bytes certainly belong to the header, so
//! that its caller never reads a byte of the client's. It is our own because the `ppp` crate refuses a
//! version 1 header that arrives in two pieces, and accepts ports such as `+22` and version 2 headers of 64
//! KiB.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, line end included.
const LONGEST_V1: usize = 107;
/// The shortest header of version 1: `PROXY UNKNOWN`, line end included.
const SHORTEST_V1: usize = 15;
/// The beginning of version 1.
const PREFIX_V1: &[u8] = b"PROXY ";
/// The beginning of version 2.
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family and transport, and the length of the rest.
const FIXED_V2: usize = 16;
/// The longest header of version 2 that is read: what certainly fits into one segment, to which the
/// specification limits senders. It leaves nearly 500 bytes for extensions.
const LONGEST_V2: usize = 536;

/// The state of the parser after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// At least this many more bytes belong to the header.
    More(usize),
    /// The header is complete, and no byte after it was read.
    Done(Announced),
}

/// The content of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The client's address, never v4-mapped.
    Client(SocketAddr),
    /// No address: the proxy connects for itself, as for a health check (`LOCAL`), or does not know the
    /// address (`UNKNOWN`).
    Nothing,
}

/// Why bytes are not a usable header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes begin unlike any header.
    #[error("there is no PROXY header")]
    Absent,
    /// The header is longer than allowed.
    #[error("the PROXY header is too long")]
    TooLong,
    /// The header is for something other than TCP over IP.
    #[error("the PROXY header is not about TCP over IPv4 or IPv6")]
    Family,
    /// The header begins correctly and then breaks the format.
    #[error("the PROXY header is malformed")]
    Form,
}

/// Whether these first bytes may begin a header.
pub(crate) fn may_begin(bytes: &[u8]) -> bool {
    [PREFIX_V1, SIGNATURE_V2].iter().any(|known| bytes.iter().zip(*known).all(|(one, other)| one == other))
}

/// Parses everything read so far.
///
/// # Errors
/// When no further byte could complete a header.
pub fn step(bytes: &[u8]) -> Result<Step, Malformed> {
    if !may_begin(bytes) {
        return Err(Malformed::Absent);
    }
    match bytes.first() {
        None => Ok(Step::More(1)),
        Some(b'P') => version_1(bytes),
        Some(_) => version_2(bytes),
    }
}

fn version_1(bytes: &[u8]) -> Result<Step, Malformed> {
    if bytes.len() < SHORTEST_V1 {
        return Ok(Step::More(SHORTEST_V1 - bytes.len()));
    }
    match bytes.iter().position(|byte| *byte == b'\n') {
        None if bytes.len() >= LONGEST_V1 => Err(Malformed::TooLong),
        None => Ok(Step::More(1)),
        Some(end) if end >= LONGEST_V1 => Err(Malformed::TooLong),
        Some(end) => {
            let line = bytes.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Malformed::Form)?;
            line_1(std::str::from_utf8(line).map_err(|_| Malformed::Form)?).map(Step::Done)
        }
    }
}

fn line_1(line: &str) -> Result<Announced, Malformed> {
    let mut fields = line.split(' ').skip(1);
    let address: fn(&str) -> Option<IpAddr> = match fields.next() {
        // The rest of the line is to be ignored.
        Some("UNKNOWN") => return Ok(Announced::Nothing),
        Some("TCP4") => |text| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Some("TCP6") => |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        Some(_) | None => return Err(Malformed::Family),
    };
    let told = (|| {
        let (client, _here) = (address(fields.next()?)?, address(fields.next()?)?);
        let (port, _port_here) = (decimal(fields.next()?)?, decimal(fields.next()?)?);
        fields.next().is_none().then(|| SocketAddr::new(client.to_canonical(), port))
    })();
    told.map(Announced::Client).ok_or(Malformed::Form)
}

/// Parses a port in the form that the specification allows; `str::parse` accepts more.
fn decimal(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

fn version_2(bytes: &[u8]) -> Result<Step, Malformed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_V2>() else {
        return Ok(Step::More(FIXED_V2 - bytes.len()));
    };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if FIXED_V2 + length > LONGEST_V2 {
        return Err(Malformed::TooLong);
    }
    let body = match rest.get(..length) {
        Some(body) => body,
        None => return Ok(Step::More(length - rest.len())),
    };
    match (command, family) {
        // For a connection of the proxy's own the rest means nothing.
        (0x20, _) | (0x21, 0x00) => Ok(Step::Done(Announced::Nothing)),
        (0x21, 0x11) => addresses::<4>(body),
        (0x21, 0x21) => addresses::<16>(body),
        (0x21, _) => Err(Malformed::Family),
        _ => Err(Malformed::Form),
    }
}

/// Parses two addresses, two ports, and extensions, which are ignored.
fn addresses<const N: usize>(body: &[u8]) -> Result<Step, Malformed>
where
    IpAddr: From<[u8; N]>,
{
    let client = (|| {
        let (client, rest) = body.split_first_chunk::<N>()?;
        let (_here, rest) = rest.split_first_chunk::<N>()?;
        let (ports, _extensions) = rest.split_first_chunk::<4>()?;
        let [high, low, _, _] = *ports;
        Some(SocketAddr::new(IpAddr::from(*client).to_canonical(), u16::from_be_bytes([high, low])))
    })();
    client.map(|client| Step::Done(Announced::Client(client))).ok_or(Malformed::Form)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads as the listener does, never more than was asked for, and returns the number of bytes too.
    fn read(bytes: &[u8]) -> (Result<Step, Malformed>, usize) {
        let mut taken = 0;
        loop {
            match step(&bytes[..taken]) {
                Ok(Step::More(more)) if taken < bytes.len() => {
                    assert!(more > 0);
                    taken = bytes.len().min(taken + more);
                }
                other => return (other, taken),
            }
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap();
        [SIGNATURE_V2, &[command, family], &length.to_be_bytes(), body].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x9c, 0x40, 0, 22];

    fn v6(client: &str) -> Vec<u8> {
        let client: Ipv6Addr = client.parse().unwrap();
        [&client.octets()[..], &[0; 16], &[0x9c, 0x40, 0, 22]].concat()
    }

    fn client(text: &str) -> Result<Step, Malformed> {
        Ok(Step::Done(Announced::Client(text.parse().unwrap())))
    }

    const NOTHING: Result<Step, Malformed> = Ok(Step::Done(Announced::Nothing));

    /// Cases: bytes, and the result.
    fn table() -> Vec<(&'static str, Vec<u8>, Result<Step, Malformed>)> {
        let text = |text: &str| text.as_bytes().to_vec();
        let unknown = |length: usize| format!("PROXY UNKNOWN {:x<1$}\r\n", "", length - 16).into_bytes();
        vec![
            ("tcp4", text("PROXY TCP4 192.0.2.7 10.0.0.1 40000 22\r\n"), client("192.0.2.7:40000")),
            ("tcp6", text("PROXY TCP6 2001:db8::7 ::1 40000 22\r\n"), client("[2001:db8::7]:40000")),
            ("mapped", text("PROXY TCP6 ::ffff:192.0.2.7 ::1 40000 22\r\n"), client("192.0.2.7:40000")),
            ("unknown", text("PROXY UNKNOWN\r\n"), NOTHING),
            ("unknown_more", text("PROXY UNKNOWN anything at all\r\n"), NOTHING),
            ("unknown_longest", unknown(LONGEST_V1), NOTHING),
            ("unknown_too_long", unknown(LONGEST_V1 + 1), Err(Malformed::TooLong)),
            ("endless", vec![b'P'; 1], Ok(Step::More(14))),
            ("no_end", [b"PROXY ".to_vec(), vec![b'x'; 200]].concat(), Err(Malformed::TooLong)),
            ("short", text("PROXY \r\nSSH-2.0-x\r\n"), Err(Malformed::Family)),
            ("udp", text("PROXY UDP4 192.0.2.7 10.0.0.1 40000 22\r\n"), Err(Malformed::Family)),
            ("wrong_family", text("PROXY TCP4 2001:db8::7 ::1 40000 22\r\n"), Err(Malformed::Form)),
            ("mixed", text("PROXY TCP4 192.0.2.7 ::1 40000 22\r\n"), Err(Malformed::Form)),
            ("plus", text("PROXY TCP4 192.0.2.7 10.0.0.1 +4000 22\r\n"), Err(Malformed::Form)),
            ("zero", text("PROXY TCP4 192.0.2.7 10.0.0.1 04000 22\r\n"), Err(Malformed::Form)),
            ("port", text("PROXY TCP4 192.0.2.7 10.0.0.1 65536 22\r\n"), Err(Malformed::Form)),
            ("octal", text("PROXY TCP4 192.0.02.7 10.0.0.1 40000 22\r\n"), Err(Malformed::Form)),
            ("zone", text("PROXY TCP6 fe80::1%eth0 ::1 40000 22\r\n"), Err(Malformed::Form)),
            ("spaces", text("PROXY TCP4  192.0.2.7 10.0.0.1 40000 22\r\n"), Err(Malformed::Form)),
            ("five", text("PROXY TCP4 192.0.2.7 10.0.0.1 40000 22 1\r\n"), Err(Malformed::Form)),
            ("missing", text("PROXY TCP4 192.0.2.7 10.0.0.1 40000\r\n"), Err(Malformed::Form)),
            ("newline", text("PROXY TCP4 192.0.2.7 10.0.0.1 40000 22\n"), Err(Malformed::Form)),
            ("lower", text("proxy TCP4 192.0.2.7 10.0.0.1 40000 22\r\n"), Err(Malformed::Absent)),
            ("latin1", b"PROXY UNKNOWN \xe9\r\n".to_vec(), Err(Malformed::Form)),
            ("ssh", text("SSH-2.0-x\r\n"), Err(Malformed::Absent)),
            ("v2_tcp4", v2(0x21, 0x11, &V4), client("192.0.2.7:40000")),
            ("v2_tcp6", v2(0x21, 0x21, &v6("2001:db8::7")), client("[2001:db8::7]:40000")),
            ("v2_mapped", v2(0x21, 0x21, &v6("::ffff:192.0.2.7")), client("192.0.2.7:40000")),
            ("v2_extensions", v2(0x21, 0x11, &[&V4[..], &[3, 0, 1, 7]].concat()), client("192.0.2.7:40000")),
            ("v2_local", v2(0x20, 0x00, &[]), NOTHING),
            ("v2_local_more", v2(0x20, 0x11, &V4), NOTHING),
            ("v2_unspecified", v2(0x21, 0x00, &[]), NOTHING),
            ("v2_unix", v2(0x21, 0x31, &[0; 216]), Err(Malformed::Family)),
            ("v2_udp", v2(0x21, 0x12, &V4), Err(Malformed::Family)),
            ("v2_short", v2(0x21, 0x11, &V4[..11]), Err(Malformed::Form)),
            ("v2_wrong_family", v2(0x21, 0x21, &V4), Err(Malformed::Form)),
            ("v2_command", v2(0x22, 0x11, &V4), Err(Malformed::Form)),
            ("v2_version", v2(0x11, 0x11, &V4), Err(Malformed::Form)),
            ("v2_longest", v2(0x20, 0x00, &vec![0; LONGEST_V2 - FIXED_V2]), NOTHING),
            ("v2_too_long", v2(0x20, 0x00, &vec![0; LONGEST_V2 - FIXED_V2 + 1]), Err(Malformed::TooLong)),
            ("v2_64k", v2(0x21, 0x11, &vec![0; 65535]), Err(Malformed::TooLong)),
            ("v2_signature", SIGNATURE_V2[..11].to_vec(), Ok(Step::More(5))),
        ]
    }

    #[test]
    fn each_header_is_what_it_is() {
        for (name, bytes, expected) in table() {
            assert_eq!(read(&bytes).0, expected, "{name}");
            // However much of it arrives together, and never is more asked for than belongs to it.
            assert_eq!(step(&bytes), expected, "{name}");
        }
        let header = v2(0x21, 0x11, &V4);
        assert_eq!(step(&header[..header.len() - 5]), Ok(Step::More(5)));
    }

    #[test]
    fn what_follows_a_header_is_not_touched() {
        for (name, header, expected) in table() {
            if let Ok(Step::Done(_)) = expected {
                let bytes = [&header[..], b"SSH-2.0-x\r\n"].concat();
                assert_eq!(read(&bytes), (expected, header.len()), "{name}");
            }
        }
    }

    /// The seeds of the fuzz target are the rows of the table; `WRITE_CORPUS=1 cargo test` writes them.
    #[test]
    fn the_corpus_has_every_row() {
        let folder =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/proxy_header");
        for (name, bytes, _) in table() {
            let path = folder.join(name);
            if std::env::var_os("WRITE_CORPUS").is_some() {
                std::fs::write(&path, &bytes).unwrap();
            }
            assert!(std::fs::read(&path).is_ok_and(|stored| stored == bytes), "{name} is missing or old");
        }
    }

    /// Bytes that are almost a header: a row with a few bytes changed, or cut short.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        let rows: Vec<_> = table().into_iter().map(|(_, bytes, _)| bytes).collect();
        (prop::sample::select(rows), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4))
            .prop_map(|(mut bytes, changes)| {
                for (index, byte) in changes {
                    let index = index.index(bytes.len());
                    bytes[index] = byte;
                }
                bytes
            })
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic_or_take_too_much(
            bytes in prop_oneof![nearly(), prop::collection::vec(any::<u8>(), 0..700)],
            after in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let (outcome, taken) = read(&bytes);
            prop_assert!(taken <= LONGEST_V2);
            if let Ok(Step::Done(_)) = outcome {
                // The same bytes decide, whatever follows them.
                let more = [&bytes[..taken], &after[..]].concat();
                prop_assert_eq!(read(&more), (outcome, taken));
                prop_assert_eq!(step(&more), outcome);
            }
        }

        #[test]
        fn every_address_comes_through(client in any::<SocketAddr>(), here in any::<std::net::Ipv6Addr>()) {
            let expected = SocketAddr::new(client.ip().to_canonical(), client.port());
            let (header, family, body) = match client.ip() {
                IpAddr::V4(ip) => (format!("TCP4 {ip} 127.0.0.1"), 0x11, [ip.octets(), [127, 0, 0, 1]].concat()),
                IpAddr::V6(ip) => (format!("TCP6 {ip} {here}"), 0x21, [ip.octets(), here.octets()].concat()),
            };
            let one = format!("PROXY {header} {} 22\r\n", client.port());
            let two = v2(0x21, family, &[&body[..], &client.port().to_be_bytes(), &[0, 22]].concat());
            for bytes in [one.as_bytes(), &two] {
                prop_assert_eq!(read(bytes), (Ok(Step::Done(Announced::Client(expected))), bytes.len()));
            }
        }
    }
}
