//! Resolves a host to all its addresses: those of the configuration, or those of the name servers.
//!
//! The resolver sends queries itself. The system's resolver would need a thread for each slow name, and a
//! client that asks for many such names would take the threads from all other clients. The queries, their
//! servers and their order are those of glibc's `getaddrinfo` with `hosts: files dns`; a test compares both.

mod search;
mod servers;
mod system;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use thiserror::Error;
use tokio::time::timeout;

use crate::destination::{Host, Name};
use search::Search;
use servers::{Answer, Servers};
use system::System;

/// The most addresses of one name: about as many as fit into a DNS answer of 64 KiB.
const MAX_ADDRESSES: usize = 4096;

/// The servers to ask, and the names that need no server.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Names with addresses from the configuration, in lower case and without a final dot.
    pub hosts: HashMap<String, Vec<IpAddr>>,
    /// The name servers; without any, those of `/etc/resolv.conf`, with its search list.
    pub servers: Vec<SocketAddr>,
    /// The longest time for resolving a name.
    pub patience: Duration,
}

/// Resolves names to addresses.
pub struct Resolver {
    hosts: HashMap<String, Vec<IpAddr>>,
    names: Names,
    patience: Duration,
}

/// The source of names.
enum Names {
    /// The configured name servers, which are asked for complete names only.
    Configured(Servers),
    /// The system's files and name servers.
    System(Box<System>),
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// The system's settings name no usable server.
#[derive(Debug, Error)]
#[error(
    "cannot find the name servers to ask: {0}\n  Name them under `dns.servers`, or repair /etc/resolv.conf"
)]
pub struct NoServers(String);

/// Why a name has no usable addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ResolveError {
    /// The name has no address, or its servers do not answer properly.
    #[error("the name does not resolve")]
    Unresolved,
    /// The name has more addresses than the bastion checks.
    #[error("the name has more than {MAX_ADDRESSES} addresses")]
    TooMany,
    /// Resolving took too long.
    #[error("resolving the name took too long")]
    Timeout,
}

impl ResolveError {
    /// The reason code in logs, metrics and messages to clients.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unresolved => "unresolved",
            Self::TooMany => "too_many_addresses",
            Self::Timeout => "resolve_timeout",
        }
    }
}

impl Resolver {
    /// Reads the settings; sends no query.
    ///
    /// # Errors
    /// When the system's settings are needed and malformed.
    pub fn new(settings: Settings) -> Result<Self, NoServers> {
        let Settings { hosts, servers, patience } = settings;
        let names = if servers.is_empty() {
            Names::System(Box::new(System::read(patience)?))
        } else {
            let servers = servers.into_iter().map(name_server).collect();
            let servers = Servers::new(servers, &ResolverOpts::default(), patience);
            Names::Configured(servers.map_err(|error| NoServers(error.to_string()))?)
        };
        Ok(Self { hosts, names, patience })
    }

    /// Returns all addresses of a host, at least one.
    ///
    /// # Errors
    /// When there is none, or too many, or it takes too long.
    pub async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, ResolveError> {
        let name = match host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
        };
        if let Some(addresses) = self.hosts.get(name.as_str()) {
            return Ok(addresses.clone());
        }
        let mut addresses =
            timeout(self.patience, self.look_up(name)).await.map_err(|_| ResolveError::Timeout)??;
        let mut seen = HashSet::new();
        addresses.retain(|address| seen.insert(*address));
        if addresses.len() > MAX_ADDRESSES { Err(ResolveError::TooMany) } else { Ok(addresses) }
    }

    async fn look_up(&self, name: &Name) -> Result<Vec<IpAddr>, ResolveError> {
        match &self.names {
            Names::Configured(servers) => ask(servers, &Search::default(), name).await,
            Names::System(system) => {
                let system = system.now();
                let written = system.host(name);
                if written.is_empty() {
                    ask(&system.servers, &system.search, name).await
                } else {
                    Ok(written)
                }
            }
        }
    }
}

/// Asks for each complete name that a name may stand for, until one has an address.
async fn ask(servers: &Servers, search: &Search, name: &Name) -> Result<Vec<IpAddr>, ResolveError> {
    let (mut stopped, mut error) = (false, ResolveError::Unresolved);
    for step in search.steps(name) {
        if stopped && step.searched {
            continue;
        }
        match servers.ask(&step.name).await {
            Answer::Found(addresses) => return Ok(addresses),
            Answer::Missing | Answer::ServerFailed => {}
            Answer::Refused => stopped |= step.searched,
            Answer::Silent => {
                stopped |= step.searched;
                error = ResolveError::Timeout;
            }
        }
    }
    Err(error)
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let on_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![on_port(ConnectionConfig::udp()), on_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}
