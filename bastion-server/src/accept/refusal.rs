//! Refuses connections before SSH begins, and tells the client's user why.
//!
//! Hardly any client shows a line before the server's identification (RFC 4253 §4.2). But clients show a
//! disconnect message, which need not wait for a key exchange: right after the identification line it is sent
//! as a plain packet, a hundred bytes that are the same for every client. The message holds nothing that the
//! network may not see. The handler reports what concerns a certificate, after the key exchange.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};

use crate::{accept::proxy::header::Malformed, limits::startups::Busy};

/// The most refused connections that are held open until the client has read the message. Beyond these the
/// message may be lost.
const HELD: usize = 64;
/// How long a refused connection is held, and how many bytes are read from it meanwhile. Closing a socket
/// with unread bytes sends a reset, which may overtake the message.
const HELD_FOR: Duration = Duration::from_secs(1);
const READ_MEANWHILE: u64 = 4096;

/// SSH_MSG_DISCONNECT and SSH_DISCONNECT_TOO_MANY_CONNECTIONS (RFC 4253 §11.1).
const DISCONNECT: u8 = 1;
const TOO_MANY_CONNECTIONS: u32 = 12;

/// Why a connection is refused before SSH begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// There are too many sessions.
    #[error("too many connections; try again in a moment")]
    Sessions,
    /// The throttle refuses the source.
    #[error(transparent)]
    Busy(Busy),
    /// A PROXY header is required, and the peer is not a trusted proxy.
    #[error("connections are taken from load balancers only; connect to their address")]
    NoProxy,
    /// The proxy sent a malformed header.
    #[error("{0}")]
    Header(Malformed),
    /// The proxy sent no complete header in time.
    #[error("the PROXY header did not come in time")]
    HeaderLate,
}

impl Refused {
    /// The reason code in metrics, logs and messages.
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

    /// The setting that refuses the connection.
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
        // At least four bytes of padding, up to a multiple of eight.
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
    /// Sends the message, and closes the connection, without delaying other connections.
    pub(super) fn say(&self, mut stream: TcpStream, refused: &Refused) {
        // The socket is new, so its buffer has room; if not, the message is lost.
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
