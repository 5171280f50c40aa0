//! Settings of the PROXY protocol: which load balancers may announce a client's address.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Network;

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
    /// Whether anybody does.
    mode: Mode,
    /// The networks of those who may.
    #[serde(default)]
    #[schemars(with = "Vec<Network>")]
    trusted: Vec<IpNet>,
}

impl TryFrom<Written> for ProxyProtocol {
    type Error = &'static str;

    fn try_from(Written { mode, trusted }: Written) -> Result<Self, Self::Error> {
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

impl ProxyProtocol {
    /// Whether headers are read.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether `peer` is in one of the trusted networks.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&peer))
    }
}
