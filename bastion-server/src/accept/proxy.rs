//! Decides which peers may announce a client's address by the PROXY protocol, and reads what they announce.

pub(crate) mod header;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use super::refusal::Refused;
use crate::config::proxy_protocol::{Mode, ProxyProtocol};
use header::{Announced, Malformed, Step};

/// How long a header may take. The specification asks for more than three seconds, after which a lost segment
/// is sent again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a proxy that may send a header can be silent before it counts as a client that waits for the
/// server's identification.
const HESITATION: Duration = Duration::from_secs(2);

/// The origin of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientOrigin {
    pub(super) client: SocketAddr,
    /// Whether a trusted proxy says that it connects for itself.
    pub(super) is_proxys_own: bool,
}

/// A header that is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    is_required: bool,
}

/// Whether a connection from this peer begins with a header.
pub(super) fn expect(settings: &ProxyProtocol, peer: IpAddr) -> Result<Option<Header>, Refused> {
    match (settings.mode(), settings.trusts(peer)) {
        // If a client sends a header here, it is refused because it does not speak SSH.
        (Mode::Off, _) | (Mode::Optional, false) => Ok(None),
        (Mode::Optional, true) => Ok(Some(Header { is_required: false })),
        (Mode::Required, true) => Ok(Some(Header { is_required: true })),
        (Mode::Required, false) => Err(Refused::NoProxy),
    }
}

impl Header {
    /// Reads the header and no byte more. `None` when the proxy leaves without sending a byte, as some do for
    /// health checks.
    pub(super) async fn read(
        self,
        stream: &mut TcpStream,
        peer: SocketAddr,
    ) -> Result<Option<ClientOrigin>, Refused> {
        let without = Ok(Some(ClientOrigin { client: peer, is_proxys_own: false }));
        if !self.is_required {
            let mut first = [0];
            match timeout(HESITATION, stream.peek(&mut first)).await {
                Ok(Ok(1..)) if header::may_begin(&first) => {}
                Ok(Ok(0) | Err(_)) => return Ok(None),
                Ok(Ok(_)) | Err(_) => return without,
            }
        }
        let told = match timeout(PATIENCE, told(stream)).await {
            Ok(told) => told,
            Err(_) => return Err(Refused::HeaderLate),
        };
        match told {
            Ok(Announced::Client(client)) => Ok(Some(ClientOrigin { client, is_proxys_own: false })),
            Ok(Announced::Nothing) => Ok(Some(ClientOrigin { client: peer, is_proxys_own: true })),
            Err(Broken::Silent) => Ok(None),
            Err(Broken::Malformed(malformed)) => Err(Refused::Header(malformed)),
        }
    }
}

enum Broken {
    /// The proxy left before it sent a byte.
    Silent,
    Malformed(Malformed),
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Silent
    }
}

async fn told(stream: &mut TcpStream) -> Result<Announced, Broken> {
    let mut bytes = Vec::with_capacity(128);
    loop {
        match header::step(&bytes).map_err(Broken::Malformed)? {
            Step::Done(told) => return Ok(told),
            Step::More(more) => {
                let limit = u64::try_from(more).unwrap_or(1);
                match stream.take(limit).read_buf(&mut bytes).await? {
                    0 if bytes.is_empty() => return Err(Broken::Silent),
                    0 => return Err(Broken::Malformed(Malformed::Form)),
                    _ => {}
                }
            }
        }
    }
}
