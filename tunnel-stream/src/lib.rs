//! Carries forwarded TCP connections over SSH connections that come and go, and loses no byte of them.
//!
//! A *stream* is one forwarded TCP connection. A *carrier* is one SSH connection; it is disposable. An
//! *association* is everything between one client process and one bastion process: its streams outlive each
//! carrier, and go on where they stopped on the next one, after a fresh login. `PROTOCOL.md` has the bytes.
//!
//! All of it is pure: frames and moments in, frames and [`Event`]s out. No socket, clock, task or SSH is
//! known here.
//!
//! - [`frame`]: what travels on a carrier, and how it is encoded.
//! - [`Association`]: the streams of one end, what is to be sent next, and how they move to another carrier.
//! - [`proof`]: how a client proves on a new carrier that the streams are its own.
//! - `ring`: what was sent and is not acknowledged yet.
//! - `inbound`: what has arrived in order, and how much more may.
//! - `transit`: how much is under way on a carrier, and how much may be while a person is typing.

mod association;
pub mod frame;
mod inbound;
pub mod proof;
mod reason;
mod ring;
mod transit;

use std::{fmt, time::Duration};

pub use association::{
    Association, Attachment, Event, Limits, Outgoing, Refused, Role, StreamStatus, Violation,
};
pub use frame::{Frame, HEADER, MOST_DATA, Malformed, Request};
pub use reason::{Code, Reason};
pub use ring::Payload;

/// The version of the protocol that this crate speaks, and the oldest that it still understands.
pub const VERSION: u16 = 1;
/// See [`VERSION`].
pub const OLDEST_VERSION: u16 = 1;

/// The subsystem (RFC 4254 §6.5) that a client asks for on a session channel. A server that does not know it
/// refuses it without harm.
pub const SUBSYSTEM: &str = "streams@tunnel-suite.internal";

/// The word of the bastion's identification line (RFC 4253 §4.2) that announces the subsystem, with the
/// newest version.
const WORD: &str = "streams=";

/// A moment: the time since one that the caller has chosen, by a monotonic clock.
pub type Moment = Duration;

/// Names a stream in its association. Clients count up from 1, and use no number twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the bastion's identification line says to clients that know streams.
pub fn announcement() -> String {
    format!("{WORD}{VERSION}")
}

/// Whether a server's identification line announces a version that this end speaks. Those after it include
/// it.
pub fn is_announced(identification: &str) -> bool {
    let said = identification.split(' ').skip(1).find_map(|word| word.strip_prefix(WORD));
    said.and_then(|version| version.parse::<u16>().ok()).is_some_and(|newest| newest >= OLDEST_VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_numbers_that_both_ends_count_on() {
        let page = include_str!("../PROTOCOL.md");
        assert!(page.contains(SUBSYSTEM) && page.contains(&announcement().replace('1', "N")));
        for number in [
            frame::LONGEST as u64,
            MOST_DATA as u64,
            frame::MOST_STREAMS as u64,
            2 * frame::MOST_STREAMS as u64,
            inbound::FIRST_WINDOW,
            inbound::WINDOW,
            inbound::STEP,
            ring::MOST_FRAMES as u64,
            transit::RECEIPT,
            transit::LEAST,
            transit::MOST,
        ] {
            let mut digits = number.to_string();
            for from_the_end in [3, 7] {
                if digits.len() > from_the_end {
                    digits.insert(digits.len() - from_the_end, ',');
                }
            }
            assert!(page.contains(&digits), "{digits}");
        }
    }

    #[test]
    fn a_stream_prints_as_its_number() {
        assert_eq!(StreamId(7).to_string(), "7");
    }

    #[test]
    fn only_a_server_that_announces_streams_is_asked_for_them() {
        let line = format!("SSH-2.0-bastion_0.1.0 rekey=1,1 {}", announcement());
        assert!(is_announced(&line));
        assert!(
            is_announced("SSH-2.0-x streams=7"),
            "a newer server says in its greeting what it still speaks"
        );
        for stock in [
            "SSH-2.0-OpenSSH_9.2p1 Debian-2",
            "SSH-2.0-streams=1",
            "SSH-2.0-x streams=",
            "SSH-2.0-x streams=0",
        ] {
            assert!(!is_announced(stock), "{stock}");
        }
    }
}
