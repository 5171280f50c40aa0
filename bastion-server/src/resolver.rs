//! From a host to all its addresses: those that the operator wrote down, or what the name servers say.
//!
//! Asks by itself instead of through the system's resolver, which would need a thread for each name that takes its time:
//! whoever asks for many such names would take the threads from everybody else.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use thiserror::Error;
use tokio::time::timeout;

use crate::access::Host;

/// The most addresses of one name.
const MAX_ADDRESSES: usize = 16;
/// The longest that an answer is kept, whatever its own word. What moves is found soon; what was checked stays checked,
/// since only addresses that were in the same answer are connected to.
const LONGEST_KEPT: Duration = Duration::from_secs(30);

/// Which servers are asked, and what is known without them.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Names that the operator gave addresses to, in lower case.
    pub hosts: HashMap<String, Vec<IpAddr>>,
    /// The name servers; if there are none here, those of `/etc/resolv.conf`, with its search list.
    pub servers: Vec<SocketAddr>,
    /// How long resolving a name may take.
    pub patience: Duration,
}

/// Resolves names.
#[derive(Debug)]
pub struct Resolver {
    hosts: HashMap<String, Vec<IpAddr>>,
    names: TokioResolver,
    patience: Duration,
}

/// Why there is no resolver.
#[derive(Debug, Error)]
#[error(
    "cannot tell which name servers to ask: {0}\n  Name them under `dns.servers`, or mend /etc/resolv.conf"
)]
pub struct NoServers(String);

/// Why there are no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ResolveError {
    /// The name has none, or its servers do not answer in order.
    #[error("the name does not resolve")]
    Unresolved,
    /// The name has more than can be looked at.
    #[error("the name has more than {MAX_ADDRESSES} addresses")]
    TooMany,
    /// It took too long.
    #[error("resolving the name took too long")]
    Timeout,
}

impl ResolveError {
    /// The reason as logs, metrics and clients know it.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unresolved => "unresolved",
            Self::TooMany => "too_many_addresses",
            Self::Timeout => "resolve_timeout",
        }
    }
}

impl Resolver {
    /// Reads which servers to ask; asks nothing.
    ///
    /// # Errors
    /// When the system's settings are to be used and make no sense.
    pub fn new(settings: Settings) -> Result<Self, NoServers> {
        let Settings { hosts, servers, patience } = settings;
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(|error| NoServers(error.to_string()))?
        } else {
            let servers = servers.into_iter().map(name_server).collect();
            let config = ResolverConfig::from_name_servers(servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        // All of them: what is not looked at could hide a forbidden address.
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.positive_max_ttl = Some(LONGEST_KEPT);
        options.negative_max_ttl = Some(LONGEST_KEPT);
        let names = builder.build().map_err(|error| NoServers(error.to_string()))?;
        Ok(Self { hosts, names, patience })
    }

    /// All the addresses of a host, at least one.
    ///
    /// # Errors
    /// When there are none, or too many, or it takes too long.
    pub async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, ResolveError> {
        let name = match host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
        };
        if let Some(addresses) = self.hosts.get(name) {
            return Ok(addresses.clone());
        }
        let found = timeout(self.patience, self.names.lookup_ip(name.as_str()))
            .await
            .map_err(|_| ResolveError::Timeout)?
            .map_err(|_| ResolveError::Unresolved)?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in found.iter() {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        match addresses.len() {
            0 => Err(ResolveError::Unresolved),
            1..=MAX_ADDRESSES => Ok(addresses),
            _ => Err(ResolveError::TooMany),
        }
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let on_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![on_port(ConnectionConfig::udp()), on_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}
