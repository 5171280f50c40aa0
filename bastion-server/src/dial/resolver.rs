//! From a host to all its addresses: those that the operator wrote down, or what the name servers say.
//!
//! Asks by itself instead of through the system's resolver, which would need a thread for each name that takes its time:
//! whoever asks for many such names would take the threads from everybody else. What it asks, whom, and in which order is what glibc's
//! `getaddrinfo` does with `hosts: files dns`; a test has both asked.

mod search;
mod servers;
mod system;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use thiserror::Error;
use tokio::time::timeout;

use crate::destination::{Host, Name};
use search::Search;
use servers::{Answer, Servers};
use system::System;

/// The most addresses of one name: about as many as an answer of DNS has room for, which has 64 KiB.
const MAX_ADDRESSES: usize = 4096;

/// Which servers are asked, and what is known without them.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Names that the operator gave addresses to, in lower case and without a final dot.
    pub hosts: HashMap<String, Vec<IpAddr>>,
    /// The name servers; if there are none here, those of `/etc/resolv.conf`, with its search list.
    pub servers: Vec<SocketAddr>,
    /// How long resolving a name may take.
    pub patience: Duration,
}

/// Resolves names.
pub struct Resolver {
    hosts: HashMap<String, Vec<IpAddr>>,
    names: Names,
    patience: Duration,
}

/// Who is asked.
enum Names {
    /// Those that the operator named. They know complete names only.
    Configured(Servers),
    /// Those of the system.
    System(Box<System>),
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("hosts", &self.hosts).finish_non_exhaustive()
    }
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
        let names = if servers.is_empty() {
            Names::System(Box::new(System::read(patience)?))
        } else {
            let servers = servers.into_iter().map(name_server).collect();
            let servers = Servers::new(servers, &ResolverOpts::default(), patience);
            Names::Configured(servers.map_err(|error| NoServers(error.to_string()))?)
        };
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

/// Asks for each complete name that a name may stand for, until one is found.
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
