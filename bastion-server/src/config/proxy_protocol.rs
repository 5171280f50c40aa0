//! Settings of the PROXY protocol: which load balancers may announce a client's address.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Network;

/// Whether load balancers announce the client's address by the PROXY protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The bastion ignores the PROXY protocol; the client's address is the peer's.
    #[default]
    Off,
    /// A trusted proxy may send a header; other peers connect without one.
    Optional,
    /// Only trusted proxies may connect, and each connection begins with a header.
    Required,
}

/// Which load balancers may announce the client's address by the PROXY protocol, versions 1 and 2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Written")]
#[schemars(with = "Written")]
pub struct ProxyProtocol {
    mode: Mode,
    trusted: Vec<IpNet>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = [
    {"properties": {"mode": {"const": "off"}}},
    {"required": ["trusted"], "properties": {"trusted": {"minItems": 1}}},
]))]
struct Written {
    /// Whether the bastion reads PROXY headers: `off`, `optional` or `required`. Default: `off`.
    mode: Mode,
    /// The networks of the load balancers whose headers are believed, for example `[10.0.0.0/8, "fd00::/8"]`.
    /// Default: none.
    #[serde(default)]
    #[schemars(with = "Vec<Network>")]
    trusted: Vec<IpNet>,
}

impl TryFrom<Written> for ProxyProtocol {
    type Error = &'static str;

    fn try_from(Written { mode, trusted }: Written) -> Result<Self, Self::Error> {
        if mode != Mode::Off && trusted.is_empty() {
            return Err(
                "no proxy is trusted to send a PROXY header; name the load balancer's networks in `trusted`",
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

impl ProxyProtocol {
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether `peer` is in one of the trusted networks.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&peer))
    }
}
