//! Whose word about a client's address is taken, and how it is read.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use super::refusal::Refused;
use crate::config::Network;
use crate::proxy_header::{self, Malformed, Step, Told};

/// How long a header may take. The specification asks for more than three seconds, which is when a lost segment is sent
/// again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a proxy that may send a header may be silent before it is taken for a client that waits for our first word.
const HESITATION: Duration = Duration::from_secs(2);

/// Whether proxies tell the client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nobody's header is believed.
    #[default]
    Off,
    /// A trusted proxy may send one, and others may connect without.
    Optional,
    /// Only trusted proxies may connect, and each connection begins with one.
    Required,
}

/// Who may tell the client's address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Settings")]
#[schemars(with = "Settings")]
pub struct Proxies {
    mode: Mode,
    trusted: Vec<IpNet>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = [
    {"properties": {"mode": {"const": "off"}}},
    {"required": ["trusted"], "properties": {"trusted": {"minItems": 1}}},
]))]
struct Settings {
    /// Whether anybody does.
    mode: Mode,
    /// The networks of those who may.
    #[serde(default)]
    #[schemars(with = "Vec<Network>")]
    trusted: Vec<IpNet>,
}

impl TryFrom<Settings> for Proxies {
    type Error = &'static str;

    fn try_from(Settings { mode, trusted }: Settings) -> Result<Self, Self::Error> {
        if mode != Mode::Off && trusted.is_empty() {
            return Err(
                "nobody is trusted to send a PROXY header; name the load balancer's networks in `trusted`",
            );
        }
        if trusted.iter().any(|network| network.trunc() != *network) {
            return Err(
                "a network in `trusted` has bits set behind its prefix; write 10.0.0.0/8, not 10.1.2.3/8",
            );
        }
        Ok(Self { mode, trusted })
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) client: SocketAddr,
    /// Whether a trusted proxy says that it speaks for itself.
    pub(super) is_proxys_own: bool,
}

/// A header that is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    is_required: bool,
}

impl Proxies {
    /// Whether a connection from there begins with a header.
    pub(super) fn expect(&self, peer: IpAddr) -> Result<Option<Header>, Refused> {
        let is_trusted = self.trusted.iter().any(|network| network.contains(&peer));
        match (self.mode, is_trusted) {
            // Whoever sends a header all the same does not speak SSH, and is refused for that.
            (Mode::Off, _) | (Mode::Optional, false) => Ok(None),
            (Mode::Optional, true) => Ok(Some(Header { is_required: false })),
            (Mode::Required, true) => Ok(Some(Header { is_required: true })),
            (Mode::Required, false) => Err(Refused::NoProxy),
        }
    }
}

impl Header {
    /// Reads it, and not a byte more. `None` when the proxy leaves without a word, as some do to see whether anybody is
    /// here.
    pub(super) async fn read(
        self,
        stream: &mut TcpStream,
        peer: SocketAddr,
    ) -> Result<Option<Arrival>, Refused> {
        let without = Ok(Some(Arrival { client: peer, is_proxys_own: false }));
        if !self.is_required {
            let mut first = [0];
            match timeout(HESITATION, stream.peek(&mut first)).await {
                Ok(Ok(1..)) if proxy_header::may_begin(&first) => {}
                Ok(Ok(0) | Err(_)) => return Ok(None),
                Ok(Ok(_)) | Err(_) => return without,
            }
        }
        let told = match timeout(PATIENCE, told(stream)).await {
            Ok(told) => told,
            Err(_) => return Err(Refused::HeaderLate),
        };
        match told {
            Ok(Told::Client(client)) => Ok(Some(Arrival { client, is_proxys_own: false })),
            Ok(Told::Nothing) => Ok(Some(Arrival { client: peer, is_proxys_own: true })),
            Err(Broken::Silent) => Ok(None),
            Err(Broken::Malformed(malformed)) => Err(Refused::Header(malformed)),
        }
    }
}

enum Broken {
    /// The proxy left before it said anything.
    Silent,
    Malformed(Malformed),
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Silent
    }
}

async fn told(stream: &mut TcpStream) -> Result<Told, Broken> {
    let mut bytes = Vec::with_capacity(128);
    loop {
        match proxy_header::step(&bytes).map_err(Broken::Malformed)? {
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
