//! Why a connection is turned away at the acceptor, and how its user gets to read it.
//!
//! A line before the server's identification (RFC 4253 §4.2) is shown by hardly any client. A disconnect message is,
//! and it need not wait for a key exchange: right after the identification line it goes as a plain packet, for the
//! price of a hundred bytes that are the same for everybody. It holds nothing
//! that the network may not see. What concerns a certificate is said after the key exchange, by the handler.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};

use crate::{accept::proxy::header::Malformed, limits::startups::Busy};

/// Refused connections that are held until the client has read why. Beyond these it may be lost.
const HELD: usize = 64;
/// For how long, and how much of what the client sends meanwhile is read. A socket that is closed with bytes unread
/// ends in a reset, which may overtake the message.
const HELD_FOR: Duration = Duration::from_secs(1);
const READ_MEANWHILE: u64 = 4096;

/// SSH_MSG_DISCONNECT and SSH_DISCONNECT_TOO_MANY_CONNECTIONS (RFC 4253 §11.1).
const DISCONNECT: u8 = 1;
const TOO_MANY_CONNECTIONS: u32 = 12;

/// Why a connection does not get as far as SSH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// There are too many.
    #[error("too many connections; try again in a moment")]
    Sessions,
    /// The throttle says so.
    #[error(transparent)]
    Busy(Busy),
    /// A header is required, and this is no proxy that could send one.
    #[error("connections are taken from load balancers only; connect to their address")]
    NoProxy,
    /// A proxy sent something else.
    #[error("{0}")]
    Header(Malformed),
    /// A proxy sent nothing, or not all of it.
    #[error("the PROXY header did not come in time")]
    HeaderLate,
}

impl Refused {
    /// The stable name of this reason in metrics, logs and messages.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Busy(busy) => busy.code(),
            Self::NoProxy => "proxy_required",
            Self::Header(Malformed::Absent) => "proxy_header_absent",
            Self::Header(Malformed::TooLong) => "proxy_header_too_long",
            Self::Header(Malformed::Family) => "proxy_header_family",
            Self::Header(Malformed::Form) => "proxy_header_malformed",
            Self::HeaderLate => "proxy_header_late",
        }
    }

    /// The setting behind it.
    pub(super) fn setting(self) -> &'static str {
        match self {
            Self::Sessions => "limits.max_sessions",
            Self::Busy(busy) => busy.setting(),
            Self::NoProxy | Self::Header(_) | Self::HeaderLate => "proxy_protocol",
        }
    }

    /// An identification line, and a disconnect message in a plain packet (RFC 4253 §6).
    fn farewell(self) -> Vec<u8> {
        let text = format!("{}: {self}", self.code());
        let mut payload = vec![DISCONNECT];
        payload.extend(TOO_MANY_CONNECTIONS.to_be_bytes());
        for string in [text.as_str(), "en"] {
            payload.extend(u32::try_from(string.len()).unwrap_or(0).to_be_bytes());
            payload.extend(string.as_bytes());
        }
        // At least four bytes of it, up to a multiple of eight.
        let padding = 11 - (payload.len() % 8);
        let length = u32::try_from(1 + payload.len() + padding).unwrap_or(0);
        let mut bytes = super::IDENTIFICATION.as_bytes().to_vec();
        bytes.extend(b"\r\n");
        bytes.extend(length.to_be_bytes());
        bytes.extend(u8::try_from(padding));
        bytes.extend(payload);
        bytes.extend(std::iter::repeat_n(0, padding));
        bytes
    }
}

/// Tells refused clients why.
pub(super) struct DisconnectSender(Arc<Semaphore>);

impl Default for DisconnectSender {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(HELD)))
    }
}

impl DisconnectSender {
    /// Says why, and closes. Costs those who are let in nothing.
    pub(super) fn say(&self, mut stream: TcpStream, refused: &Refused) {
        // The socket is new, so there is room; if not, the client has other worries.
        let _ = stream.try_write(&refused.farewell());
        if let Ok(held) = Arc::clone(&self.0).try_acquire_owned() {
            tokio::spawn(async move {
                let _ = stream.shutdown().await;
                let mut rest = stream.take(READ_MEANWHILE);
                let _ = timeout(HELD_FOR, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
                drop(held);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_farewell_is_a_whole_packet() {
        let refusals = [
            Refused::Sessions,
            Refused::Busy(Busy::Total),
            Refused::Busy(Busy::Source),
            Refused::Busy(Busy::Rate),
            Refused::Busy(Busy::Penalized { remaining: Duration::from_secs(5) }),
            Refused::NoProxy,
            Refused::Header(Malformed::Form),
            Refused::HeaderLate,
        ];
        for refused in refusals {
            let bytes = refused.farewell();
            let line = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            assert!(bytes.starts_with(b"SSH-2.0-") && bytes[..line].ends_with(b"\r\n"));
            let packet = &bytes[line..];
            let length = u32::from_be_bytes(packet[..4].try_into().unwrap());
            assert_eq!(packet.len(), 4 + length as usize);
            assert_eq!(packet.len() % 8, 0);
            let padding = usize::from(packet[4]);
            assert!((4..=11).contains(&padding));
            let text = String::from_utf8_lossy(&packet[14..packet.len() - padding - 6]).into_owned();
            assert_eq!(text, format!("{}: {refused}", refused.code()));
        }
    }
}
